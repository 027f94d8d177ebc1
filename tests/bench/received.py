"""Bench: received reports per second, from files and by LMTP with DKIM, and a large database.

    python -m tests.bench.received files|lmtp|large [--count N]

Prints one JSON object. Everything stays on this host.
"""

import argparse
import asyncio
import json
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

from mtasts_daemon.tlsrpt.receive.authentication import Authentication, AuthMethod
from mtasts_daemon.tlsrpt.receive.file_import import FileImport
from mtasts_daemon.tlsrpt.receive.intake import Intake, IntakeSettings
from mtasts_daemon.tlsrpt.receive.lmtp import LmtpServer
from mtasts_daemon.tlsrpt.receive.sqlite_backend import open_sqlite
from mtasts_daemon.tlsrpt.receive.summary import summary_job
from mtasts_daemon.tlsrpt.receive.thread import ReceiveThread
from mtasts_daemon.tlsrpt.receive.writes import Acceptance, accept
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


def lmtp(folder: Path, count: int, path: Path | None = None) -> dict[str, Any]:
    """Deliver signed mails by LMTP on four connections, each acknowledged after its commit."""
    mails = [_signed(number) for number in range(count)]
    database = open_sqlite(str(path or folder / "received.sqlite"), time.time, print)
    thread = ReceiveThread()

    async def serve() -> LmtpServer:
        server = LmtpServer(Intake(database, SETTINGS, lookup, time.time))
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(folder / "lmtp.sock"))
        await server.start(sock)
        return server

    server = thread.submit(serve()).result()

    def client(share: list[bytes]) -> None:
        with smtplib.LMTP(str(folder / "lmtp.sock"), 0, local_hostname="bench") as connection:
            for mail in share:
                assert connection.sendmail("a@reporter.example", ["b@example.com"], mail) == {}

    clients = [threading.Thread(target=client, args=(mails[n::4],)) for n in range(4)]
    began, used = time.perf_counter(), time.process_time()
    for one in clients:
        one.start()
    for one in clients:
        one.join()
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


def _signed(number: int) -> bytes:
    return corpus.signed(corpus.mail(corpus.packed(content(number)), domain=f"d{number % DOMAINS}.example"))


def large(folder: Path, count: int) -> dict[str, Any]:
    """Fill a database, then measure intake, a domain's year, and memory."""
    path = folder / "received.sqlite"
    database = open_sqlite(str(path), time.time, print)
    began, pending = time.perf_counter(), []
    text = corpus.dumps(content(1))
    for number in range(count):
        pending.append(database.submit(accept(_stored(number, text), lambda _domain: True)))
        if len(pending) > 512:
            pending.pop(0).result()
    for future in pending:
        future.result()
    filled = time.perf_counter() - began
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    since = (datetime.now(UTC) - timedelta(days=365)).strftime("%Y-%m-%d")
    times, year = [], 0
    for domain in ("d1.example", "d10.example", "d99.example"):
        began = time.perf_counter()
        found = database.read(summary_job(domain, since, today))
        times.append(round(1000 * (time.perf_counter() - began)))
        year = len(found.days)
    database.close()
    result = {
        "stored": count,
        "filled_per_second": round(count / filled),
        "year_ms": times,
        "year_days": year,
        "file_mib": path.stat().st_size >> 20,
        "peak_mib": peak_mib(),
    }
    return result | {"then_files": files(_below(folder, path), 2000), "then_lmtp": lmtp(folder, 500, path)}


def _below(folder: Path, path: Path) -> Path:
    """Return a folder with the large database."""
    below = folder / "more"
    below.mkdir()
    for suffix in ("", "-wal", "-shm"):
        if Path(f"{path}{suffix}").exists():
            os.link(f"{path}{suffix}", below / f"received.sqlite{suffix}")
    return below


def _stored(number: int, text: bytes) -> Acceptance:
    """Return a parsed report without parsing."""
    from mtasts_daemon.tlsrpt.receive.model import ReportSource
    from mtasts_daemon.tlsrpt.receive.parser import parse_report

    reporter = f"reporter{number // DOMAINS % REPORTERS}.example"
    ago = 1 + number // (DOMAINS * REPORTERS) % 365
    day = (datetime.now(UTC) - timedelta(days=ago)).strftime("%Y-%m-%d")
    report = parse_report(corpus.dumps(content(number, day)), now=time.time())
    verdict = Authentication(AuthMethod.DKIM, reporter)
    return Acceptance(report, verdict, ReportSource.LMTP, reporter, text, int(time.time()), reporter, 1 << 60)


def main() -> int:
    """Run one benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("files", "lmtp", "large"))
    parser.add_argument("--count", type=int)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="received-bench-") as name:
        run, usual = {"files": (files, 10_000), "lmtp": (lmtp, 2000), "large": (large, 1_000_000)}[args.what]
        sys.stdout.write(json.dumps(run(Path(name), args.count or usual)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
