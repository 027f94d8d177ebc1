"""``mtastsctl reload``: make the daemon read its configuration again."""

import argparse
import os

from .admin_client import Client, Refused, asks
from .command_line import Verbs
from .output import print_error, print_out, printable, say_json

__all__ = ["register"]


def register(verbs: Verbs, configured: argparse.ArgumentParser) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "reload", parents=[configured], help="read the configuration again; exit code 78 if it is rejected"
    )
    asks(parser, _reload)


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
        return print_error(os.EX_CONFIG, "rejected; the previous configuration stays in force")
    return say_json(found) if args.json else print_out("the configuration is in force")
