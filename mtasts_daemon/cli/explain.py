"""``mtastsctl explain``: why a domain gets its reply, from the running daemon or from its store."""

import argparse
import json
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .admin_client import Client, Refused, Unreachable, admin_socket, socket_option
from .command_line import Verbs, key
from .output import colored, escape, format_duration, print_error, print_out, print_problems, step_printer

if TYPE_CHECKING:
    from ..config import Config
    from ..diagnose.explanation import Explanation
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
        path, refused = None if args.offline else args.socket or admin_socket(args.config, os.environ), os.EX_OK
        if path is not None:
            found, refused = _from_daemon(args, str(path))
            if found is not None:
                return _print(found, as_json=args.json)
        code = asyncio.run(_from_store(args, load(args.config, environ=os.environ)))
    except ConfigProblems as error:
        return print_problems(error)
    except ConfigError as error:
        return print_error(os.EX_CONFIG, error.detail)
    return refused or code


def _print(found: dict[str, Any], *, as_json: bool) -> int:
    """Print an explanation as the daemon's API returns it: the verdict first, then the steps."""
    from ..diagnose.explanation import Explanation

    if as_json:
        return print_out(json.dumps(found))
    since = found.pop("deferred_since", None)
    first, *rest = Explanation.from_json(found).as_text().split("\n")
    state = (found["verdict"] or {}).get("state", "default")
    print_out(colored({"authenticated": True, "deferred": False, "failing": False}.get(state), first))
    if since:
        print_out(f"  deferred since {format_duration(time.time() - since)}")
    return print_out("\n".join(rest))


def _from_daemon(args: argparse.Namespace, path: str) -> tuple[dict[str, Any] | None, int]:
    """Return the daemon's explanation, or None and an exit code after a message that it gave none."""
    client = Client(path)
    try:
        if args.live:
            return client.result("GET", "explain", args.key, on_step=step_printer(), live=1), os.EX_OK
        return client.get_soon("explain", args.key), os.EX_OK
    except Unreachable as error:
        state = "does not answer, so Postfix defers mail that it has to look up"
        code = print_error(os.EX_UNAVAILABLE, f"the daemon {'was not asked' if error.denied else state}: {error}")
    except Refused as error:
        code = print_error(error.exit_code, f"the daemon refused: {escape(error)}")
    finally:
        client.close()
    print_error(0, "what follows is from the daemon's store and configuration, not from the running daemon")
    return None, code


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
    from ..diagnose.explain import ObservedMail, explain
    from ..diagnose.policy_map import policy_map
    from ..dns.health import validates
    from ..https.trust_anchors import client_tls
    from ..postfix.main_cf import read_main_cf

    main_cf = read_main_cf()
    settings = settings_for(config, main_cf)
    observed = ObservedMail(policy_map(main_cf, settings.zones, settings.default_zone))
    if not args.live:
        return await explain(args.key, settings, stored, time.time(), observed=observed)
    client_tls(config.https.ca_file)  # raises ConfigError, which the daemon's fetcher does not
    resolver = resolver_for(config)
    fetcher = fetcher_for(config, resolver)
    printer = step_printer()
    try:
        signed = await validates(resolver, config.dns.dnssec_probe, config.dns.bogus_probe)
        ports = (resolver, fetcher)
        return await explain(
            args.key,
            settings,
            stored,
            time.time(),
            ports,
            signed,
            observed=observed,
            on_step=None if printer is None else lambda step: printer(asdict(step)),
        )
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
