"""``mtastsctl cache export`` and ``import``: move policies between hosts, or from another program."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from .admin_client import Client, Refused
from .output import Progress, escape, print_error, print_json, print_out

__all__ = ["register"]

_PAGE = 500
_ENTRIES_PER_REQUEST = 1000
_MAX_LINE = 1 << 20
_KEYS = {"domain": str, "record_id": str, "body": str, "fetched_at": int | float}
_FORMATS = (
    "export: written by cache export (default); resolver: the SQLite cache of postfix-mta-sts-resolver; domains: a"
    " list of domains to look up, the first word of each line, such as postfix-tlspol -dump writes"
)


def register(verb: Callable[[str, Any, str], argparse.ArgumentParser]) -> None:
    """Add both verbs below ``cache``."""
    parser = verb("export", _export, "write all policies, one JSON document per line")
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="- is standard output (default)")
    parser = verb("import", _import, "add policies from an export, or from another program's cache")
    parser.add_argument("--format", choices=("export", "resolver", "domains"), default="export", help=_FORMATS)
    parser.add_argument("file", metavar="FILE", help="- is standard input")


# -- export ------------------------------------------------------------------------------------------------


def _export(args: argparse.Namespace, client: Client) -> int:
    # Requested before the file is opened, so that an existing export is not lost if the daemon is down.
    page = client.get("export", after="", limit=_PAGE)
    try:
        with _writing(args.file) as out:
            count = _write(out, page, client)
    except BrokenPipeError:
        raise
    except OSError as error:
        return print_error(os.EX_CANTCREAT, f"{args.file} cannot be written: {error.strerror or error}")
    return print_error(os.EX_OK, f"{count:,} policies")


def _write(out: TextIO, page: Mapping[str, Any], client: Client) -> int:
    """Write this page and the following ones. Return the number of policies."""
    count = 0
    while True:
        out.writelines(json.dumps(entry) + "\n" for entry in page["entries"])
        count += len(page["entries"])
        if page["next"] is None:
            out.flush()
            return count
        page = client.get("export", after=page["next"], limit=_PAGE)


@contextlib.contextmanager
def _writing(name: str) -> Iterator[TextIO]:
    if name == "-":
        yield sys.stdout
        return
    with Path(name).open("w", encoding="utf-8") as file:
        yield file


# -- import ------------------------------------------------------------------------------------------------


def _import(args: argparse.Namespace, client: Client) -> int:
    from .migrate import resolver_entries

    try:
        if args.format == "domains":
            return _look_up(args, client, [line.split()[0] for line in _lines(args.file) if line.split()])
        if args.format == "resolver":
            entries, unread = resolver_entries(Path(args.file)), list[dict[str, str]]()
        else:
            entries, unread = _exported(_lines(args.file))
    except OSError as error:
        return print_error(os.EX_NOINPUT, f"{args.file}: {error.strerror or error}")
    except ValueError as error:
        return print_error(os.EX_DATAERR, f"{args.file}: {error}")
    totals: dict[str, Any] = {"kept": 0, "older": 0, "refused": unread}
    progress = Progress("importing", len(entries))
    for begin in range(0, len(entries), _ENTRIES_PER_REQUEST):
        progress.at(begin)
        for some in _within_limit(entries[begin : begin + _ENTRIES_PER_REQUEST]):
            found = client.post("import", body={"entries": some})
            totals = {key: totals[key] + found[key] for key in totals}
    progress.end()
    return _print_totals(args, totals)


def _exported(lines: Iterable[str]) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Return the entries of an export, and its unreadable lines. Raise ValueError if the first line is not an entry."""
    entries, unread = list[dict[str, Any]](), list[dict[str, str]]()
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                entries.append(_entry(line))
        except ValueError as error:
            if not entries:
                raise ValueError(f"line {number} is not from cache export: {error}") from None
            unread.append({"domain": f"line {number}", "reason": str(error)})
    return entries, unread


def _entry(line: str) -> dict[str, Any]:
    """Return one line of an export. Raise ValueError with the reason if it is not an entry."""
    if len(line) > _MAX_LINE:
        raise ValueError("longer than any policy")
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("not JSON, or cut off") from None
    if not isinstance(entry, dict):
        raise ValueError("not a JSON object")
    for key, kind in _KEYS.items():
        if not isinstance(entry.get(key), kind):
            raise ValueError(f"{key} is missing or has the wrong type")
    return entry


def _within_limit(entries: list[Any]) -> Iterator[list[Any]]:
    """Split the entries so that each part fits into one request."""
    if len(entries) > 1 and len(json.dumps(entries)) > _MAX_LINE:
        middle = len(entries) // 2
        yield from _within_limit(entries[:middle])
        yield from _within_limit(entries[middle:])
    else:
        yield entries


def _print_totals(args: argparse.Namespace, totals: Mapping[str, Any]) -> int:
    if args.json:
        print_json(totals)
    else:
        print_out(
            f"{totals['kept']:,} imported, {totals['older']:,} known already, {len(totals['refused']):,} rejected"
        )
        for refused in totals["refused"]:
            print_error(0, f"{escape(refused['domain'])}: {escape(refused['reason'])}")
    return os.EX_DATAERR if totals["refused"] else os.EX_OK


def _lines(name: str) -> Iterable[str]:
    if name == "-":
        return sys.stdin.read().splitlines()
    return Path(name).read_text("utf-8", "surrogateescape").splitlines()


def _look_up(args: argparse.Namespace, client: Client, domains: list[str]) -> int:
    """Make the daemon discover the policies of the domains."""
    totals: dict[str, Any] = {"kept": 0, "older": 0, "refused": []}
    progress = Progress("looking up", len(domains))
    for done, domain in enumerate(domains):
        progress.at(done)
        try:
            entry = client.post("refresh", domain)
        except Refused as error:
            totals["refused"].append({"domain": domain, "reason": str(error)})
            continue
        if entry["held"] is not None:
            totals["kept"] += 1
        else:
            reason = (entry["failure"] or entry["txt"] or {}).get("detail") or "the domain has no policy"
            totals["refused"].append({"domain": domain, "reason": reason})
    progress.end()
    return _print_totals(args, totals)
