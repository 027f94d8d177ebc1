"""``mtastsctl reports silence``: alerts about received reports that are not sent."""

import argparse
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from .output import escape, format_time, print_error, print_json, print_out, table

if TYPE_CHECKING:
    from ..config import Config
    from ..tlsrpt.receive.database import ReportsDatabase

__all__ = ["silence_command"]

_NOT_FOUND = 1
_DAY = 86400


def silence_command(args: argparse.Namespace, _config: "Config", database: "ReportsDatabase") -> int:
    """List, add or remove silences."""
    from ..tlsrpt.receive.alert_store import add_silence, remove_silence, silences

    now = time.time()
    if args.action == "remove":
        if args.id is None:
            return print_error(os.EX_USAGE, "silence remove needs an ID")
        removed = database.write(remove_silence(args.id))
        return os.EX_OK if removed else print_error(_NOT_FOUND, "no such silence (it may have expired)")
    if args.action == "add":
        if not args.reason.strip():
            return print_error(os.EX_USAGE, "silence add needs a --reason")
        until = now + args.days * _DAY
        number = database.write(
            add_silence(args.domain or "", args.kind, args.subject[:300], args.reason[:300], until, now)
        )
        return print_json({"id": number}) if args.json else print_out(str(number))
    found = database.read(silences(now))
    if args.json:
        return print_json([asdict(one) for one in found])
    rows = [
        (
            str(one.id),
            one.domain or "all",
            one.kind or "all",
            escape(one.subject) or "all",
            format_time(one.until, now),
            escape(one.reason),
        )
        for one in found
    ]
    return print_out(table(("ID", "DOMAIN", "KIND", "SUBJECT", "ENDS", "REASON"), rows))
