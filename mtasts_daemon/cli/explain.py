"""``mtastsctl explain``: why a domain is answered as it is, by the running daemon, or beside it where there is none."""

import argparse
import json
import os
from typing import TYPE_CHECKING, Any

from .admin_client import Client, Refused, Unreachable, named_socket
from .output import print_error, print_out, printable

if TYPE_CHECKING:
    from ..config import Config
    from ..policy.cache_entry import CacheEntry

__all__ = ["register"]


def register(commands: "argparse._SubParsersAction[Any]", configured: argparse.ArgumentParser) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser(
        "explain", parents=[configured], help="tell why a domain is answered as it is, step by step"
    )
    parser.add_argument("key", metavar="DOMAIN", help="a recipient domain, or a next-hop such as [host]:587")
    parser.add_argument("--live", action="store_true", help="ask DNS and the policy host now")
    parser.add_argument("--offline", action="store_true", help="ask no daemon: look at its store and configuration")
    parser.add_argument(
        "--socket", metavar="PATH", help="the daemon's admin socket (default: that of the configuration)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=_explain)


def _explain(args: argparse.Namespace) -> int:
    import asyncio

    from ..config import ConfigProblems, load
    from ..errors import ConfigError

    told = None if args.offline else _by_daemon(args)
    if told is not None:
        from ..diagnose.explain import Explanation, Step

        steps = [Step(**step) for step in told["steps"]]
        return print_out(json.dumps(told)) if args.json else print_out(Explanation(**told | {"steps": steps}).as_text())
    try:
        config = load(args.config, environ=os.environ)
    except ConfigProblems as error:
        for problem in error.problems:
            print_error(os.EX_CONFIG, str(problem))
        return os.EX_CONFIG
    try:
        return asyncio.run(_beside(args, config))
    except ConfigError as error:
        return print_error(os.EX_CONFIG, error.detail)


def _by_daemon(args: argparse.Namespace) -> dict[str, Any] | None:
    """What the running daemon says, which knows more than its store; None where none can be asked."""
    from ..errors import ConfigError

    try:
        path = args.socket or named_socket(args.config, os.environ)
    except ConfigError:
        return None  # and the configuration's problems are told
    if path is None:
        return None
    client = Client(str(path))
    try:
        found: dict[str, Any] = client.get("explain", args.key, live=1 if args.live else None)
    except Unreachable as error:
        if args.socket:
            print_error(0, f"the daemon cannot be asked: {error}")
        return None
    except Refused as error:
        print_error(0, f"the daemon does not answer: {printable(error)}")
        return None
    finally:
        client.close()
    return found


async def _beside(args: argparse.Namespace, config: "Config") -> int:
    """By the store and the configuration, without any daemon."""
    import time

    from ..daemon.wiring import fetcher_for, resolver_for, settings_for
    from ..diagnose.explain import explain
    from ..dns.validation import validates
    from ..errors import StoreError

    code = os.EX_OK
    try:
        stored = await _stored(args.key, config)
    except (OSError, StoreError) as error:
        why = error.sentence if isinstance(error, StoreError) else error.strerror
        hint = "Policies may be stored that are not seen here: run this as root, or as the daemon's user."
        code = print_error(os.EX_NOINPUT, f"{config.store.file(os.environ)} cannot be read: {why}\n{hint}")
        stored = None
    settings = settings_for(config)
    if args.live:
        resolver = resolver_for(config)
        fetcher = fetcher_for(config, resolver)
        try:
            signed = await validates(resolver, config.dns.dnssec_probe, config.dns.bogus_probe)
            told = await explain(args.key, settings, stored, time.time(), (resolver, fetcher), signed)
        finally:
            await fetcher.close()
            await resolver.close()
    else:
        told = await explain(args.key, settings, stored, time.time())
    print_out(json.dumps(told.as_json()) if args.json else told.as_text())
    return code


async def _stored(key: str, config: "Config") -> "CacheEntry | None":
    """What the daemon's store holds, read beside it. Raises OSError and StoreError."""
    from ..policy.next_hop import NextHop, parse_key
    from ..store.policy_store import open_store_read_only

    hop = parse_key(key.encode("utf-8", "surrogateescape"))
    path = config.store.file(os.environ)
    if not isinstance(hop, NextHop):
        return None
    try:
        path.stat()
    except FileNotFoundError:
        print_error(0, f"{path} does not exist: nothing is stored, or the daemon keeps its policies in memory")
        return None
    store = await open_store_read_only(path)
    try:
        return await store.get(hop.policy_domain)
    finally:
        await store.close()
