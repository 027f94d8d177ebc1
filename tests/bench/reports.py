"""Received TLS reports: the rate of intake, and the latency of lookups meanwhile."""

import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from smtplib import LMTP

from tests.bench.checks import daemon_of, in_turns, servers_of
from tests.bench.figures import Figure
from tests.bench.processes import LOAD_CORES, on_cores
from tests.bench.received import DOMAINS, signed_mail
from tests.tlsrpt.receive import corpus
from tests.tlsrpt.receive.site import txt

__all__ = ["flood", "key_of_reporter", "lookups_during_reports", "receive_settings", "reports", "until"]

_CLIENTS = 2


def reports(by_lmtp: int, from_files: int) -> Iterator[Figure]:
    """Return reports per second by LMTP with DKIM, and from files."""
    for what, count, target in (("lmtp", by_lmtp, 200), ("files", from_files, 2000)):
        command = [sys.executable, "-m", "tests.bench.received", what, "--count", str(count)]
        found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        note = f"{found['reports_per_cpu_second']} a CPU second, {found['peak_mib']} MiB"
        yield Figure(f"reports received, {what}", found["reports_per_second"], "a second", target, note=note)


def lookups_during_reports(folder: Path, mails: int, seconds: float, turns: int) -> Iterator[Figure]:
    """Return the p99 of warm lookups during a flood of signed reports and without, measured in turns."""
    key_of_reporter(folder)
    socket = folder / "lmtp.sock"
    prepared = [signed_mail(number) for number in range(mails)]
    with (
        servers_of(folder, 200) as servers,
        daemon_of(folder, servers, receive_settings(socket, folder / "received.sqlite")) as daemon,
    ):
        until(socket.exists)
        yield in_turns(
            "receives reports", daemon.address, seconds, turns, lambda turn: flood(socket, prepared[turn::turns])
        )


def key_of_reporter(folder: Path) -> None:
    """Publish the key of the signatures in the DNS of ``check_servers``."""
    (folder / "records.json").write_text(json.dumps({"sel._domainkey.reporter.example": [txt(corpus.key_record())]}))


def receive_settings(socket: Path, database: Path) -> str:
    """Return the line of the configuration that receives reports about the bench's domains."""
    domains = ", ".join(f"d{number}.example" for number in range(DOMAINS))
    return (
        f'receive: {{own_domains: [{domains}], lmtp_socket: "{socket}", database: "{database}",'
        " max_reports_per_submitter: 10000000}"
    )


def until(what: Callable[[], bool]) -> None:
    """Wait until the condition holds. Raises ``RuntimeError`` after 30 seconds."""
    ending = time.monotonic() + 30
    while not what():
        if time.monotonic() > ending:
            raise RuntimeError("no report is received")
        time.sleep(0.01)


@contextmanager
def flood(socket: Path, mails: Sequence[bytes]) -> Iterator[list[int]]:
    """Deliver the mails repeatedly from separate processes; yield the number that was accepted, set at the end."""
    context = multiprocessing.get_context("spawn")
    count = context.Value("q", 0)
    with on_cores(LOAD_CORES):
        shares = [mails[at::_CLIENTS] for at in range(_CLIENTS)]
        clients = [context.Process(target=_deliver, args=(str(socket), share, count)) for share in shares]
        for client in clients:
            client.start()
    done = [0]
    try:
        until(lambda: count.value > 10)
        before = count.value
        yield done
        done[0] = count.value - before
    finally:
        for client in clients:
            client.terminate()
            client.join()


def _deliver(path: str, mails: Sequence[bytes], count: "Synchronized[int]") -> None:
    while True:
        with LMTP(path, 0, local_hostname="bench") as client:
            for mail in mails:
                client.sendmail("a@reporter.example", ["b@example.com"], mail)
                with count.get_lock():
                    count.value += 1
