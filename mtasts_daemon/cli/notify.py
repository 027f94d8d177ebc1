"""``mtastsctl notify test``: send a test alert to mail and webhook as configured, without the daemon."""

import argparse
import os
import time
from typing import TYPE_CHECKING, Any

from .output import escape, print_error, print_out

if TYPE_CHECKING:
    from ..notify.service import AlertChannel

__all__ = ["register"]


def register(commands: "argparse._SubParsersAction[Any]", configured: argparse.ArgumentParser) -> None:
    """Add the verb to the command line."""
    verbs = commands.add_parser("notify", help="test the delivery of alerts").add_subparsers(
        metavar="COMMAND", required=True
    )
    test = verbs.add_parser(
        "test", parents=[configured], help="send a test alert by mail and webhook; exit code 1 if one fails"
    )
    test.set_defaults(command=_test)


def _test(args: argparse.Namespace) -> int:
    import asyncio

    from ..config import ConfigProblems, load
    from ..errors import ConfigError
    from ..notify.delivery import channels_for

    try:
        config = load(args.config, environ=os.environ)
        channels = channels_for(config, os.environ)
    except ConfigProblems as error:
        for problem in error.problems:
            print_error(os.EX_CONFIG, str(problem))
        return os.EX_CONFIG
    except ConfigError as error:
        return print_error(os.EX_CONFIG, error.detail)
    if not channels:
        return print_error(os.EX_CONFIG, "notify.mail and notify.webhook are not set: alerts are only logged")
    return max(asyncio.run(_deliver(channel)) for channel in channels)


async def _deliver(channel: "AlertChannel") -> int:
    from ..notify.alert import Alert, Severity

    alert = Alert(
        "test",
        Severity.NOTE,
        "mtasts-daemon",
        "This is a test alert, sent by mtastsctl notify test.",
        time.time(),
        "Nothing needs to be done.",
    )
    try:
        await channel.deliver([alert])
    except OSError as error:
        return print_error(1, f"{channel.name}: {escape(error)}")
    return print_out(f"{channel.name}: delivered")
