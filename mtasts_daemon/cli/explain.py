"""``mtastsctl explain``: why a domain gets its reply, from the running daemon or from its store."""

import argparse
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from .admin_client import Client, Refused, Unreachable, admin_socket, socket_option
from .command_line import Verbs, key
from .output import colored, escape, format_duration, print_error, print_out, print_problems

if TYPE_CHECKING:
    from ..config import Config
    from ..diagnose.explain import Explanation
    from ..policy.cache_entry import CacheEntry

__all__ = ["register"]


def register(verbs: Verbs, configured: argparse.ArgumentParser) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser("explain", parents=[configured], help="explain the reply for a domain, step by step")
    parser.add_argument("key", metavar="DOMAIN", type=key, help="a recipient domain, or a next-hop such as [host]:587")
    parser.add_argument("--live", action="store_true", help="query DNS and the policy host now")
    parser.add_argument("--offline", action="store_true", help="do not connect to the daemon; read its store")
    socket_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=_explain)


def _explain(args: argparse.Namespace) -> int:
    import asyncio

    from ..config import ConfigProblems, load
    from ..errors import ConfigError

    try:
        path = None if args.offline else args.socket or admin_socket(args.config, os.environ)
        if path is not None and (found := _from_daemon(args, str(path))) is not None:
            return _print(found, as_json=args.json)
        code = asyncio.run(_from_store(args, load(args.config, environ=os.environ)))
    except ConfigProblems as error:
        return print_problems(error)
    except ConfigError as error:
        return print_error(os.EX_CONFIG, error.detail)
    return code if path is None else os.EX_UNAVAILABLE


def _print(found: dict[str, Any], *, as_json: bool) -> int:
    """Print an explanation as the daemon's API returns it: the verdict first, then the steps."""
    from ..diagnose.explain import Explanation

    if as_json:
        return print_out(json.dumps(found))
    since = found.pop("deferred_since", None)
    first, *rest = Explanation.from_json(found).as_text().split("\n")
    state = (found["verdict"] or {}).get("state", "default")
    print_out(colored({"authenticated": True, "deferred": False, "failing": False}.get(state), first))
    if since:
        print_out(f"  deferred since {format_duration(time.time() - since)}")
    return print_out("\n".join(rest))


def _from_daemon(args: argparse.Namespace, path: str) -> dict[str, Any] | None:
    """Return the daemon's explanation, or None after a message that the daemon does not answer."""
    client = Client(path)
    try:
        if args.live and sys.stderr.isatty():
            return _streamed(client, args.key)
        found: dict[str, Any] = client.get("explain", args.key, live=1 if args.live else None)
    except Unreachable as error:
        print_error(0, f"the daemon does not answer, so Postfix defers mail that it has to look up: {error}")
        print_error(0, "what follows is from the daemon's store and configuration, not from the running daemon")
        return None
    except Refused as error:
        print_error(0, f"the daemon refused: {escape(error)}")
        return None
    finally:
        client.close()
    return found


def _streamed(client: Client, key: str) -> dict[str, Any]:
    """Return a live explanation, and print its steps to standard error as they arrive."""
    for line in client.lines("explain", key, live=1, stream=1):
        if (step := line.get("step")) is not None:
            first = escape(step["found"].split("\n")[0])
            print_error(0, f"  {step['title'].strip()}: {first}")
        elif "result" in line:
            found: dict[str, Any] = line["result"]
            return found
        else:
            raise Refused(503, line["error"])
    raise Unreachable("the answer is incomplete")


async def _from_store(args: argparse.Namespace, config: "Config") -> int:
    """Explain by the store and the configuration, without the daemon."""
    from ..errors import StoreError

    code = os.EX_OK
    try:
        stored = await _stored(args.key, config)
    except (OSError, StoreError) as error:
        why = error.sentence if isinstance(error, StoreError) else error.strerror
        hint = "Stored policies may be missing below: run this as root, or as the daemon's user."
        code = print_error(os.EX_NOINPUT, f"{config.store.file(os.environ)} cannot be read: {why}\n{hint}")
        stored = None
    found = await _explained(args, config, stored)
    _print(found.as_json(), as_json=args.json)
    return code


async def _explained(args: argparse.Namespace, config: "Config", stored: "CacheEntry | None") -> "Explanation":
    from ..daemon.wiring import fetcher_for, resolver_for, settings_for
    from ..diagnose.explain import explain
    from ..dns.health import validates
    from ..postfix.main_cf import read_main_cf

    settings = settings_for(config, read_main_cf())
    if not args.live:
        return await explain(args.key, settings, stored, time.time())
    resolver = resolver_for(config)
    fetcher = fetcher_for(config, resolver)
    try:
        signed = await validates(resolver, config.dns.dnssec_probe, config.dns.bogus_probe)
        return await explain(args.key, settings, stored, time.time(), (resolver, fetcher), signed)
    finally:
        await fetcher.close()
        await resolver.close()


async def _stored(key: str, config: "Config") -> "CacheEntry | None":
    """Return the entry in the daemon's store. Raise OSError and StoreError."""
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
