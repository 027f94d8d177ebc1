"""Bench: received reports per second, from files and by LMTP with DKIM.

    python -m tests.bench.received files|lmtp [--count N]

Prints one JSON object. Everything stays on this host.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import smtplib
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mtasts_daemon.tlsrpt.receive.file_import import FileImport
from mtasts_daemon.tlsrpt.receive.intake import Intake, IntakeSettings
from mtasts_daemon.tlsrpt.receive.lmtp import LmtpServer
from mtasts_daemon.tlsrpt.receive.sqlite_backend import open_sqlite
from mtasts_daemon.tlsrpt.receive.thread import ReceiveThread
from tests.tlsrpt.receive import corpus

DOMAINS = 100
REPORTERS = 28
SETTINGS = IntakeSettings(frozenset(f"d{n}.example" for n in range(DOMAINS)), quota=1 << 40)


def content(number: int, day: str = "") -> dict[str, Any]:
    """Return a report of the size of Google's: one policy, a failure in every tenth."""
    domain = f"d{number % DOMAINS}.example"
    day = day or (datetime.now(UTC) - timedelta(days=1 + number // DOMAINS % 30)).strftime("%Y-%m-%d")
    policy = corpus.policy(policy={"policy-type": "sts", "policy-domain": domain, "mx-host": ["mx1.example.com"]})
    if number % 10:
        policy = policy | {"summary": {"total-successful-session-count": 50, "total-failure-session-count": 0}}
        del policy["failure-details"]
    return corpus.report(
        **{
            "date-range": {"start-datetime": f"{day}T00:00:00Z", "end-datetime": f"{day}T23:59:59Z"},
            "report-id": f"{day}-{number}",
            "policies": [policy],
        }
    )


async def lookup(_name: str) -> Sequence[bytes]:
    return (corpus.key_record(),)


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def files(folder: Path, count: int) -> dict[str, Any]:
    """Import files without DKIM."""
    source = folder / "files"
    source.mkdir()
    for number in range(count):
        (source / f"{number}.json.gz").write_bytes(corpus.packed(content(number)))
    database = open_sqlite(str(folder / "received.sqlite"), time.time, print)

    async def run() -> tuple[float, float]:
        intake = Intake(database, SETTINGS, lookup, time.time)
        began, used = time.perf_counter(), time.process_time()
        counts = await FileImport(intake, database, time.time, trusted=True).run([source])
        assert counts.new == count, counts
        return time.perf_counter() - began, time.process_time() - used

    seconds, used = asyncio.run(run())
    database.close()
    return {
        "reports_per_second": round(count / seconds),
        "reports_per_cpu_second": round(count / used),
        "peak_mib": peak_mib(),
    }


def lmtp(folder: Path, count: int) -> dict[str, Any]:
    """Deliver signed mails by LMTP on four connections of another process, each acknowledged after its commit."""
    mails = [signed_mail(number) for number in range(count)]
    database = open_sqlite(str(folder / "received.sqlite"), time.time, print)
    thread = ReceiveThread()

    async def serve() -> LmtpServer:
        server = LmtpServer(Intake(database, SETTINGS, lookup, time.time))
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(folder / "lmtp.sock"))
        await server.start(sock)
        return server

    server = thread.submit(serve()).result()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(os.getpid)
        began, used = time.perf_counter(), time.process_time()
        pool.apply(deliver_all, (str(folder / "lmtp.sock"), mails))
        seconds, used = time.perf_counter() - began, time.process_time() - used

    def trusted(connection: Any) -> int:
        return int(connection.execute("SELECT COUNT(*) FROM document WHERE method = 'dkim'").fetchone()[0])

    stored = database.read(trusted)
    thread.submit(server.close()).result()
    thread.stop()
    database.close()
    return {
        "reports_per_second": round(count / seconds),
        "reports_per_cpu_second": round(count / used),
        "dkim": stored,
        "peak_mib": peak_mib(),
    }


def deliver_all(path: str, mails: list[bytes]) -> None:
    """Deliver the mails on four connections."""

    def client(share: list[bytes]) -> None:
        with smtplib.LMTP(path, 0, local_hostname="bench") as connection:
            for mail in share:
                assert connection.sendmail("a@reporter.example", ["b@example.com"], mail) == {}

    clients = [threading.Thread(target=client, args=(mails[n::4],)) for n in range(4)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()


def signed_mail(number: int) -> bytes:
    """Return a report mail with a signature of reporter.example."""
    return corpus.signed(corpus.mail(corpus.packed(content(number)), domain=f"d{number % DOMAINS}.example"))


def main() -> int:
    """Run one of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("files", "lmtp"))
    parser.add_argument("--count", type=int)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="received-bench-") as name:
        run, usual = {"files": (files, 10_000), "lmtp": (lmtp, 2000)}[args.what]
        sys.stdout.write(json.dumps(run(Path(name), args.count or usual)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
