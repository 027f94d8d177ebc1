"""``mtastsctl`` verbs that ask the running daemon, and tell it what to do: status, refresher, reload, log-level."""

import argparse
import os
import time
from collections.abc import Mapping
from typing import Any

from .admin_client import Client, Refused, asks
from .output import mark, print_error, print_out, printable, say_json, span, table, when

__all__ = ["register"]

_LEVELS = ("debug", "info", "warning", "error")


def register(commands: "argparse._SubParsersAction[Any]", configured: argparse.ArgumentParser) -> None:
    """Add the verbs to the command line."""
    from . import cache, setup, top

    status = commands.add_parser(
        "status", parents=[configured], help="the daemon at a glance; exit code 1 if something does not work"
    )
    asks(status, _status)
    status.add_argument("--quiet", action="store_true", help="print nothing: the exit code says it")
    cache.register(commands, configured)
    asks(commands.add_parser("refresher", parents=[configured], help="what is refreshed, and what is next"), _refresher)
    reload = commands.add_parser(
        "reload", parents=[configured], help="read the configuration again; exit code 78 if the old one stays in force"
    )
    asks(reload, _reload)
    level = commands.add_parser("log-level", parents=[configured], help="show or set it, until the next reload")
    level.add_argument("level", metavar="LEVEL", nargs="?", choices=_LEVELS, help=", ".join(_LEVELS))
    asks(level, _log_level)
    top.register(commands, configured)
    setup.register(commands, configured)


# -- status ------------------------------------------------------------------------------------------------


def _status(args: argparse.Namespace, client: Client) -> int:
    found = client.get("status")
    code = os.EX_OK if found["ready"] else 1
    if args.json:
        say_json(found)
    elif not args.quiet:
        print_out(as_text(found))
    return code


def as_text(found: Mapping[str, Any]) -> str:
    """The status to read."""
    lookups, cache, refresher = found["lookups"], found["cache"], found["refresher"]
    up = span(found["now"] - found["started_at"])
    lines = [f"mtasts-daemon {found['version']}, process {found['pid']}, up {up}, log level {found['log_level']}", ""]
    for check in found["checks"]:
        sign = mark(check["ok"], "ok  " if check["ok"] else "FAIL")
        lines.append(f"{sign} {check['name']:<10} {printable(check['detail'])}")
    reload = found["reload"]
    if not reload["ok"]:
        # No FAIL, which the exit code would have to tell: the daemon works, and would not if it were restarted now.
        lines.append(f"{mark(False, 'WARN')} {'reload':<10} the new configuration was refused, the old is in force:")
        lines += [f"     {printable(problem)}" for problem in reload["problems"]]
    rate, hits = lookups["lookups_per_second"], lookups["hit_rate"]
    spoken = " ".join(f"{kind} {count:,}" for kind, count in sorted(lookups["answers"].items())) or "none yet"
    risk = cache["enforce_at_risk"]
    lines += [
        "",
        f"lookups    {lookups['total']:,} in all, {_rate(rate)} a second, {_share(hits)} from memory,"
        f" {lookups['waiting']} waiting, {lookups['connections']} connections",
        f"answers    {spoken}",
        f"policies   {' '.join(f'{mode} {count:,}' for mode, count in cache['modes'].items())},"
        f" {cache['failing']:,} failing, {cache['expiring']:,} ending within a day"
        + (f", {mark(False, f'{risk:,} enforced ones end unless their refresh works again')}" if risk else ""),
        f"refresher  {refresher['due']:,} due, {refresher['under_way']} under way, {refresher['refreshes']:,}"
        f" refreshed, last success {_ago(refresher['last_success'], found['now'])}",
        f"tlsrpt     {_tlsrpt(found['tlsrpt'], found['now'])}",
    ]
    if (held_up := found["undeliverable"])["total"]:
        lines.append(f"held up    {mark(False, _held_up(held_up))}")
    return "\n".join(lines)


def _tlsrpt(found: Mapping[str, Any], now: float) -> str:
    if not found["collecting"]:
        return "off"
    events, reports = found["events"], found["reports"]
    rejected = sum(events["rejected"].values())
    told = f"{events['received']:,} events, {rejected:,} rejected, the last {_ago(events['last_at'], now)}"
    if reports is None:
        return told
    if not found["sending"]:
        return f"{told}; nothing is sent until organization, contact and sender are configured"
    done = ", ".join(f"{reports[state]:,} {state}" for state in ("delivered", "refused", "failed"))
    return f"{told}\nreports    {reports['due']:,} due, {reports['waiting']:,} waiting; in seven days {done}"


def _held_up(found: Mapping[str, Any]) -> str:
    names = ", ".join(found["domains"])
    more = found["total"] - len(found["domains"])
    others = f" and {more:,} more" if more else ""
    return f"the policy permits none of the domain's MX hosts: {names}{others}"


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _ago(moment: float | None, now: float) -> str:
    return "never" if not moment else f"{span(now - moment)} ago"


# -- the others --------------------------------------------------------------------------------------------


def _refresher(args: argparse.Namespace, client: Client) -> int:
    found = client.get("status")["refresher"]
    coming = client.get("entries", sort="due", live=1, limit=10)["entries"]
    if args.json:
        return say_json({**found, "next": coming})
    now = time.time()
    print_out(
        f"{found['due']:,} due, {found['under_way']} under way, {found['refreshes']:,} refreshed since the start,"
        f" last success {_ago(found['last_success'], now)}, last round {found['heartbeat_age']} s ago"
    )
    for reason, count in sorted(found["failures"].items()):
        print_out(f"failed: {reason} {count:,}")
    rows = [
        (entry["domain"], entry["mode"], when(entry["due_at"], now), printable(entry["failure_problem"] or "-"))
        for entry in coming
    ]
    return print_out("\n" + table(("NEXT", "MODE", "DUE", "LAST FAILURE"), rows)) if rows else os.EX_OK


def _reload(args: argparse.Namespace, client: Client) -> int:
    try:
        found = client.post("reload")
    except Refused as error:
        if error.status != 409:
            raise
        if args.json:
            say_json(error.answer)
        for problem in error.answer.get("problems", ()):
            print_error(os.EX_CONFIG, printable(problem))
        return print_error(os.EX_CONFIG, "the old configuration is in force")
    return say_json(found) if args.json else print_out("the configuration is in force")


def _log_level(args: argparse.Namespace, client: Client) -> int:
    if args.level is None:
        found = {"level": client.get("status")["log_level"]}
    else:
        found = client.post("log-level", body={"level": args.level})
    return say_json(found) if args.json else print_out(found["level"])
