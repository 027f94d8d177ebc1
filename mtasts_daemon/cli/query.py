"""``mtastsctl query``: look up a domain in the running daemon, as Postfix does."""

import argparse
import json
import os
from typing import TYPE_CHECKING

from .command_line import Verbs, key, map_name, seconds
from .output import print_error, print_out, print_problems

if TYPE_CHECKING:
    from ..config import Config
    from ..config.values import Listen

__all__ = ["register"]

_NOT_FOUND = 1
_SYSTEMD_SOCKET = "socketmap:unix:/var/spool/postfix/run/mtasts/lookup.sock"


def register(verbs: Verbs, configured: argparse.ArgumentParser) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "query", parents=[configured], help="look up a domain as Postfix does; exit code 1 if not found"
    )
    parser.add_argument("key", metavar="DOMAIN", type=key, help="a recipient domain, or a next-hop such as [host]:587")
    parser.add_argument(
        "--map", metavar="NAME", type=map_name, help="the map name in main.cf (default: the default zone)"
    )
    parser.add_argument(
        "--server", metavar="ADDRESS", help="socketmap:inet:HOST:PORT, socketmap:unix:PATH or tcp_table:HOST:PORT"
    )
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=seconds(0.1, 3600), default=30.0, help="default: %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=_query)


def _query(args: argparse.Namespace) -> int:
    from ..config import ConfigProblems, load
    from ..config.problems import BadValue
    from ..config.values import Listen
    from ..errors import FrameError
    from .lookup_client import ask

    try:
        config = load(args.config, environ=os.environ)
        servers = [Listen.parse(args.server)] if args.server else _own_listeners(config)
    except ConfigProblems as error:
        return print_problems(error)
    except BadValue as error:
        return print_error(os.EX_USAGE, f"--server: {error.message}{f' ({error.hint})' if error.hint else ''}")
    name = args.map or config.default_zone
    if name.lower() not in config.zones:
        known = ", ".join(config.zones)
        print_error(0, f"warning: there is no zone {name}; the reply is that of {config.default_zone} (zones: {known})")
    failures: dict[str, Exception] = {}
    for server in servers:
        try:
            reply = ask(server, name, args.key, args.timeout)
        except (OSError, FrameError) as error:
            failures[str(server)] = error
            continue
        if args.json:
            shown = {"key": args.key, "map": name, "server": str(server), "code": reply.code, "text": reply.text}
            print_out(json.dumps(shown))
        else:
            print_out(f"{reply.code} {reply.text}".rstrip())
        return {"OK": os.EX_OK, "NOTFOUND": _NOT_FOUND}.get(reply.code, os.EX_TEMPFAIL)
    return print_error(os.EX_UNAVAILABLE, f"the daemon does not answer: {_why_not(failures)}")


def _why_not(failures: "dict[str, Exception]") -> str:
    reasons = "; ".join(f"{where}: {getattr(error, 'strerror', None) or error}" for where, error in failures.items())
    if any(isinstance(error, PermissionError) for error in failures.values()):
        return f"{reasons}. Run this as root, or as a user with access to the socket."
    if any(isinstance(error, TimeoutError) for error in failures.values()):
        return f"{reasons}. It hangs or is starting; see its log."
    return f"{reasons}. Is it running, with this configuration?"


def _own_listeners(config: "Config") -> "list[Listen]":
    """Return the addresses to try: the configured ones, then the socket of the packaged systemd unit."""
    from ..config.values import Listen

    # tcp_table has no map names, so it comes last.
    configured = sorted(config.listen, key=lambda listen: listen.protocol != "socketmap")
    packaged = Listen.parse(_SYSTEMD_SOCKET)
    return configured if packaged in configured else [*configured, packaged]
