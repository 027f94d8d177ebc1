"""The parser of both commands: options that every verb takes, argument types, and help for typing errors."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

__all__ = [
    "CommandParser",
    "Verbs",
    "add_global_options",
    "add_help_verb",
    "apply_global_options",
    "configuration_option",
    "count",
    "key",
    "map_name",
    "policy_domain",
    "seconds",
]

Verbs: TypeAlias = "argparse._SubParsersAction[Any]"

_GLOBAL = ("config", "socket", "json")


class CommandParser(argparse.ArgumentParser):
    """An ArgumentParser that exits with EX_USAGE and suggests what was probably meant."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the error, then exit with EX_USAGE."""
        self.print_usage(sys.stderr)
        self.exit(os.EX_USAGE, f"{self.prog}: {message}\n")

    # argparse offers no other way to change this message.
    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        known = ", ".join(choices)
        raise argparse.ArgumentError(action, f"no such choice: {value!a}{_suggestion(value, choices)} (known: {known})")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse, and report leftover arguments with the usage of their verb."""
        found, extra = super().parse_known_args(args, namespace)
        if extra:
            word = extra[0]
            what = "option" if word.startswith("-") else "argument"
            near = _suggestion(word.partition("=")[0], self._option_string_actions) if what == "option" else ""
            self.error(f"unknown {what}: {word}{near}")
        return found, extra


def _suggestion(word: object, known: Iterable[str]) -> str:
    import difflib  # only a command line with a mistake needs it

    near = difflib.get_close_matches(str(word), list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


def configuration_option() -> CommandParser:
    """Return a parent parser with ``--config``, for verbs that read the configuration."""
    parent = CommandParser(add_help=False)
    parent.add_argument("-c", "--config", metavar="FILE", type=Path, help=_CONFIG_HELP)
    return parent


_CONFIG_HELP = "read this configuration (default: /etc/mtasts-daemon/config.yml and conf.d/*.yml next to it)"


def add_global_options(parser: argparse.ArgumentParser, *, socket: bool) -> None:
    """Add the options that may stand before the verb; ``apply_global_options`` hands them to the verb."""
    parser.add_argument("-c", "--config", metavar="FILE", type=Path, dest="global_config", help=_CONFIG_HELP)
    if socket:
        parser.add_argument(
            "--socket", metavar="PATH", dest="global_socket", help="connect to the daemon's admin socket at PATH"
        )
        parser.add_argument("--json", action="store_true", dest="global_json", help="print JSON")


def apply_global_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Set the verb's own options from those before the verb. An option that the verb lacks is an error."""
    if getattr(args, "any_option", False):
        return
    for name in _GLOBAL:
        given = getattr(args, f"global_{name}", None)
        if not given:
            continue
        if not hasattr(args, name):
            parser.error(f"this command has no --{name}")
        if not getattr(args, name):
            setattr(args, name, given)


def add_help_verb(parser: argparse.ArgumentParser, verbs: Verbs) -> None:
    """Add ``help VERB``."""
    helper = verbs.add_parser("help", help="show help for a command")
    helper.add_argument("verb", metavar="COMMAND", nargs="*", help="the command, such as: cache list")
    helper.set_defaults(command=lambda args: _show_help(parser, helper, args.verb), any_option=True)


def _show_help(parser: argparse.ArgumentParser, helper: argparse.ArgumentParser, words: Sequence[str]) -> int:
    for word in words:
        verbs = next((a for a in parser._actions if isinstance(a, argparse._SubParsersAction)), None)
        if verbs is None or word not in verbs.choices:
            known = list(verbs.choices) if verbs is not None else []
            helper.error(f"there is no command {word!a}{_suggestion(word, known)}")
        parser = verbs.choices[word]
    parser.print_help()
    return os.EX_OK


# -- argument types ----------------------------------------------------------------------------------------


def seconds(least: float, most: float) -> Callable[[str], float]:
    """Return an argument type for a number of seconds from ``least`` to ``most``."""

    def parse(text: str) -> float:
        try:
            found = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!a} is not a number of seconds") from None
        if not least <= found <= most:
            raise argparse.ArgumentTypeError(f"{text} is out of range; use {least:g} to {most:g} seconds")
        return found

    return parse


def count(least: int, most: int, *, zero: str = "") -> Callable[[str], int]:
    """Return an argument type for a whole number; ``zero`` says what 0 means, if anything."""

    def parse(text: str) -> int:
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
            raise argparse.ArgumentTypeError(f"{text!a} is not a whole number")
        if not least <= int(text) <= most:
            note = f", {zero}" if zero else ""
            raise argparse.ArgumentTypeError(f"{text} is out of range; use {least} to {most}{note}")
        return int(text)

    return parse


def map_name(text: str) -> str:
    """Return a map name as main.cf has it. A blank would end the name in the request."""
    if not text.isascii() or not text.isprintable() or not text or " " in text:
        raise argparse.ArgumentTypeError(f"{text!a} is not a map name")
    return text


def key(text: str) -> str:
    """Return the lookup key in a domain, next-hop, e-mail address or URL."""
    from ..policy.user_input import parse_user_key

    try:
        return parse_user_key(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!a} is not a domain: {error}") from None


def policy_domain(text: str) -> str:
    """Return the policy domain in a domain, e-mail address or URL."""
    from ..policy.user_input import parse_user_domain

    try:
        return parse_user_domain(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!a} is not a domain: {error}") from None
