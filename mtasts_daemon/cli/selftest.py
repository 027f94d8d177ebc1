"""``mtastsctl selftest``: whether this host can do what transport security needs."""

import argparse
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .output import colored, escape, print_error, print_json, print_out

if TYPE_CHECKING:
    from ..config import Config

__all__ = ["SelftestResult", "ca_result", "clock_result", "register", "route_result"]

_ROUTES = {"IPv4": (socket.AF_INET, "198.41.0.4"), "IPv6": (socket.AF_INET6, "2001:503:ba3e::2:30")}
"""An address of each family that is in the routing table of every connected host: a root name server's."""


@dataclass(frozen=True, slots=True)
class SelftestResult:
    """One test. ``good`` is None if the outcome only needs to be known."""

    name: str
    good: bool | None
    found: str
    remedy: str = ""


def register(commands: "argparse._SubParsersAction[Any]", configured: argparse.ArgumentParser) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser(
        "selftest",
        parents=[configured],
        help="check this host: resolver, port 25, clock, CA certificates, IPv6, Postfix; exit code 1 if one fails",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=_selftest)


def _selftest(args: argparse.Namespace) -> int:
    import asyncio

    from ..config import ConfigProblems, load

    try:
        config = load(args.config, environ=os.environ)
    except ConfigProblems as error:
        for problem in error.problems:
            print_error(os.EX_CONFIG, str(problem))
        return os.EX_CONFIG
    results = [
        *asyncio.run(_network(config)),
        clock_result(time.time(), _program_date(), _synchronized()),
        ca_result(config.https.ca_file),
        *(route_result(family) for family in _ROUTES),
        *_postfix(config),
    ]
    code = 1 if any(result.good is False for result in results) else os.EX_OK
    if args.json:
        print_json({"ok": code == 0, "results": [asdict(result) for result in results]})
        return code
    for result in results:
        sign = {True: "ok  ", False: "FAIL", None: "note"}[result.good]
        print_out(f"{colored(result.good, sign)} {result.name:<24} {escape(result.found)}")
        if result.remedy and not result.good:
            print_out(f"     {'':<24} {result.remedy}")
    return code


async def _network(config: "Config") -> list[SelftestResult]:
    from ..diagnose.check.checker import DomainChecker
    from ..errors import ConfigError, DnsError

    try:
        checker = DomainChecker(config)
    except ConfigError as error:
        return [SelftestResult("network", False, error.detail, "Correct https.ca_file.")]
    try:
        asked = ", ".join(checker.resolver.addresses)
        try:
            await checker.resolver.ns("")
        except DnsError as error:
            remedy = "Start the resolver, or name another one in dns.resolvers."
            return [SelftestResult("resolver", False, f"{asked}: {error.sentence}", remedy)]
        return [SelftestResult("resolver", True, f"{asked} answers"), await _dnssec(checker), await _port25(checker)]
    finally:
        await checker.close()


async def _dnssec(checker: Any) -> SelftestResult:
    found = await checker.validates()
    if found:
        return SelftestResult("DNSSEC", True, "the resolver validates")
    return SelftestResult(
        "DNSSEC",
        False,
        "the resolver does not validate, or is not trusted" if found is False else "no answer to the probe",
        "Use a validating resolver on this host, such as Unbound, or list yours in dns.trust_ad; DANE is off without.",
    )


async def _port25(checker: Any) -> SelftestResult:
    domain = await checker.reachable_reference()
    if domain is not None:
        return SelftestResult("port 25", True, f"an MX host of {domain} answers")
    return SelftestResult(
        "port 25",
        False,
        "no MX host of several large domains can be reached",
        "Ask the provider to open outgoing connections to port 25, or check the firewall.",
    )


def _program_date() -> float:
    """Return when the program's files were installed: no clock that is right shows an earlier time."""
    return Path(__file__).stat().st_mtime


def _synchronized() -> bool | None:
    """Return whether the system says that its clock is synchronised, or None if it does not say."""
    if Path("/run/systemd/timesync/synchronized").exists():
        return True
    command = ("timedatectl", "show", "--property=NTPSynchronized", "--value")
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, check=False)  # noqa: S603 - a fixed command
    except (OSError, subprocess.SubprocessError):
        return None
    return {b"yes": True, b"no": False}.get(done.stdout.strip())


def clock_result(now: float, program: float, synchronized: bool | None) -> SelftestResult:
    """Judge the clock: certificates and policies are valid for a time."""
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    remedy = "Run an NTP client, such as systemd-timesyncd or chrony."
    if now < program - 86400:
        return SelftestResult("clock", False, f"{shown} is before this program was installed", remedy)
    if synchronized is False:
        return SelftestResult("clock", False, f"{shown}, and not synchronised", remedy)
    said = "synchronised" if synchronized else "nothing says whether it is synchronised"
    return SelftestResult("clock", True if synchronized else None, f"{shown}, {said}")


def ca_result(ca_file: Path | None) -> SelftestResult:
    """Count the CA certificates that policy hosts and MX hosts are verified with."""
    from ..admin.checks import count_authorities

    remedy = "Install the package ca-certificates, or name a file in https.ca_file."
    try:
        count, where = count_authorities(ca_file)
    except OSError as error:
        return SelftestResult(
            "CA certificates", False, f"{ca_file or error.filename}: {error.strerror or error}", remedy
        )
    if not count:
        return SelftestResult("CA certificates", False, f"there are none in {where}", remedy)
    return SelftestResult("CA certificates", True, f"{count} authorities in {where}")


def route_result(family: str) -> SelftestResult:
    """Ask the routing table whether there is a route; nothing is sent."""
    kind, address = _ROUTES[family]
    try:
        with socket.socket(kind, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 53))
            local = probe.getsockname()[0]
    except OSError as error:
        good = None if family == "IPv6" else False
        return SelftestResult(family, good, f"no route: {error.strerror or error}", f"Configure {family}.")
    return SelftestResult(family, True, f"routed, from {local}")


def _postfix(config: "Config") -> Iterator[SelftestResult]:
    from .postfix_host import find_postfix
    from .setup import findings

    postfix = find_postfix()
    if postfix is None:
        yield SelftestResult("Postfix", None, "there is neither postconf(1) nor a main.cf that can be read")
        return
    for finding in findings(config, postfix):
        yield SelftestResult(f"Postfix {finding.what}", finding.good, finding.found, "Run mtastsctl setup.")
