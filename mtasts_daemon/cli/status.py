"""``mtastsctl status``: the state of the running daemon."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .admin_client import Client, add_daemon_command
from .command_line import Verbs
from .output import colored, escape, format_age, format_duration, print_json, print_out
from .postfix_host import find_postfix
from .postfix_tables import TableProbe, probe_tables

__all__ = ["as_text", "register"]


def register(verbs: Verbs, configured: argparse.ArgumentParser) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "status", parents=[configured], help="show the state of the daemon; exit code 1 if a check fails"
    )
    add_daemon_command(parser, _status)
    parser.add_argument("--quiet", action="store_true", help="print nothing; set the exit code only")


def _status(args: argparse.Namespace, client: Client) -> int:
    found = client.get_soon("status")
    postfix = find_postfix()
    probes = list(probe_tables(postfix)) if postfix is not None else []
    if args.quiet:
        pass
    elif args.json:
        print_json({**found, "postfix": [asdict(probe) for probe in probes]})
    else:
        print_out(as_text(found, probes))
    return os.EX_OK if found["ready"] and all(probe.ok is not False for probe in probes) else 1


def as_text(found: Mapping[str, Any], probes: Sequence[TableProbe] = ()) -> str:
    """Return the status for people. ``probes`` are the tables of main.cf that were tried as Postfix would."""
    up = format_duration(found["now"] - found["started_at"])
    lines = [f"mtasts-daemon {found['version']}, process {found['pid']}, up {up}, log level {found['log_level']}", ""]
    for check in found["checks"]:
        sign = colored(check["ok"], "ok  " if check["ok"] else "FAIL")
        lines.append(f"{sign} {check['name']:<10} {escape(check['detail'])}")
    for probe in probes:
        sign = {True: colored(True, "ok  "), False: colored(False, "FAIL"), None: "note"}[probe.ok]
        lines.append(f"{sign} {'postfix':<10} {escape(probe.table)} {escape(probe.detail)}")
    reload = found["reload"]
    if not reload["ok"]:
        # Not FAIL, which would set the exit code: the daemon works, but would not start again with this file.
        lines.append(
            f"{colored(False, 'WARN')} {'reload':<10} the new configuration was rejected, the previous one applies:"
        )
        lines += [f"     {escape(problem)}" for problem in reload["problems"]]
    return "\n".join([*lines, "", *_figures(found)])


def _figures(found: Mapping[str, Any]) -> list[str]:
    lookups, cache, refresher = found["lookups"], found["cache"], found["refresher"]
    answers = " ".join(f"{kind} {count:,}" for kind, count in sorted(lookups["answers"].items())) or "none yet"
    risk = cache["enforce_at_risk"]
    lines = [
        f"lookups    {lookups['total']:,} since the start, {_rate(lookups['lookups_per_second'])} per second,"
        f" {_share(lookups['hit_rate'])} from memory, {lookups['waiting']} waiting,"
        f" {lookups['connections']} connections",
        f"replies    {answers}",
        f"policies   {' '.join(f'{mode} {count:,}' for mode, count in cache['modes'].items())},"
        f" {cache['failing']:,} failing, {cache['expiring']:,} expiring within a day"
        + (f", {colored(False, f'{risk:,} enforced ones expire unless their refresh succeeds')}" if risk else ""),
        f"refresher  {refresher['due']:,} due, {refresher['under_way']} in progress, {refresher['refreshes']:,}"
        f" refreshed, {sum(refresher['failures'].values()):,} failed,"
        f" last success {format_age(refresher['last_success'], found['now'])}",
        f"tlsrpt     {_tlsrpt(found['tlsrpt'], found['now'])}",
    ]
    if (deferred := found["deferred"])["total"]:
        lines.append(f"deferred   {colored(False, _deferred_title(deferred['total']))}")
        for one in deferred["domains"]:
            reason = escape(one["sentence"])
            lines.append(f"           {one['domain']}, since {format_duration(found['now'] - one['since'])}: {reason}")
        if (more := deferred["total"] - len(deferred["domains"])) > 0:
            lines.append(f"           and {more:,} more")
    return lines


def _tlsrpt(found: Mapping[str, Any], now: float) -> str:
    if not found["collecting"]:
        return "off"
    events, reports = found["events"], found["reports"]
    rejected = sum(events["rejected"].values())
    received = (
        f"{events['received']:,} TLS results, {rejected:,} rejected, the last {format_age(events['last_at'], now)}"
    )
    if reports is None:
        return received
    if not found["sending"]:
        return f"{received}; set organization, contact and sender to send reports"
    done = ", ".join(f"{reports[state]:,} {state}" for state in ("delivered", "refused", "failed"))
    return f"{received}\nreports    {reports['due']:,} due, {reports['waiting']:,} waiting; in seven days {done}"


def _deferred_title(total: int) -> str:
    return f"mail to {total:,} domain{'' if total == 1 else 's'} is deferred"


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
