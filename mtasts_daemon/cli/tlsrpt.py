"""``mtastsctl tlsrpt``: show collected TLS results, preview and send reports, import the log of an older Postfix.

The verbs open the database next to the running daemon, so they need root or the daemon's user.
"""

import argparse
import importlib
import os
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from . import receive
from .command_line import Verbs, count
from .output import print_error, print_json, print_out, print_problems, table

if TYPE_CHECKING:
    from pathlib import Path

    from ..config import Config
    from ..tlsrpt.database.connection import DayRows, TlsrptDatabase

    Verb = Callable[[argparse.Namespace, Config, TlsrptDatabase], Coroutine[Any, Any, int]]

__all__ = ["day", "register", "sessions"]

NOT_FOUND = 1


def register(verbs: Verbs, configured: argparse.ArgumentParser) -> None:
    """Add the verbs to the command line."""
    parser = verbs.add_parser("tlsrpt", help="show collected TLS results, preview and send TLS reports")
    parser.set_defaults(command=lambda _args: parser.error("a command is needed: mtastsctl help tlsrpt"))
    _add_verbs(parser.add_subparsers(metavar="COMMAND"), configured)


def _add_verbs(below: Verbs, configured: argparse.ArgumentParser) -> None:

    def verb(name: str, run: "Verb", description: str, *, writes: bool = False) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = below.add_parser(name, parents=[configured], help=description)
        added.set_defaults(command=lambda args: _run(args, run, writes=writes))
        added.add_argument("--json", action="store_true", help="print JSON")
        return added

    verb("status", _late("tlsrpt_reports", "status"), "show collected results and their reports by day")
    show = verb("show", _show, "show the results of a day by domain, or all of one domain")
    show.add_argument("day", metavar="DAY", type=day, help="YYYY-MM-DD, today or yesterday, in UTC")
    show.add_argument("domain", metavar="DOMAIN", nargs="?", type=domain, help="a policy domain")
    preview = verb(
        "preview",
        _late("tlsrpt_reports", "preview"),
        "print a report as it was or would be sent; --json prints it exactly",
    )
    preview.add_argument("day", metavar="DAY", type=day, help="YYYY-MM-DD, today or yesterday, in UTC")
    preview.add_argument("domain", metavar="DOMAIN", type=domain, help="a policy domain")
    send = verb(
        "send", _late("tlsrpt_reports", "send"), "send the reports of a past day that were not sent yet", writes=True
    )
    send.add_argument("day", metavar="DAY", type=day, help="YYYY-MM-DD or yesterday, in UTC")
    send.add_argument("domain", metavar="DOMAIN", nargs="?", type=domain, help="a policy domain")
    send.add_argument("--dry-run", action="store_true", help="only print the recipients")
    _suppress_arguments(
        verb(
            "suppress",
            _late("tlsrpt_reports", "suppress"),
            "list, add or remove addresses that get no reports",
            writes=True,
        )
    )
    verb(
        "bounce",
        _late("tlsrpt_reports", "bounce"),
        "read a delivery status notification from standard input",
        writes=True,
    )
    receive.register(below, configured)
    _log_arguments(
        verb(
            "import-log",
            _late("tlsrpt_log", "import_log"),
            "collect results from the log of a Postfix without TLSRPT",
            writes=True,
        )
    )


def _suppress_arguments(suppress: argparse.ArgumentParser) -> None:
    suppress.add_argument("action", choices=("list", "add", "remove"))
    suppress.add_argument("uri", metavar="ADDRESS", nargs="?", help="mailto:... or https://..., as in the record")
    suppress.add_argument("--days", metavar="N", type=count(1, 3660), default=30, help="default: %(default)s")
    suppress.add_argument("--reason", metavar="TEXT", default="by hand", help="note for later readers")


def _log_arguments(log: argparse.ArgumentParser) -> None:
    log.add_argument("file", metavar="FILE", nargs="?", default="-", help="the log; - is standard input (default)")
    log.add_argument(
        "--follow",
        action="store_true",
        help="keep reading, across rotations; start at the end of a new log",
    )
    log.add_argument("--again", action="store_true", help="read the whole log, including lines counted before")
    log.add_argument("--smarthost", metavar="HOST", action="append", default=[], help="ignore mail delivered to HOST")


def day(text: str) -> str:
    """Return a UTC day as YYYY-MM-DD."""
    today = datetime.now(UTC).date()
    named = {"today": today, "yesterday": today - timedelta(days=1)}
    try:
        found = named.get(text) or datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!a} is not a day; write YYYY-MM-DD, today or yesterday") from None
    return found.isoformat()


def domain(text: str) -> str:
    """Return the policy domain in a domain, e-mail address or URL."""
    from ..policy.user_input import parse_user_domain

    try:
        return parse_user_domain(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!a} is not a domain: {error}") from None


# -- the database ------------------------------------------------------------------------------------------


def _run(args: argparse.Namespace, run: "Verb", *, writes: bool) -> int:
    import asyncio

    from ..config import ConfigProblems, load
    from ..errors import StoreError

    try:
        config = load(args.config, environ=os.environ)
    except ConfigProblems as error:
        return print_problems(error)
    path = config.tlsrpt.file(config.store.file(os.environ))
    try:
        path.stat()
        return asyncio.run(_with_database(args, config, path, run, writes))
    except FileNotFoundError as error:
        # Created by another user than the daemon's, the database would be unusable for the daemon.
        hint = ". The daemon creates it if tlsrpt.socket is set." if error.filename == str(path) else ""
        return print_error(os.EX_NOINPUT, f"{error.filename}: {error.strerror}{hint}")
    except StoreError as error:
        return print_error(os.EX_UNAVAILABLE, f"{path.parent}: {error.sentence}")
    except OSError as error:
        return print_error(os.EX_NOINPUT, f"{error.filename or path}: {error.strerror or error}")


async def _with_database(args: argparse.Namespace, config: "Config", path: "Path", run: "Verb", writes: bool) -> int:
    from ..tlsrpt.database.connection import Caps, open_database, open_database_read_only

    if writes:
        caps = Caps(failures=config.tlsrpt.max_failure_details)
        database = open_database(path, now=datetime.now(UTC).timestamp(), caps=caps, keep_damaged=True)
    else:
        database = open_database_read_only(path)
    try:
        return await run(args, config, database)
    finally:
        database.close_now()


def _late(module: str, name: str) -> "Verb":
    """Return a verb whose module is imported when it runs."""

    async def run(args: argparse.Namespace, config: "Config", database: "TlsrptDatabase") -> int:
        found: Verb = getattr(importlib.import_module(f".{module}", __package__), name)
        return await found(args, config, database)

    return run


# -- what was collected ------------------------------------------------------------------------------------


async def _show(args: argparse.Namespace, _config: "Config", database: "TlsrptDatabase") -> int:
    if args.domain is not None:
        return _show_domain(args, await database.day_rows(args.day, args.domain))
    rows: list[dict[str, Any]] = []
    after = ""
    while page := await database.day_pages(args.day, after):
        rows.extend(map(_summary, page))
        after = page[-1].domain
    if args.json:
        return print_json({"day": args.day, "domains": rows})
    if not rows:
        return print_error(NOT_FOUND, f"nothing was collected on {args.day}")
    titles = ("DOMAIN", "SESSIONS", "FAILED", "DETAILS", "POLICIES")
    return print_out(table(titles, [(*[*row.values()][:4], " ".join(row["policies"])) for row in rows]))


def _summary(rows: "DayRows") -> dict[str, Any]:
    return {
        "domain": rows.domain,
        "sessions": sum(row.successful + row.failed for row in rows.policies),
        "failed": sum(row.failed for row in rows.policies),
        # Includes failures that only the daemon sees, so perhaps more than the failed sessions.
        "failures": sum(count for row in rows.policies for _, count in row.failures),
        "policies": sorted({row.policy.type.rfc_name for row in rows.policies}),
    }


def _show_domain(args: argparse.Namespace, rows: "DayRows") -> int:
    if args.json:
        return print_json(
            {"day": args.day, "domain": rows.domain, "policies": [_as_json(row) for row in rows.policies]}
        )
    if not rows.policies:
        return print_error(NOT_FOUND, f"nothing was collected for {rows.domain} on {args.day}")
    for row in rows.policies:
        about = "" if row.policy.domain == rows.domain else f" of {row.policy.domain}"
        print_out(f"{row.policy.type.rfc_name}{about}: {sessions(row.successful, row.failed)}")
        for line in row.policy.strings:
            print_out(f"  {line}")
        if row.failures:
            titles = ("  COUNT", "FAILURE", "REASON", "MX HOST", "ADDRESS")
            cells = [
                (f"  {count:,}", found.result_type, found.reason_code, found.mx_host, found.receiving_ip)
                for found, count in row.failures
            ]
            print_out(table(titles, cells))
    return os.EX_OK


def sessions(succeeded: int, failed: int) -> str:
    """Return the counts as a phrase."""
    return f"{succeeded:,} session{'' if succeeded == 1 else 's'} succeeded, {failed:,} failed"


def _as_json(row: Any) -> dict[str, Any]:
    policy = row.policy
    return {
        "type": policy.type.rfc_name,
        "domain": policy.domain,
        "strings": policy.strings,
        "mx_hosts": policy.mx_hosts,
        "successful": row.successful,
        "failed": row.failed,
        "failures": [
            {name: getattr(found, name) for name in found.__slots__ if getattr(found, name)} | {"count": count}
            for found, count in row.failures
        ],
    }
