"""``mtastsctl publish``: the policies of your own domains, through the running daemon."""

import argparse
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .admin_client import Client, Refused, add_daemon_command
from .output import (
    Progress,
    colored,
    escape,
    format_duration,
    format_time,
    print_error,
    print_json,
    print_out,
    table,
)
from .publish_records import print_records

__all__ = ["register"]

_FAILURES_IN_A_ROW = 3
_BLOCKED = 1
"""Exit code if something has to be done before a policy can go live."""


def register(commands: "argparse._SubParsersAction[Any]", configured: argparse.ArgumentParser) -> None:
    """Add the verb to the command line."""
    publish = commands.add_parser(
        "publish",
        help="publish the MTA-STS policies of your own domains",
        description="Publish the MTA-STS policies of your own domains: publish.domains in the configuration.",
    )
    verbs = publish.add_subparsers(metavar="VERB", required=True)
    listing = verbs.add_parser("list", parents=[configured], help="list the domains and what happens next")
    listing.add_argument("--attention", action="store_true", help="only domains that need attention")
    add_daemon_command(listing, _list)
    status = verbs.add_parser(
        "status", parents=[configured], help="show one domain, or all of publishing; exit code 1 if something is wrong"
    )
    status.add_argument("domain", metavar="DOMAIN", nargs="?")
    status.add_argument("--check", action="store_true", help="check the domain now")
    add_daemon_command(status, _status)
    records = verbs.add_parser(
        "records", parents=[configured], help="print DNS records as zone-file lines, and what differs from DNS"
    )
    records.add_argument("domain", metavar="DOMAIN", nargs="?", help="default: all domains")
    records.add_argument("--diff", action="store_true", help="only what differs; exit code 1 if anything does")
    add_daemon_command(records, _records)
    apply = verbs.add_parser(
        "apply",
        parents=[configured],
        help="let a policy go live, then write its DNS records",
        description="Let the configured policy go live if the gate passes, then write the DNS records by RFC 2136, if "
        "publish.dns_update is configured, and wait until all authoritative servers have them.",
    )
    apply.add_argument("domain", metavar="DOMAIN", nargs="*")
    apply.add_argument(
        "--all", action="store_true", help="all domains whose policy is not live or not in DNS yet; run again to resume"
    )
    apply.add_argument("--force", metavar="REASON", help="pass over the gate; the reason is logged and shown")
    add_daemon_command(apply, _apply)
    rollout = verbs.add_parser(
        "rollout", parents=[configured], help="begin a rollout to mode enforce, or show where it is"
    )
    rollout.add_argument("domain", metavar="DOMAIN")
    rollout.add_argument("--next", action="store_true", help="take the next step")
    rollout.add_argument("--force", metavar="REASON", help="with --next: take the step although it is not ready")
    add_daemon_command(rollout, _rollout)
    remove = verbs.add_parser(
        "remove", parents=[configured], help="serve mode none, then say which DNS records to delete, or delete them"
    )
    remove.add_argument("domain", metavar="DOMAIN")
    add_daemon_command(remove, _remove)


# -- list and status ---------------------------------------------------------------------------------------


def _pages(client: Client, attention: bool = False) -> Iterator[Mapping[str, Any]]:
    after = None
    while True:
        page = client.get("publish", "domains", after=after, limit=500, attention="1" if attention else None)
        yield from page["domains"]
        after = page["next"]
        if after is None:
            return


def _list(args: argparse.Namespace, client: Client) -> int:
    domains = list(_pages(client, args.attention))
    if args.json:
        print_json(domains)
        return os.EX_OK
    now = time.time()
    rows = [
        (
            one["domain"],
            one["mode"] or "-",
            "-" if one["max_age"] is None else format_duration(one["max_age"]),
            one["id"] or "-",
            format_time(one["live_since"], now),
            one["phase"],
            _gate_word(one["gate"]),
            one["findings"] or "",
            one["next_step"],
        )
        for one in domains
    ]
    if not rows:
        print_out("no domains" + (" need attention" if args.attention else " are published"))
        return os.EX_OK
    print_out(table(("domain", "mode", "max_age", "id", "live since", "phase", "gate", "findings", "next"), rows))
    return os.EX_OK


def _gate_word(gate: Mapping[str, Any] | None) -> str:
    if gate is None:
        return "-"
    return "passed" if gate["passed"] else f"{len(gate['problems'])} problems"


def _status(args: argparse.Namespace, client: Client) -> int:
    if args.domain is None:
        if args.check:
            return print_error(os.EX_USAGE, "--check needs a domain")
        return _all_status(args, client)
    found = _work(client, "check", args.domain, {}) if args.check else client.get("publish", "domains", args.domain)
    bad = bool(found["findings"] or found["problems"] or (found["gate"] and not found["gate"]["passed"]))
    if args.json:
        print_json(found)
    else:
        print_out("\n".join(_domain_lines(found, time.time())))
    return _BLOCKED if bad else os.EX_OK


def _all_status(args: argparse.Namespace, client: Client) -> int:
    found = client.get("publish")
    bad = bool(found["problems"] or found["gated"] or found["with_findings"])
    if args.json:
        print_json(found)
        return _BLOCKED if bad else os.EX_OK
    modes = ", ".join(f"{count:,} {mode}" for mode, count in sorted(found["modes"].items())) or "none"
    lines = [
        f"domains      {found['domains']:,}: {modes}",
        f"listening    {', '.join(found['listening']) or colored(False, 'nowhere: add public.listen')}",
        f"gate         {found['gated']:,} wait for it",
        f"rollouts     {found['rollouts']:,} under way, {found['removals']:,} removals",
        f"checks       {found['with_findings']:,} with findings, {found['unchecked']:,} not checked since the start",
        f"forced       {found['forced']:,}",
    ]
    lines += [
        f"certificate  {escape(', '.join(one['names']))} until {format_time(one['not_after'], time.time())}"
        for one in found["certificates"]
    ]
    lines += [colored(False, escape(problem)) for problem in found["problems"]]
    print_out("\n".join(lines))
    return _BLOCKED if bad else os.EX_OK


def _domain_lines(found: Mapping[str, Any], now: float) -> Iterator[str]:
    served = "nothing is served"
    if found["mode"]:
        since = format_time(found["live_since"], now)
        served = f"mode {found['mode']}, max_age {format_duration(found['max_age'])}, since {since}"
    yield f"{found['domain']}: {served}"
    if found["id"]:
        yield f"  id         {found['id']}"
    yield f"  phase      {found['phase']}, wanted mode {found['wanted_mode'] or '-'}"
    if found["delegate_to"]:
        yield f"  delegates  to {found['delegate_to']}"
    yield from (f"  policy     {escape(line)}" for line in found["lines"])
    if found["forced"]:
        yield f"  {colored(False, 'forced')}     {escape(found['forced'])}"
    yield from _gate_lines(found["gate"], now)
    checked = "never since the start" if not found["checked_at"] else format_time(found["checked_at"], now)
    yield f"  checked    {checked}"
    for one in found["findings"]:
        yield f"  {colored(False, one['severity']):<10} {escape(one['subject'])}: {escape(one['sentence'])}"
        if one["remedy"]:
            yield f"             {escape(one['remedy'])}"
    yield from (f"  {colored(False, 'problem')}    {escape(problem)}" for problem in found["problems"])
    yield from _rollout_lines(found["rollout"])
    if found["removal"] and found["removal"]["until"]:
        yield f"  removal    senders may hold a policy until {format_time(found['removal']['until'], now)}"
    if found["next_step"]:
        yield f"  next       {escape(found['next_step'])}"
    for event in found["history"][:10]:
        yield f"  history    {format_time(event['at'], now)}: {event['event']} {escape(event['detail'])}"


def _gate_lines(gate: Mapping[str, Any] | None, now: float) -> Iterator[str]:
    if gate is None:
        return
    passed = colored(gate["passed"], "passed" if gate["passed"] else "refused")
    yield f"  gate       {passed} {format_time(gate['at'], now)}, for id {gate['id']}"
    for problem in gate["problems"]:
        yield f"    - {escape(problem['subject'])}: {escape(problem['sentence'])}"
        if problem["remedy"]:
            yield f"      {escape(problem['remedy'])}"


def _rollout_lines(rollout: Mapping[str, Any] | None) -> Iterator[str]:
    if rollout is None:
        return
    yield f"  rollout    next is {rollout['to']}, {rollout['clean_days']} clean days so far"
    yield from (f"    - {escape(missing)}" for missing in rollout["missing"])


def _records(args: argparse.Namespace, client: Client) -> int:
    names = [args.domain] if args.domain is not None else [one["domain"] for one in _pages(client)]
    return print_records(args, client, names)


# -- apply, rollout and remove -----------------------------------------------------------------------------


def _work(client: Client, verb: str, domain: str, body: object) -> Any:
    """Send the request to the daemon, and repeat it until long work has finished."""
    while True:
        found = client.post("publish", verb, domain, body=body)
        if found != {"running": True}:
            return found


def _apply(args: argparse.Namespace, client: Client) -> int:
    if args.force is not None and not args.force.strip():
        return print_error(os.EX_USAGE, "--force needs a reason")
    if bool(args.domain) == args.all or (args.all and args.force):
        return print_error(os.EX_USAGE, "name the domains, or use --all without --force")
    if len(args.domain) == 1:
        found = _work(client, "apply", args.domain[0], {"force": args.force or ""})
        if args.json:
            print_json(found)
        else:
            print_out("\n".join(_applied_lines(found)))
        return _applied_code(found)
    names = args.domain
    if args.all:
        writes_dns = client.get("publish")["dns_update"]
        names = [one["domain"] for one in _pages(client) if _is_unfinished(one, writes_dns=writes_dns)]
    if not names:
        return print_error(os.EX_OK, "nothing to do: every policy is live")
    return _apply_many(args, client, names)


def _is_unfinished(one: Mapping[str, Any], *, writes_dns: bool) -> bool:
    if not one["configured"] or one["phase"] in ("removing", "removed"):
        return False
    return one["outcome"] != "unchanged" or (writes_dns and one["dns_id"] != one["id"])


def _applied_code(found: Mapping[str, Any]) -> int:
    if found["outcome"] != "unchanged":
        return _BLOCKED
    return os.EX_OK if found["dns"] is None or found["dns"]["agreed"] else os.EX_TEMPFAIL


def _apply_many(args: argparse.Namespace, client: Client, names: Sequence[str]) -> int:
    """Apply one domain after the other, and stop if several fail in a row: a name server may be down."""
    bar, results, failed_in_a_row = Progress("applying", len(names)), list[Mapping[str, Any]](), 0
    codes: Counter[int] = Counter()
    for number, name in enumerate(names):
        bar.at(number)
        try:
            found = _work(client, "apply", name, {"force": args.force or ""})
        except Refused as error:
            bar.end()
            print_error(error.exit_code, f"{name}: {escape(error)}")
            results.append({"domain": name, "error": str(error)})
            codes[os.EX_TEMPFAIL] += 1
            failed_in_a_row += 1
            if failed_in_a_row == _FAILURES_IN_A_ROW:
                break
            continue
        failed_in_a_row = 0
        results.append(found)
        codes[_applied_code(found)] += 1
        if not args.json:
            bar.end()
            print_out("\n".join(_applied_lines(found)))
    bar.end()
    if args.json:
        print_json(results)
    left = len(names) - len(results)
    summary = f"{codes[os.EX_OK]:,} of {len(names):,} domains done, {codes[_BLOCKED]:,} wait for the gate"
    summary += f", {codes[os.EX_TEMPFAIL]:,} failed" + (f", {left:,} not tried: correct the cause" if left else "")
    resume = "" if codes[os.EX_OK] == len(names) else "; run the command again to resume"
    code = os.EX_TEMPFAIL if codes[os.EX_TEMPFAIL] else _BLOCKED if codes[_BLOCKED] else os.EX_OK
    return print_error(code, summary + resume)


def _applied_lines(found: Mapping[str, Any]) -> Iterator[str]:
    if found["outcome"] == "unchanged":
        live = "nothing"
        if found["mode"]:
            live = f"mode {found['mode']}, max_age {format_duration(found['max_age'])}, id {found['id']}"
        yield f"{found['domain']}: {live} is served"
    else:
        yield f"{found['domain']}: {colored(False, 'the policy did not go live')}: {escape(found['next_step'])}"
        yield from _gate_lines(found["gate"], time.time())
    dns = found["dns"]
    if dns is None:
        yield "  DNS        nothing was written: see mtastsctl publish records"
        return
    state = "all servers agree" if dns["agreed"] else "not yet everywhere"
    yield f"  DNS        {', '.join(dns['zones'])} written, {state}"
    for server in dns["servers"]:
        state = colored(not server["problem"], escape(server["problem"] or "ok"))
        yield f"    {server['name']} [{server['address']}] {state}"


def _rollout(args: argparse.Namespace, client: Client) -> int:
    if args.force is not None and (not args.force.strip() or not args.next):
        return print_error(os.EX_USAGE, "--force needs --next and a reason")
    found = _work(client, "rollout", args.domain, {"step": args.next, "force": args.force or ""})
    if args.json:
        print_json(found)
        return os.EX_OK
    lines = [f"{found['domain']}: phase {found['phase']}"]
    for step in found["plan"]:
        arrow = "->" if step["current"] else "  "
        lines.append(f"  {arrow} {step['phase']:<12} mode {step['mode']}, max_age {format_duration(step['max_age'])}")
    lines += _rollout_lines(found["rollout"])
    lines += _gate_lines(found["gate"], time.time())
    print_out("\n".join(lines))
    return os.EX_OK


def _remove(args: argparse.Namespace, client: Client) -> int:
    found = _work(client, "remove", args.domain, {})
    if args.json:
        print_json(found)
        return os.EX_OK
    removal, lines = found["removal"], []
    if removal["step"] == "wait":
        until = format_time(removal["until"], time.time())
        lines.append(f"{found['domain']}: mode none is served; senders may hold a policy until {until}")
        if found["dns"] is None:
            lines.append("  write the new id to DNS now: mtastsctl publish records")
        lines.append("  keep the policy host until then, and run this again")
    elif removal["step"] == "delete-records":
        lines.append(f"{found['domain']}: no sender holds a policy any more; delete these records:")
        lines += found["delete"]
    else:
        lines.append(f"{found['domain']}: removed; delete it from the configuration")
    print_out("\n".join(lines))
    return os.EX_OK
