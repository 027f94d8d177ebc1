"""``mtastsctl log-level``: show or set the daemon's log level."""

import argparse

from .admin_client import Client, add_daemon_command
from .command_line import Verbs
from .output import print_json, print_out

__all__ = ["register"]

_LEVELS = ("debug", "info", "warning", "error")


def register(verbs: Verbs, configured: argparse.ArgumentParser) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "log-level", parents=[configured], help="show the log level, or set it until the next reload"
    )
    parser.add_argument("level", metavar="LEVEL", nargs="?", choices=_LEVELS, help=", ".join(_LEVELS))
    add_daemon_command(parser, _log_level)


def _log_level(args: argparse.Namespace, client: Client) -> int:
    if args.level is None:
        found = {"level": client.get_soon("status")["log_level"]}
    else:
        found = client.post("log-level", body={"level": args.level})
    return print_json(found) if args.json else print_out(found["level"])
