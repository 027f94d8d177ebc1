"""``mtastsctl tlsrpt status, preview, send, suppress`` and ``bounce``."""

import argparse
import asyncio
import dataclasses
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ..clock import SystemClock
from ..config import Config
from ..daemon.wiring import resolver_for
from ..errors import ConfigError, DsnError, StoreError
from ..text import utc_day
from ..tlsrpt.database.connection import TlsrptDatabase
from ..tlsrpt.database.decisions import ReportDecision, ReportMade
from ..tlsrpt.database.outbox import DeliveryProgress as Sent
from ..tlsrpt.database.outbox import Outbox
from ..tlsrpt.database.suppression import Suppressions
from ..tlsrpt.model.dsn import MAX_DSN, parse_dsn
from ..tlsrpt.model.record import parse_rua
from ..tlsrpt.send.deliverer import SUPPRESSED_FOR, Deliverer
from ..tlsrpt.send.factory import SendingLock, deliverer_for
from .output import Progress, print_error, print_json, print_out, table
from .tlsrpt import sessions

__all__ = ["bounce", "preview", "send", "status", "suppress"]


@asynccontextmanager
async def _deliverer(config: Config, database: TlsrptDatabase) -> AsyncIterator[Deliverer]:
    """Open a deliverer that is not running yet. Raise ConfigError."""
    resolver = resolver_for(config)
    try:
        deliverer = deliverer_for(config, os.environ, database, resolver, SystemClock())
        try:
            yield deliverer
        finally:
            await deliverer.stop()
    finally:
        await resolver.close()


_STATES = {
    "waiting": "WAITING",
    "reported": "REPORTED",
    "skipped": "SKIPPED",
    "pending": "PENDING",
    "delivered": "DELIVERED",
    "refused": "REFUSED",
    "failed": "GIVEN UP",
    "suppressed": "SUPPRESSED",
}
"""The states of a day's domains (the first three) and of their reports by address."""


# -- status and preview -----------------------------------------------------------------------------------------------


async def status(args: argparse.Namespace, config: Config, database: TlsrptDatabase) -> int:
    """Print collected results and the states of their reports by day."""
    settings, outbox, now = config.tlsrpt, Outbox(database), time.time()
    missing = [name for name in ("organization", "contact", "sender") if getattr(settings, name) is None]
    days = [(found, await outbox.progress(found.day, None, now)) for found in await database.days()]
    if args.json:
        suppressed = await Suppressions(database).suppressions(now)
        shown = [{**found._asdict(), "reports": dataclasses.asdict(progress)} for found, progress in days]
        return print_json({"sending": not missing, "days": shown, "suppressed": len(suppressed)})
    if missing:
        print_error(0, f"no reports are sent: set {', '.join(f'tlsrpt.{name}' for name in missing)}")
    titles = ("DAY", "DOMAINS", "SESSIONS", "FAILED", *_STATES.values())
    return print_out(
        table(titles, [[*found, *(getattr(progress, name) for name in _STATES)] for found, progress in days])
    )


async def preview(args: argparse.Namespace, config: Config, database: TlsrptDatabase) -> int:
    """Print the report as it was or would be sent, and its recipients."""
    try:
        async with _deliverer(config, database) as deliverer:
            planner = deliverer.planner
            content = await planner.render_report(args.day, args.domain)
            (decision,) = [found async for found in planner.plan_day(args.day, args.domain)]
    except ConfigError as error:
        return print_error(os.EX_CONFIG, error.detail)
    if not planner.settings.may_send:
        print_error(0, "no reports are sent: set tlsrpt.organization, tlsrpt.contact and tlsrpt.sender")
    if args.json:
        return print_json(content)
    if not content["policies"]:
        return print_error(1, f"there is nothing to report to {args.domain} about {args.day}")
    print_out(f"report {content['report-id']} by {content['organization-name']} <{content['contact-info']}>")
    for line in _recipients(decision):
        print_out(f"to {line}" if line.startswith(("mailto:", "https:")) else line)
    for found in content["policies"]:
        _print_policy(found)
    return os.EX_OK


_NOT_SENT = {
    "excluded": "tlsrpt.exclude lists the domain",
    "no-record": "the domain has no _smtp._tls record",
    "nothing-collected": "nothing was collected",
    "no-failures": "no session failed, and tlsrpt.failures_only is set",
}


def _recipients(decision: ReportDecision) -> list[str]:
    """Return one line for each address, and one for each reason why there is none."""
    if isinstance(decision, ReportMade):
        found = [
            f"{one.uri}{f', suppressed: {one.suppressed}' if one.suppressed else ''}" for one in decision.deliveries
        ]
        return found + [f"ignored: {problem}" for problem in decision.problems]
    return [f"not sent: {_NOT_SENT.get(decision.reason, decision.reason)}"]


def _print_policy(found: dict[str, Any]) -> None:
    policy, sums = found["policy"], found["summary"]
    succeeded, failed = sums["total-successful-session-count"], sums["total-failure-session-count"]
    print_out(f"\n{policy['policy-type']} of {policy['policy-domain']}: {sessions(succeeded, failed)}")
    for line in policy.get("policy-string", ()):
        print_out(f"  {line}")
    details = found.get("failure-details")
    if details:
        keys = ("failed-session-count", "result-type", "failure-reason-code", "receiving-mx-hostname", "receiving-ip")
        titles = ("COUNT", "FAILURE", "REASON", "MX HOST", "ADDRESS")
        print_out(table(titles, [[one.get(key, "") for key in keys] for one in details]))


# -- sending -----------------------------------------------------------------------------------------------


async def send(args: argparse.Namespace, config: Config, database: TlsrptDatabase) -> int:
    """Send the reports of a day that were not sent yet, here or by the daemon, and print the result."""
    try:
        async with _deliverer(config, database) as deliverer:
            if args.dry_run:
                return await _would_send(args, database, deliverer)
            return await _send(args, config, deliverer)
    except ConfigError as error:
        return print_error(os.EX_CONFIG, error.detail)
    except ValueError as error:
        return print_error(os.EX_USAGE, str(error))


async def _would_send(args: argparse.Namespace, database: TlsrptDatabase, deliverer: Deliverer) -> int:
    rows: list[dict[str, str]] = []
    days = {found.day: found.domains for found in await database.days()}
    bar, asked = Progress("asking", 1 if args.domain else days.get(args.day, 0)), 0
    async for decision in deliverer.planner.plan_day(args.day, args.domain):
        rows += [{"domain": decision.domain, "to": where} for where in _recipients(decision)]
        bar.at(asked := asked + 1)
    bar.end()
    if args.json:
        return print_json({"day": args.day, "reports": rows})
    return print_out(table(("DOMAIN", "TO"), [[*row.values()] for row in rows]))


async def _send(args: argparse.Namespace, config: Config, deliverer: Deliverer) -> int:
    lock = SendingLock(config.tlsrpt.file(config.store.file(os.environ)))
    bar: Progress | None = None

    def shown(found: Sent) -> None:
        nonlocal bar
        left = found.waiting_due + found.pending_due
        if bar is None and left and running is None:
            print_error(0, "the daemon is sending them")
        bar = bar or Progress("sending", left)
        bar.at(max(bar.total - left, 0))

    # Two senders at once would send each report twice.
    running = asyncio.create_task(deliverer.run()) if lock.take() else None
    try:
        found = await deliverer.send(args.day, args.domain, progress=shown)
    finally:
        if bar is not None:
            bar.end()
        if running is not None:
            await deliverer.stop()
            await running
        lock.close()
    if args.json:
        print_json({"day": args.day, **dataclasses.asdict(found)})
    elif found == Sent():
        return print_error(1, f"there is nothing to send about {args.day}{f' to {args.domain}' if args.domain else ''}")
    else:
        print_out(table([*_STATES.values()], [[getattr(found, name) for name in _STATES]]))
    return os.EX_OK if not (found.pending or found.failed or found.waiting) else os.EX_TEMPFAIL


# -- addresses that get none -------------------------------------------------------------------------------


async def suppress(args: argparse.Namespace, _config: Config, database: TlsrptDatabase) -> int:
    """List, add or remove addresses that get no reports."""
    suppressions, now = Suppressions(database), time.time()
    if args.action == "list":
        found = await suppressions.suppressions(now)
        if args.json:
            return print_json([dataclasses.asdict(one) for one in found])
        return print_out(
            table(("ADDRESS", "UNTIL", "REASON"), [(one.uri, _date(one.until), one.reason) for one in found])
        )
    if args.uri is None:
        return print_error(os.EX_USAGE, f"suppress {args.action} needs an address, such as mailto:tls@example.com")
    try:
        uri = parse_rua(args.uri).uri
    except ValueError as error:
        return print_error(os.EX_USAGE, f"{args.uri!a} is not an address for reports: {error}")
    if args.action == "remove":
        return os.EX_OK if await suppressions.unsuppress(uri) else print_error(1, f"{uri} is not suppressed")
    until = now + args.days * 86400.0
    await suppressions.suppress(uri, args.reason, now, until)
    return print_error(os.EX_OK, f"{uri} gets no reports until {_date(until)}")


def _date(moment: float) -> str:
    return utc_day(moment)


async def bounce(_args: argparse.Namespace, _config: Config, database: TlsrptDatabase) -> int:
    """Read a delivery status notification from standard input."""
    try:
        found = parse_dsn(sys.stdin.buffer.read(MAX_DSN))
    except DsnError as error:
        # Postfix's pipe(8) returns such mail to its sender, which is right if a person wrote to the address.
        return print_error(os.EX_DATAERR, error.sentence)
    now = time.time()
    try:
        uri = await Suppressions(database).bounced(found, now, now + SUPPRESSED_FOR)
    except StoreError as error:
        return print_error(os.EX_TEMPFAIL, error.sentence)
    if uri is None:
        return print_error(os.EX_OK, "no such report (it may have expired)")
    outcome = "gets no reports for a while" if found.permanent else "keeps getting reports; the failure is temporary"
    return print_error(os.EX_OK, f"{uri} {outcome}: {found.status} {found.detail}".rstrip())
