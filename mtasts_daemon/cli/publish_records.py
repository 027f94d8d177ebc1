"""``mtastsctl publish records``: zone-file lines of one domain or of many, and what differs from DNS."""

import argparse
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .admin_client import Client
from .output import Progress, escape, print_json, print_out

__all__ = ["print_records"]

_LOOKUPS_AT_ONCE = 8
_DIFFERS = 1


def print_records(args: argparse.Namespace, client: Client, names: Sequence[str]) -> int:
    """Print the records of these domains; exit code 1 with ``--diff`` if any differs from DNS."""
    results, differs = [], False
    for one in _each_record(client.path, names):
        differs = differs or bool(one["differences"])
        if args.json:
            results.append(one)
        else:
            print_out("\n".join(_record_lines(one, args.diff)) or f"; {one['domain']}: as DNS has it")
    if args.json:
        print_json(results)
    return _DIFFERS if args.diff and differs else os.EX_OK


def _each_record(path: str, names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the records of each domain, asking for several at a time: the daemon looks all of them up in DNS."""
    local, bar = threading.local(), Progress("looking up", len(names) if len(names) > 1 else 0)

    def records(name: str) -> Mapping[str, Any]:
        if not hasattr(local, "client"):
            local.client = Client(path)
        found: Mapping[str, Any] = local.client.get("publish", "records", name)
        return found

    with ThreadPoolExecutor(_LOOKUPS_AT_ONCE) as pool:
        try:
            for number, found in enumerate(pool.map(records, names)):
                if number % 100 == 0:
                    bar.at(number)
                yield found
        finally:
            pool.shutdown(cancel_futures=True)
            bar.end()


def _record_lines(found: Mapping[str, Any], only_differences: bool) -> Iterator[str]:
    """Yield a fragment of a zone file, with comments."""
    if not only_differences:
        yield f"; {found['domain']}"
        yield from found["lines"]
        if not found["served"]:
            yield "; no policy is served yet, so there is no TXT record: see mtastsctl publish status"
        if not found["endpoint"]:
            yield "; set publish.host or publish.addresses for the records of the policy host"
    for one in found["differences"]:
        there = f", DNS has {', '.join(map(escape, one['found']))}" if one["found"] else ""
        change = "cannot be looked up" if one["change"] == "unknown" else one["change"]
        yield f"; {change}: {one['name']} {one['type']} {one['wanted']}{there}"
