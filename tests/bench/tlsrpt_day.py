"""The time to make reports from a day of TLS results, from the database to the saved reports.

Every policy domain's TLSRPT record is queried in DNS, as in production. One domain in ten is under DANE, with its mail
at one of few hosts, which get their own reports. Nothing is sent: the mail server is busy.
"""

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from mtasts_daemon.dns.resolver import DnsResolver
from mtasts_daemon.text import utc_day
from mtasts_daemon.tlsrpt.database.connection import open_database
from mtasts_daemon.tlsrpt.database.outbox import DeliveryProgress, Outbox
from mtasts_daemon.tlsrpt.model.delivery_result import DeliveryResult, Result
from mtasts_daemon.tlsrpt.model.event import parse_datagram
from mtasts_daemon.tlsrpt.model.tally import Tally
from mtasts_daemon.tlsrpt.send.deliverer import Deliverer
from mtasts_daemon.tlsrpt.send.https_delivery import HttpsDelivery
from mtasts_daemon.tlsrpt.send.planner import DeliverySettings, Planner
from mtasts_daemon.tlsrpt.send.smtp_delivery import SmtpServer
from tests.bench.figures import Figure
from tests.bench.names import ORIGIN, REPORTED, REPORTED_HOSTS
from tests.bench.processes import Measured

__all__ = ["DOMAINS", "datagram", "reported_day"]

DOMAINS = 50_000
_HOSTERS = 250
_NOW = 1_790_000_000.0
_CORES = frozenset(range(os.cpu_count() or 1))


def datagram(number: int) -> bytes:
    """Return a datagram for a session with one of 50,000 domains with MTA-STS; one in twenty fails."""
    domain = _domain(number)
    strings = ["version: STSv1", "mode: enforce", f"mx: mx1.{domain}", f"mx: mx2.{domain}", "max_age: 604800"]
    policy = {"policy-type": 2, "policy-domain": domain, "policy-string": strings}
    return _event(number, policy | {"mx-host": [f"mx1.{domain}", f"mx2.{domain}"]})


def _of_the_day(number: int) -> bytes:
    """Return a datagram, with one domain in ten under DANE."""
    if number % DOMAINS % 10 != 7:
        return datagram(number)
    host = f"mx{number % DOMAINS // 10 % _HOSTERS}.{REPORTED_HOSTS}"
    return _event(number, {"policy-type": 1, "policy-domain": host, "policy-string": [f"3 1 1 {'1F85' * 16}"]})


def _domain(number: int) -> str:
    return f"domain-{number % DOMAINS}.{REPORTED}"


def _event(number: int, policy: dict[str, object]) -> bytes:
    domain, failed = _domain(number), number % 20 == 0
    if failed:
        ehlo = f"250-mx1.{domain} at your service\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250 STARTTLS"
        detail = {"c": 205, "s": "192.0.2.1", "n": f"mx1.{domain}", "h": ehlo, "r": "198.51.100.7"}
        policy["failure-details"] = [detail | {"f": "self-signed_certificate"}]
    policy |= {"t": int(failed), "f": int(failed)}
    event = {"dpv": "1", "d": domain, "pr": f"v=TLSRPTv1; rua=mailto:tls@{ORIGIN}", "policies": [policy]}
    return json.dumps(event).encode()


def reported_day(folder: Path, events: int, dns: int) -> Iterator[Figure]:
    """Add a day's events, then make and save the reports in a separate process; ``dns`` is the server's port."""
    path = folder / "tlsrpt.sqlite"
    database = open_database(path, now=_NOW)
    begun = time.monotonic()
    for start in range(0, events, 5000):
        tally = Tally(utc_day(_NOW))
        for number in range(start, min(start + 5000, events)):
            tally.add(parse_datagram(_of_the_day(number * 7)))
        database.add(tally)
    took = time.monotonic() - begun
    database.close_now()
    yield Figure(f"day: {events:,} events added", events / took, "events/s", note=f"{path.stat().st_size >> 20} MiB")
    with Measured(["tests.bench.tlsrpt_day", str(path), str(dns)], folder / "report.log", _CORES) as process:
        made = json.loads(process.line())
    asked = f"{made['asked']:,} DNS questions, {made['cpu']:.1f} s CPU"
    note = f"{made['sessions']:,} sessions, {made['reports']:,} reports of {made['octets'] >> 20} MiB; {asked}"
    yield Figure("day: planned, made, kept to be sent", made["seconds"], "s", 60, at_most=True, note=note)
    yield Figure("day: most memory meanwhile", made["peak"], "MiB", 300, at_most=True)


class _Tomorrow:
    """A clock at the time when the whole day is due."""

    def wall(self) -> float:
        return _NOW + 2 * 86400.0

    def monotonic(self) -> float:
        return time.monotonic()


def _busy(_server: SmtpServer, _sender: str, _to: str, _mail: bytes) -> DeliveryResult:
    return DeliveryResult(Result.DEFERRED, "busy", host=True)


async def report(path: str, dns: int) -> None:
    """Plan, make and save the due reports. Print their number, the time and the CPU used."""
    clock, database = _Tomorrow(), open_database(path, now=_NOW)
    resolver = DnsResolver([("127.0.0.1", dns)])
    address = f"tls@{ORIGIN}"
    planner = Planner(database, resolver, clock, DeliverySettings("Bench", address, address))
    deliverer = Deliverer(database, planner, HttpsDelivery(resolver, clock), clock, submit=_busy)
    begun = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        await deliverer.round(tasks)
    seconds, cpu = time.monotonic() - begun, time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    became: DeliveryProgress = await Outbox(database).progress(utc_day(_NOW), None, clock.wall())
    ((octets,),) = await database.read(lambda one: one.execute("SELECT sum(length(body)) FROM report").fetchall())
    totals = {"reports": became.reported, "sessions": (await database.days())[0].sessions, "octets": octets}
    if became.waiting or became.skipped:
        raise RuntimeError(f"not all was reported: {became}")
    asked = sum(resolver.counters.queries.values())
    print(json.dumps(totals | {"seconds": seconds, "peak": peak, "cpu": cpu, "asked": asked}), flush=True)
    await database.close()


if __name__ == "__main__":
    asyncio.run(report(sys.argv[1], int(sys.argv[2])))
