"""``mtastsctl reload``: make the daemon read its configuration again."""

import argparse
import os

from .admin_client import Client, Refused, add_daemon_command
from .command_line import Verbs
from .output import escape, print_error, print_json, print_out

__all__ = ["register"]


def register(verbs: Verbs, configured: argparse.ArgumentParser) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "reload", parents=[configured], help="read the configuration again; exit code 78 if it is rejected"
    )
    add_daemon_command(parser, _reload)


def _reload(args: argparse.Namespace, client: Client) -> int:
    try:
        found = client.post("reload")
    except Refused as error:
        if error.status != 409:
            raise
        if args.json:
            print_json(error.answer)
        for problem in error.answer.get("problems", ()):
            print_error(os.EX_CONFIG, escape(problem))
        return print_error(os.EX_CONFIG, "rejected; the previous configuration stays in force")
    return print_json(found) if args.json else print_out("the configuration is in force")
