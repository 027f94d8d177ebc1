"""``mtastsctl cache``: list, show, refresh and purge stored policies."""

import argparse
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from . import cache_transfer
from .admin_client import Client, Refused, add_daemon_command
from .command_line import Verbs, count, policy_domain
from .output import escape, format_time, print_error, print_json, print_out, step_printer, table

__all__ = ["register"]

_SORTS = ("domain", "mode", "expires", "due", "used", "fetched", "failures")
_PAGE = 500


def register(verbs: Verbs, configured: argparse.ArgumentParser) -> None:
    """Add the verbs to the command line."""
    parser = verbs.add_parser("cache", help="list, show, refresh, purge, export and import policies")
    parser.set_defaults(command=lambda _args: parser.error("a command is needed: mtastsctl help cache"))
    below = parser.add_subparsers(metavar="COMMAND")

    def verb(name: str, run: Any, description: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = below.add_parser(name, parents=[configured], help=description)
        add_daemon_command(added, run)
        return added

    listed = verb("list", _list, "list policies")
    listed.add_argument("text", metavar="TEXT", nargs="?", help="only domains that contain this")
    listed.add_argument("--mode", choices=("enforce", "testing", "none"), help="only this mode")
    listed.add_argument("--failing", action="store_true", help="only policies whose last refresh failed")
    listed.add_argument("--expiring", metavar="TIME", help="only policies that expire within this time, such as 24h")
    listed.add_argument("--sort", metavar="KEY", choices=_SORTS, default="domain", help=", ".join(_SORTS))
    listed.add_argument("--reverse", action="store_true", help="reverse the order")
    listed.add_argument(
        "--limit", metavar="N", type=count(0, 999_999_999, zero="0 for all"), default=100,
        help="list at most N (default: %(default)s; 0: all)",
    )  # fmt: skip
    verb("show", _show, "show one policy; exit code 1 if nothing is known").add_argument(
        "domain", metavar="DOMAIN", type=policy_domain
    )
    for name, run, description in (
        ("refresh", _refresh, "query DNS and the policy host now"),
        ("purge", _purge, "remove domains; the next lookup discovers them again"),
    ):
        verb(name, run, description).add_argument("domains", metavar="DOMAIN", type=policy_domain, nargs="+")
    cache_transfer.register(verb)


# -- list and show -----------------------------------------------------------------------------------------


def _list(args: argparse.Namespace, client: Client) -> int:
    wanted = args.limit or sys.maxsize
    query = {
        "q": args.text,
        "mode": args.mode,
        "failing": 1 if args.failing else None,
        "expiring": args.expiring,
        "sort": f"{'-' if args.reverse else ''}{args.sort}",
        "limit": min(wanted, _PAGE),
    }
    entries: list[Mapping[str, Any]] = []
    total = 0
    for page in client.pages(**query):
        entries += page["entries"]
        total = page["total"] if page["total"] is not None else total
        if len(entries) >= wanted:
            break
    del entries[wanted:]
    if args.json:
        return print_json({"entries": entries, "total": total})
    now = time.time()
    rows = [
        (
            entry["domain"],
            entry["mode"] or "?",
            entry["record_id"] or "-",
            format_time(entry["valid_until"], now),
            format_time(entry["due_at"], now),
            format_time(entry["last_used"], now),
            _failure(entry),
        )
        for entry in entries
    ]
    if not rows:
        filtered = args.text or args.mode or args.failing or args.expiring
        return print_error(os.EX_OK, "no matching policies" if filtered else "no policies are stored")
    print_out(table(("DOMAIN", "MODE", "ID", "EXPIRES", "REFRESH", "USED", "LAST FAILURE"), rows))
    if len(entries) < total:
        print_error(0, f"{len(entries):,} of {total:,}; --limit 0 lists all")
    return os.EX_OK


def _failure(entry: Mapping[str, Any]) -> str:
    return f"{entry['failure_problem']} x{entry['failure_count']}" if entry["failure_problem"] else "-"


def _show(args: argparse.Namespace, client: Client) -> int:
    found = client.get("entries", args.domain)
    return print_json(found) if args.json else print_out(_as_text(found))


def _as_text(found: Mapping[str, Any]) -> str:
    now = time.time()
    lines = [found["domain"]]
    held, txt, failure = found["held"], found["txt"], found["failure"]
    if held is None:
        lines.append("  no policy is cached")
    else:
        state = "expires" if held["live"] else "expired"
        lines.append(
            f"  policy   mode {held['mode']}, id {held['record_id']}, {state} {format_time(held['valid_until'], now)}"
        )
        lines.append(f"  fetched  {format_time(held['fetched_at'], now)}, refresh {format_time(found['due_at'], now)}")
        lines += [f"           {escape(line)}" for line in held["lines"]]
    if txt is not None:
        what = escape(txt["detail"] or txt["problem"] or f"id {txt['record_id']}")
        lines.append(
            f"  TXT      {what if txt['record_id'] or txt['problem'] else 'no record'}, {format_time(txt['at'], now)}"
        )
    if failure is not None:
        again = f"attempt {failure['count']}, next {format_time(failure['retry_at'], now)}"
        lines.append(f"  failure  {escape(failure['detail'])} ({failure['problem']}), {again}")
    # Not kept for a domain without a policy.
    if found["last_used"]:
        lines.append(
            f"  used     first {format_time(found['first_used'], now)}, last {format_time(found['last_used'], now)}"
        )
    return "\n".join(lines)


# -- refresh and purge -------------------------------------------------------------------------------------


def _refresh(args: argparse.Namespace, client: Client) -> int:
    found, code = [], os.EX_OK
    printer = step_printer()
    for number, domain in enumerate(args.domains, 1):
        if printer is not None:
            print_error(0, f"[{number}/{len(args.domains)}] querying DNS and the policy host of {domain}")
        entry = client.result("POST", "refresh", domain, on_step=printer)
        found.append(entry)
        failed = entry["failure"] is not None or (entry["txt"] or {}).get("problem") is not None
        code = os.EX_TEMPFAIL if failed else code
        if not args.json:
            print_out(_as_text(entry))
    return print_json(found) or code if args.json else code


def _purge(args: argparse.Namespace, client: Client) -> int:
    purged: dict[str, bool] = {}
    for domain in args.domains:
        try:
            client.post("purge", domain)
            purged[domain] = True
        except Refused as error:
            if error.status != 404:
                raise
            purged[domain] = False
            print_error(1, f"{domain}: {escape(error)}")
    if args.json:
        print_json(purged)
    return os.EX_OK if all(purged.values()) else 1
