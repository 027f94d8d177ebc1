"""``mtastsctl cache``: what the daemon has stored; to look at, to refresh, to purge, to take elsewhere."""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from ..policy.next_hop import policy_domain
from .admin_client import Client, Refused, asks
from .output import Progress, print_error, print_out, printable, say_json, table, when

__all__ = ["register"]

_SORTS = ("domain", "mode", "expires", "due", "used", "fetched", "failures")
_PAGE = 500
_AT_ONCE = 1000
_MAX_LINE = 1 << 20
_KEYS = {"domain": str, "record_id": str, "body": str, "fetched_at": int | float}


def register(commands: "argparse._SubParsersAction[Any]", configured: argparse.ArgumentParser) -> None:
    """Add the verbs to the command line."""
    parser = commands.add_parser("cache", help="the policies that are stored")
    parser.set_defaults(command=lambda _args: parser.error("a command is needed"))
    verbs = parser.add_subparsers(metavar="COMMAND")

    def verb(name: str, run: Any, description: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = verbs.add_parser(name, parents=[configured], help=description)
        asks(added, run)
        return added

    listed = verb("list", _list, "list them")
    listed.add_argument("text", metavar="TEXT", nargs="?", help="those with this in the domain")
    listed.add_argument("--mode", choices=("enforce", "testing", "none"), help="those of this mode")
    listed.add_argument("--failing", action="store_true", help="those whose last refresh failed")
    listed.add_argument("--expiring", metavar="TIME", help="those that end within this time, such as 24h")
    listed.add_argument("--sort", metavar="KEY", choices=_SORTS, default="domain", help=", ".join(_SORTS))
    listed.add_argument("--reverse", action="store_true", help="the other way round")
    listed.add_argument("--limit", metavar="N", type=_count, default=100, help="default: %(default)s; 0: all")
    verb("show", _show, "all that is known of one; exit code 1 if nothing is").add_argument(
        "domain", metavar="DOMAIN", type=_domain
    )
    for name, run, description in (
        ("refresh", _refresh, "ask DNS and the policy host now"),
        ("purge", _purge, "forget a domain; it is discovered anew when it is asked for"),
    ):
        verb(name, run, description).add_argument("domains", metavar="DOMAIN", nargs="+")
    file = verb("export", _export, "write all of them, a JSON document a line")
    file.add_argument("file", metavar="FILE", nargs="?", default="-", help="- is standard output (default)")
    file = verb("import", _import, "take over policies from an export, or from another program's cache")
    file.add_argument("--format", choices=("export", "resolver", "domains"), default="export", help=_FORMATS)
    file.add_argument("file", metavar="FILE", help="- is standard input")


_FORMATS = (
    "export: what cache export writes (default); resolver: the SQLite cache of postfix-mta-sts-resolver; domains: a"
    " list of domains to look up, the first word of each line, such as postfix-tlspol -dump writes"
)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!a} is not a number")
    return int(text)


# -- looking -----------------------------------------------------------------------------------------------


def _list(args: argparse.Namespace, client: Client) -> int:
    wanted = args.limit or sys.maxsize
    query = {
        "q": args.text,
        "mode": args.mode,
        "failing": 1 if args.failing else None,
        "expiring": args.expiring,
        "sort": f"{'-' if args.reverse else ''}{args.sort}",
        "limit": min(wanted, _PAGE),
    }
    entries: list[Mapping[str, Any]] = []
    total = 0
    for page in client.pages(**query):
        entries += page["entries"]
        total = page["total"] if page["total"] is not None else total
        if len(entries) >= wanted:
            break
    del entries[wanted:]
    if args.json:
        return say_json({"entries": entries, "total": total})
    now = time.time()
    rows = [
        (
            entry["domain"],
            entry["mode"] or "?",
            entry["record_id"] or "-",
            when(entry["valid_until"], now),
            when(entry["due_at"], now),
            when(entry["last_used"], now),
            _failure(entry),
        )
        for entry in entries
    ]
    if not rows:
        return print_error(os.EX_OK, "no stored policy is such" if _narrowed(args) else "no policy is stored")
    print_out(table(("DOMAIN", "MODE", "ID", "ENDS", "REFRESH", "USED", "LAST FAILURE"), rows))
    if len(entries) < total:
        print_error(0, f"{len(entries):,} of {total:,}; --limit 0 shows all")
    return os.EX_OK


def _narrowed(args: argparse.Namespace) -> bool:
    return bool(args.text or args.mode or args.failing or args.expiring)


def _failure(entry: Mapping[str, Any]) -> str:
    return f"{entry['failure_problem']} x{entry['failure_count']}" if entry["failure_problem"] else "-"


def _domain(text: str) -> str:
    try:
        return policy_domain(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!a}: {error}") from None


def _show(args: argparse.Namespace, client: Client) -> int:
    found = client.get("entries", args.domain)
    return say_json(found) if args.json else print_out(_as_text(found))


def _as_text(found: Mapping[str, Any]) -> str:
    now = time.time()
    lines = [found["domain"]]
    held, txt, failure = found["held"], found["txt"], found["failure"]
    if held is None:
        lines.append("  no policy is held")
    else:
        state = "ends" if held["live"] else "ended"
        lines.append(
            f"  policy   mode {held['mode']}, id {held['record_id']}, {state} {when(held['valid_until'], now)}"
        )
        lines.append(f"  fetched  {when(held['fetched_at'], now)}, refresh {when(found['due_at'], now)}")
        lines += [f"           {printable(line)}" for line in held["lines"]]
    if txt is not None:
        what = printable(txt["detail"] or txt["problem"] or f"id {txt['record_id']}")
        lines.append(
            f"  TXT      {what if txt['record_id'] or txt['problem'] else 'no record'}, {when(txt['at'], now)}"
        )
    if failure is not None:
        again = f"attempt {failure['count']}, again {when(failure['retry_at'], now)}"
        lines.append(f"  failure  {printable(failure['detail'])} ({failure['problem']}), {again}")
    # Of a domain without a policy that is not kept.
    if found["last_used"]:
        lines.append(f"  used     first {when(found['first_used'], now)}, last {when(found['last_used'], now)}")
    return "\n".join(lines)


# -- doing -------------------------------------------------------------------------------------------------


def _refresh(args: argparse.Namespace, client: Client) -> int:
    found, code = [], os.EX_OK
    for domain in args.domains:
        entry = client.post("refresh", domain)
        found.append(entry)
        failed = entry["failure"] is not None or (entry["txt"] or {}).get("problem") is not None
        code = os.EX_TEMPFAIL if failed else code
        if not args.json:
            print_out(_as_text(entry))
    return say_json(found) or code if args.json else code


def _purge(args: argparse.Namespace, client: Client) -> int:
    purged: dict[str, bool] = {}
    for domain in args.domains:
        try:
            client.post("purge", domain)
            purged[domain] = True
        except Refused as error:
            if error.status != 404:
                raise
            purged[domain] = False
            print_error(1, f"{printable(domain)}: {error}")
    if args.json:
        say_json(purged)
    return os.EX_OK if all(purged.values()) else 1


def _export(args: argparse.Namespace, client: Client) -> int:
    # Asked before the file is opened, so that an export of yesterday is not lost to a daemon that is down.
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
    """Write the page and those that follow; how many policies they were."""
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
    told: dict[str, Any] = {"kept": 0, "older": 0, "refused": unread}
    progress = Progress("importing", len(entries))
    for begin in range(0, len(entries), _AT_ONCE):
        progress.at(begin)
        for some in _within_limit(entries[begin : begin + _AT_ONCE]):
            found = client.post("import", body={"entries": some})
            told = {key: told[key] + found[key] for key in told}
    progress.end()
    return _told(args, told)


def _exported(lines: Iterable[str]) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """The entries of an export, and its lines that are none. Raises ValueError where it does not begin as one."""
    entries, unread = list[dict[str, Any]](), list[dict[str, str]]()
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                entries.append(_entry(line))
        except ValueError as error:
            if not entries:
                raise ValueError(f"line {number} is not as cache export writes it: {error}") from None
            unread.append({"domain": f"line {number}", "reason": str(error)})
    return entries, unread


def _entry(line: str) -> dict[str, Any]:
    """One line of an export. Raises ValueError with what is wrong."""
    if len(line) > _MAX_LINE:
        raise ValueError("it is longer than any policy")
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON, or is cut off") from None
    if not isinstance(entry, dict):
        raise ValueError("it is no JSON object")
    for key, kind in _KEYS.items():
        if not isinstance(entry.get(key), kind):
            raise ValueError(f"{key} is missing, or of another kind")
    return entry


def _within_limit(entries: list[Any]) -> Iterator[list[Any]]:
    """In parts that the daemon takes in one go."""
    if len(entries) > 1 and len(json.dumps(entries)) > _MAX_LINE:
        middle = len(entries) // 2
        yield from _within_limit(entries[:middle])
        yield from _within_limit(entries[middle:])
    else:
        yield entries


def _told(args: argparse.Namespace, told: Mapping[str, Any]) -> int:
    if args.json:
        say_json(told)
    else:
        print_out(f"{told['kept']:,} taken over, {told['older']:,} known already, {len(told['refused']):,} refused")
        for refused in told["refused"]:
            print_error(0, f"{printable(refused['domain'])}: {printable(refused['reason'])}")
    return os.EX_DATAERR if told["refused"] else os.EX_OK


def _lines(name: str) -> Iterable[str]:
    if name == "-":
        return sys.stdin.read().splitlines()
    return Path(name).read_text("utf-8", "surrogateescape").splitlines()


def _look_up(args: argparse.Namespace, client: Client, domains: list[str]) -> int:
    """Have the daemon discover the domains' policies."""
    told: dict[str, Any] = {"kept": 0, "older": 0, "refused": []}
    progress = Progress("looking up", len(domains))
    for done, domain in enumerate(domains):
        progress.at(done)
        try:
            entry = client.post("refresh", domain)
        except Refused as error:
            told["refused"].append({"domain": domain, "reason": str(error)})
            continue
        if entry["held"] is not None:
            told["kept"] += 1
        else:
            reason = (entry["failure"] or entry["txt"] or {}).get("detail") or "it has no policy"
            told["refused"].append({"domain": domain, "reason": reason})
    progress.end()
    return _told(args, told)
