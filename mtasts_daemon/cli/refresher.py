"""``mtastsctl refresher``: refreshes in progress, and the next ones."""

import argparse
import os
import time

from .admin_client import Client, add_daemon_command
from .command_line import Verbs
from .output import escape, format_age, format_time, print_json, print_out, table

__all__ = ["register"]


def register(verbs: Verbs, configured: argparse.ArgumentParser) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser("refresher", parents=[configured], help="show refreshes in progress, and the next ones")
    add_daemon_command(parser, _refresher)


def _refresher(args: argparse.Namespace, client: Client) -> int:
    found = client.get_soon("status")["refresher"]
    coming = client.get("entries", sort="due", live=1, limit=10)["entries"]
    if args.json:
        return print_json({**found, "next": coming})
    now = time.time()
    print_out(
        f"{found['due']:,} due, {found['under_way']} in progress, {found['refreshes']:,} refreshed since the start,"
        f" last success {format_age(found['last_success'], now)}, last round {found['heartbeat_age']} s ago"
    )
    for reason, count in sorted(found["failures"].items()):
        print_out(f"failed: {reason} {count:,}")
    rows = [
        (
            entry["domain"],
            entry["mode"],
            format_time(entry["due_at"], now),
            escape(entry["failure_problem"] or "-"),
        )
        for entry in coming
    ]
    return print_out("\n" + table(("NEXT", "MODE", "DUE", "LAST FAILURE"), rows)) if rows else os.EX_OK
