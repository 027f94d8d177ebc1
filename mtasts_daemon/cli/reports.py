"""``mtastsctl reports``: what others report about the own domains.

Reads the database next to the running daemon, so as root or as the daemon's user.
"""

import argparse
import csv
import io
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..text import utc_day
from .output import escape, format_time, print_error, print_json, print_out, table
from .report_silences import silence_command
from .tlsrpt import day, domain

if TYPE_CHECKING:
    from ..config import Config
    from ..tlsrpt.receive.advice import ReportContext
    from ..tlsrpt.receive.database import ReportsDatabase
    from ..tlsrpt.receive.queries import ReportFilter, StoredReport

    Verb = Callable[[argparse.Namespace, Config, ReportsDatabase], int]

__all__ = ["csv_cell", "register"]

NOT_FOUND = 1
_DAY = 86400


def register(commands: "argparse._SubParsersAction[Any]", configured: argparse.ArgumentParser) -> None:
    """Add the verbs to the command line."""
    parser = commands.add_parser("reports", help="TLS reports of others about your domains")
    parser.set_defaults(command=lambda _args: parser.error("a command is needed"))
    verbs = parser.add_subparsers(metavar="COMMAND")

    def verb(name: str, run: "Verb", description: str, *, writes: bool = False) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = verbs.add_parser(
            name, parents=[configured], help=description, description=description
        )
        added.set_defaults(command=lambda args: _run(args, run, writes=writes))
        added.add_argument("--json", action="store_true", help="print JSON")
        return added

    listing = verb("list", _list, "list the reports, newest first; without options the domains, worst first")
    _filters(listing)
    show = verb("show", _show, "show a domain's days, reporters, failing hosts and advice, or one report")
    show.add_argument("what", metavar="DOMAIN|ID", help="a policy domain, or the id of a report")
    show.add_argument("--days", type=_days, default=30, help="days to show (default: %(default)s)")
    raw = verb("raw", _raw, "print a report as it was received")
    raw.add_argument("id", metavar="ID", type=_number, help="the id of the report")
    export = verb("export", _export, "print the reports as CSV, or with --json as JSON lines")
    _filters(export)
    forget = verb("forget", _forget, "remove all that is known about a domain", writes=True)
    forget.add_argument("domain", metavar="DOMAIN", type=domain, help="the policy domain")
    silence = verb("silence", silence_command, "list silences of alerts, add or remove one", writes=True)
    silence.add_argument("action", choices=("list", "add", "remove"))
    silence.add_argument("id", metavar="ID", type=_number, nargs="?", help="with remove: the id of the silence")
    silence.add_argument("--domain", metavar="DOMAIN", type=domain, help="alerts about this domain")
    silence.add_argument(
        "--kind", choices=("new-failure", "failed-share", "reporter-silent"), default="", help="alerts of this kind"
    )
    silence.add_argument("--subject", metavar="TEXT", default="", help="alerts with this subject")
    silence.add_argument("--reason", metavar="TEXT", default="", help="with add: why")
    silence.add_argument("--days", type=_days, default=7, help="with add: for how long (default: %(default)s)")


def _filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--domain", metavar="DOMAIN", type=domain, help="reports about this domain")
    parser.add_argument("--reporter", metavar="DOMAIN", type=domain, help="reports of this submitter")
    parser.add_argument("--type", metavar="RESULT-TYPE", default="", help="reports with failures of this type")
    parser.add_argument("--since", metavar="DAY", type=day, help="reports about this day and later")
    parser.add_argument("--until", metavar="DAY", type=day, help="reports about this day and earlier")
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument("--trusted", action="store_true", help="authenticated reports only")
    trust.add_argument("--untrusted", action="store_true", help="unauthenticated reports only")
    parser.add_argument("--limit", type=_number, default=0, help="at most this many reports")


def _days(text: str) -> int:
    days = int(text)
    if not 0 < days <= 3660:
        raise argparse.ArgumentTypeError(f"{text} is not within 1 to 3660")
    return days


def _number(text: str) -> int:
    number = int(text)
    if not 0 < number < 1 << 62:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def _run(args: argparse.Namespace, run: "Verb", *, writes: bool) -> int:
    from ..config import ConfigProblems, load
    from ..errors import StoreError
    from ..store.sqlite_file import database_exists
    from ..tlsrpt.receive.service import open_reports

    try:
        config = load(args.config, environ=os.environ)
    except ConfigProblems as error:
        for problem in error.problems:
            print_error(os.EX_CONFIG, str(problem))
        return os.EX_CONFIG
    path = config.receive.file(config.store.file(os.environ))
    try:
        missing = config.receive.postgresql is None and not database_exists(path)
    except StoreError as error:
        return print_error(os.EX_NOPERM, f"{error}. Run the command as root or as the user of the daemon.")
    if missing:
        return print_error(
            os.EX_NOINPUT, f"{path}: there is no such file. The daemon makes it if receive.own_domains is set."
        )
    try:
        database = open_reports(config, os.environ, read_only=not writes)
    except StoreError as error:
        return print_error(os.EX_UNAVAILABLE, f"the reports database cannot be used: {error.sentence}")
    try:
        return run(args, config, database)
    except StoreError as error:
        return print_error(os.EX_UNAVAILABLE, f"the reports database cannot be used: {error.sentence}")
    finally:
        database.close()


# -- seeing ------------------------------------------------------------------------------------------------


def _asked(args: argparse.Namespace) -> "ReportFilter":
    from ..tlsrpt.receive.queries import ReportFilter

    trusted = True if args.trusted else False if args.untrusted else None
    return ReportFilter(
        domain=args.domain or "",
        submitter=args.reporter or "",
        result_type=args.type,
        since=args.since or "",
        until=args.until or "",
        trusted=trusted,
        limit=args.limit or 100,
    )


def _list(args: argparse.Namespace, _config: "Config", database: "ReportsDatabase") -> int:
    from ..tlsrpt.receive.queries import stored_reports

    plain = not any((args.domain, args.reporter, args.type, args.since, args.until, args.limit))
    if plain and not (args.trusted or args.untrusted):
        return _overview(args, database)
    found = database.read(stored_reports(_asked(args)))
    if args.json:
        return print_json([asdict(one) for one in found])
    if not found:
        return print_error(NOT_FOUND, "no matching reports")
    titles = ("ID", "DAY", "DOMAIN", "REPORTER", "AUTH", "REV", "SUCCESSFUL", "FAILED")
    return print_out(
        table(
            titles,
            [
                (
                    str(one.id),
                    one.day,
                    one.domain,
                    escape(one.submitter),
                    one.method,
                    one.revision,
                    one.successful,
                    one.failed,
                )
                for one in found
            ],
        )
    )


def _overview(args: argparse.Namespace, database: "ReportsDatabase") -> int:
    from ..tlsrpt.receive.queries import domain_totals, known_domains, only_unauthenticated

    since, until = _range(30)
    found = database.read(domain_totals(since, until))
    unauthenticated = database.read(only_unauthenticated(since, until))
    unreported = sorted(set(database.read(known_domains())) - {one.domain for one in found})
    if args.json:
        domains = [asdict(one) | {"failed_share": one.failed_share} for one in found]
        return print_json(
            {
                "since": since,
                "domains": domains,
                "only_unauthenticated": [asdict(one) for one in unauthenticated],
                "without_trusted_reports": unreported,
            }
        )
    if not found and not unreported:
        return print_error(NOT_FOUND, "no reports in the last 30 days")
    rows = [
        (one.domain, one.reports, one.successful, one.failed, f"{one.failed_share:.2%}", one.last_day) for one in found
    ]
    if rows:
        print_out(table(("DOMAIN", "REPORTS", "SUCCESSFUL", "FAILED", "SHARE", "LAST DAY"), rows))
    for one in unauthenticated:
        print_out(f"{one.domain}: only unauthenticated reports: {one.reports}")
    for name in sorted(set(unreported) - {one.domain for one in unauthenticated}):
        print_error(0, f"{name}: no authenticated report in the last 30 days")
    return os.EX_OK


def _range(days: int) -> tuple[str, str]:
    now = time.time()
    return utc_day(now - days * _DAY), utc_day(now)


def _show(args: argparse.Namespace, config: "Config", database: "ReportsDatabase") -> int:
    if args.what.isascii() and args.what.isdigit():
        return _show_report(args, database)
    try:
        name = domain(args.what)
    except argparse.ArgumentTypeError as error:
        return print_error(os.EX_USAGE, str(error))
    from ..tlsrpt.receive.summary import summary_job, summary_json

    found = database.read(summary_job(name, *_range(args.days), context=_context(config, name)))
    if args.json:
        return print_json(summary_json(found))
    print_out(f"{name}, {found.since} to {found.until}\n")
    for advice in found.advice:
        print_out(f"{'ok  ' if advice.good else 'FAIL'} {escape(advice.sentence)}")
        for line in advice.evidence:
            print_out(f"       {escape(line)}")
        if advice.hint:
            print_out(f"     -> {escape(advice.hint)}")
    for alert in found.alerts:
        print_out(f"alert {alert['kind']}: {escape(alert['sentence'])}")
    if found.days:
        rows = [
            (one.day, one.reports, one.successful, one.failed, " ".join(f"{k}={v}" for k, v in one.types.items()))
            for one in found.days
        ]
        print_out("\n" + table(("DAY", "REPORTS", "SUCCESSFUL", "FAILED", "TYPES"), rows))
    if found.reporters:
        reporters = [(one.submitter, one.days, one.successful, one.failed, one.last_day) for one in found.reporters]
        print_out("\n" + table(("REPORTER", "DAYS", "SUCCESSFUL", "FAILED", "LAST DAY"), reporters))
    if found.failures:
        failures = [
            (
                one.result_type,
                escape(one.mx_host) or "-",
                one.failed,
                one.first_day,
                one.last_day,
                one.reporters,
            )
            for one in found.failures
        ]
        print_out("\n" + table(("FAILURE", "MX HOST", "SESSIONS", "FIRST DAY", "LAST DAY", "REPORTERS"), failures))
    if found.untrusted:
        print_error(0, f"not counted: {found.untrusted} unauthenticated reports (list --untrusted --domain {name})")
    return os.EX_OK if found.days or found.untrusted else NOT_FOUND


def _context(config: "Config", name: str) -> "ReportContext":
    from ..diagnose.report_context import context_from_file
    from ..errors import StoreError
    from ..tlsrpt.receive.advice import NO_CONTEXT

    try:
        return context_from_file(config, os.environ, name, time.time() - 401 * _DAY)
    except StoreError as error:
        print_error(0, f"the history of checks cannot be read ({error.sentence}); the advice does without it")
        return NO_CONTEXT


def _show_report(args: argparse.Namespace, database: "ReportsDatabase") -> int:
    from ..tlsrpt.receive.queries import report_details

    found = database.read(report_details(int(args.what)))
    if found is None:
        return print_error(NOT_FOUND, "no such report (it may have expired)")
    report, details = found
    if args.json:
        return print_json(asdict(report) | {"details": details})
    for name, value in _facts(report):
        print_out(f"{name:<14} {escape(value)}")
    if details:
        rows = [
            tuple(one["sessions"] if name == "sessions" else escape(one[name]) or "-" for name in _DETAIL_COLUMNS)
            for one in details
        ]
        print_out("\n" + table([name.upper().replace("_", " ") for name in _DETAIL_COLUMNS], rows))
    return os.EX_OK


_DETAIL_COLUMNS = ("result_type", "sessions", "mx_host", "receiving_ip", "sending_ip", "reason", "info")


def _facts(report: "StoredReport") -> list[tuple[str, object]]:
    authenticated = f"{report.method} {report.identity}".strip()
    return [
        ("domain", report.domain),
        ("day", report.day),
        ("reporter", f"{report.submitter} ({report.organization})"),
        ("contact", report.contact),
        ("report id", report.report_id),
        ("revision", report.revision),
        ("counted", "yes" if report.counted else "no"),
        ("authenticated", authenticated + (f": {report.auth_detail}" if report.auth_detail else "")),
        ("received", f"{format_time(report.received_at, time.time())} by {report.source}"),
        ("duplicates", report.duplicates),
        ("sessions", f"{report.successful} successful, {report.failed} failed"),
        ("deviations", ", ".join(report.deviations) or "none"),
    ]


def _raw(args: argparse.Namespace, _config: "Config", database: "ReportsDatabase") -> int:
    from ..tlsrpt.receive.queries import raw_report

    text = database.read(raw_report(args.id))
    if text is None:
        return print_error(NOT_FOUND, "no such report (it may have expired)")
    if sys.stdout.isatty():
        # The text may contain sequences that control a terminal.
        return print_out("\n".join(escape(line) for line in text.decode("utf-8", "replace").splitlines()))
    sys.stdout.buffer.write(text)
    sys.stdout.flush()
    return os.EX_OK


# -- exporting ---------------------------------------------------------------------------------------------


def csv_cell(value: object) -> str:
    """Return the value as a cell that no spreadsheet interprets as a formula."""
    text = escape(value)
    return f"'{text}" if text[:1] in "=+-@\t\r" and text else text


def _export(args: argparse.Namespace, _config: "Config", database: "ReportsDatabase") -> int:
    import json
    from dataclasses import fields

    from ..tlsrpt.receive.queries import StoredReport, all_reports

    names = [field.name for field in fields(StoredReport)]
    left = args.limit or None
    if not args.json:
        _csv_row(names)
    for one in all_reports(database.read, _asked(args)):
        if args.json:
            print_out(json.dumps(asdict(one), ensure_ascii=False))
        else:
            values = asdict(one)
            _csv_row([" ".join(v) if isinstance(v := values[name], tuple) else v for name in names])
        if left is not None:
            left -= 1
            if not left:
                break
    return os.EX_OK


def _csv_row(values: list[Any]) -> None:
    file = io.StringIO()
    csv.writer(file, lineterminator="\r\n").writerow(
        [value if isinstance(value, int) else csv_cell(value) for value in values]
    )
    sys.stdout.write(file.getvalue())


# -- changing ----------------------------------------------------------------------------------------------


def _forget(args: argparse.Namespace, _config: "Config", database: "ReportsDatabase") -> int:
    from ..tlsrpt.receive.retention import forget

    removed = database.write(forget(args.domain))
    if args.json:
        return print_json({"domain": args.domain, "removed": removed})
    if not removed:
        return print_error(NOT_FOUND, f"nothing is known about {args.domain}")
    return print_error(os.EX_OK, f"{args.domain}: {removed} reports removed")
