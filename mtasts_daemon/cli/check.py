"""``mtastsctl check``: how a domain looks to a sender. Needs neither a daemon nor a configuration."""

import argparse
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .output import escape, print_error, print_out, printable_name

if TYPE_CHECKING:
    from ..config import Config
    from ..diagnose.check.checker import DomainChecker
    from ..diagnose.check.gather import CheckStep
    from ..diagnose.check.result import CheckResult

__all__ = ["register"]

_WATCH_LEAST = 5.0
# Which exit code counts of several, the first that occurs.
_PRECEDENCE = (os.EX_USAGE, 2, os.EX_TEMPFAIL, 1, 0)


def register(commands: "argparse._SubParsersAction[Any]", configured: argparse.ArgumentParser) -> None:
    """Add the verb to the command line."""
    parser = commands.add_parser(
        "check",
        parents=[configured],
        help="check how a domain looks to a sender",
        description="Check the MTA-STS policy, MX hosts, certificates, DANE and TLS reporting of domains, as a sender "
        "with no prior knowledge sees them.",
        epilog="exit code: 0 all well, 1 warnings, 2 errors, 75 could not be checked from here",
    )
    parser.add_argument("domains", metavar="DOMAIN", nargs="*", help="a domain, an e-mail address or a URL")
    parser.add_argument("--file", metavar="FILE", type=Path, help="check the domains in a file, one per line")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--csv", action="store_true", help="print one CSV row per domain")
    output.add_argument("--json", action="store_true", help="print JSON, one line per domain")
    parser.add_argument("-v", "--details", action="store_true", help="print everything that was seen")
    parser.add_argument("--mine", action="store_true", help="add advice for someone who runs the domain")
    parser.add_argument("--no-smtp", action="store_true", help="do not connect to port 25")
    parser.add_argument("--watch", metavar="TIME", type=_interval, help="repeat at this interval, such as 10s")
    parser.set_defaults(command=_check)


def _interval(text: str) -> float:
    from ..config.problems import BadValue
    from ..config.values import Duration

    try:
        found = float(Duration.parse(text))
    except BadValue as error:
        raise argparse.ArgumentTypeError(error.message) from None
    if found < _WATCH_LEAST:
        raise argparse.ArgumentTypeError(f"{text} is below {_WATCH_LEAST:g}s")
    return found


def _check(args: argparse.Namespace) -> int:
    import asyncio

    from ..errors import ConfigError

    texts = list(args.domains)
    if args.file is not None:
        try:
            texts += _read_list(args.file)
        except OSError as error:
            return print_error(os.EX_NOINPUT, f"{args.file}: {error.strerror or error}")
    if not texts:
        named = "name a domain, or a file with --file" if args.file is None else f"{args.file}: no domains in the file"
        return print_error(os.EX_USAGE, named)
    config = _configuration(args)
    if config is None:
        return os.EX_CONFIG
    try:
        return asyncio.run(_run(args, texts, config))
    except ConfigError as error:
        return print_error(os.EX_CONFIG, error.detail)


def _read_list(path: Path) -> list[str]:
    """Return the first word of each line; lines that begin with # are comments."""
    with path.open(encoding="utf-8-sig", errors="backslashreplace") as file:
        lines = [line.strip() for line in file]
    return [line.split()[0] for line in lines if line and not line.startswith("#")]


def _configuration(args: argparse.Namespace) -> "Config | None":
    """Return the configuration, the defaults if none is named and the usual one cannot be used, or None."""
    from ..config import Config, ConfigProblems, load

    try:
        return load(args.config, environ=os.environ)
    except ConfigProblems as error:
        for problem in error.problems:
            print_error(0, str(problem))
        if args.config is not None:
            return None
        print_error(0, "the defaults are used instead")
        return Config()


async def _run(args: argparse.Namespace, texts: Sequence[str], config: "Config") -> int:
    import asyncio

    async with _checker(args, config) as checker:
        if args.watch is None:
            return await _once(args, texts, checker)
        while True:
            await _once(args, texts, checker)
            sys.stdout.flush()
            await asyncio.sleep(args.watch)


@asynccontextmanager
async def _checker(args: argparse.Namespace, config: "Config") -> "AsyncIterator[DomainChecker]":
    from ..diagnose.check.checker import DomainChecker

    # Someone who repairs a server while watching wants to see it: sessions with a problem are opened again.
    again = {} if args.watch is None else {"hold_failed": min(args.watch, 300.0)}
    checker = DomainChecker(config, port25=not args.no_smtp, **again)
    try:
        yield checker
    finally:
        await checker.close()


async def _once(args: argparse.Namespace, texts: Sequence[str], checker: "DomainChecker") -> int:
    from .check_batch import check_batch

    if args.csv or args.file is not None or len(texts) > 3:
        return _worst(await check_batch(args, texts, checker))
    codes = [await _one(args, text, checker) for text in texts]
    return _worst(codes)


def _worst(codes: Sequence[int]) -> int:
    return next((code for code in _PRECEDENCE if code in codes), 0)


async def _one(args: argparse.Namespace, text: str, checker: "DomainChecker") -> int:
    from ..policy.user_input import parse_user_domain

    try:
        domain = parse_user_domain(text)
    except ValueError as error:
        return print_error(os.EX_USAGE, f"{printable_name(text)}: not a domain that can be checked: {error}")
    steps = _Steps(domain)
    try:
        result = await checker.check(domain, mine=args.mine, on_step=steps.show)
    except TimeoutError:
        steps.clear()
        return print_error(os.EX_TEMPFAIL, f"{domain}: the check did not finish in time")
    steps.clear()
    return show(args, result)


def show(args: argparse.Namespace, result: "CheckResult") -> int:
    """Print one result and return its exit code."""
    from .check_text import check_text

    if args.json:
        print_out(json.dumps(result.as_json()))
    else:
        print_out(check_text(result, verbose=args.details) + "\n")
    return result.exit_code


class _Steps:
    """Shows the last step on standard error, if that is a terminal."""

    def __init__(self, domain: str) -> None:
        self._domain = domain
        self._shown: Callable[[str], object] | None = sys.stderr.write if sys.stderr.isatty() else None

    def show(self, step: "CheckStep") -> None:
        """Show a step."""
        if self._shown is not None:
            line = escape(f"{self._domain}: {step.name} {step.subject}: {step.found}")
            self._shown(f"\r\033[K{line[:78]}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Remove the line."""
        if self._shown is not None:
            self._shown("\r\033[K")
            sys.stderr.flush()
