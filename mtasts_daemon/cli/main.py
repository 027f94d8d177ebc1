"""The two commands: ``mtasts-daemon`` is the daemon, ``mtastsctl`` queries and controls it.

Data goes to standard output, messages to standard error. Exit codes are those of sysexits(3). A module that is slow to
import is imported by the function that needs it, so that --help and --version are quick.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence

from .. import __version__
from .command_line import (
    CommandParser,
    add_global_options,
    add_help_verb,
    apply_global_options,
    configuration_option,
)
from .output import print_out

__all__ = ["ctl_main", "ctl_parser", "daemon_main", "daemon_parser"]

_LIBRARIES = ("aiohttp", "cryptography", "dnspython", "idna", "prometheus-client", "pydantic", "PyYAML", "uvloop")


def daemon_main(arguments: Sequence[str] | None = None) -> int:
    """Run ``mtasts-daemon`` and return its exit code."""
    return _run(daemon_parser(), arguments)


def ctl_main(arguments: Sequence[str] | None = None) -> int:
    """Run ``mtastsctl`` and return its exit code."""
    return _run(ctl_parser(), arguments)


def daemon_parser() -> CommandParser:
    """Return the parser of ``mtasts-daemon``."""
    # Only its own verbs: the daemon starts without waiting for the imports of the others.
    from . import check_config, serve

    parser = _parser("mtasts-daemon", "MTA-STS policy server for Postfix.")
    add_global_options(parser, socket=False)
    return _with_verbs(parser, (serve, check_config))


def ctl_parser() -> CommandParser:
    """Return the parser of ``mtastsctl``."""
    from . import (
        cache,
        check,
        explain,
        log_level,
        migrate,
        notify,
        publish,
        query,
        refresher,
        reload,
        reports,
        selftest,
        setup,
        status,
        tlsrpt,
        top,
    )

    parser = _parser("mtastsctl", "Query and control a running mtasts-daemon, and explain its replies.")
    add_global_options(parser, socket=True)
    # The order is the order of --help.
    modules = (
        *(status, top, query, explain, check, selftest, cache, refresher, reload, log_level, setup, migrate, tlsrpt),
        *(publish, reports, notify),
    )
    return _with_verbs(parser, modules)


def _parser(prog: str, description: str) -> CommandParser:
    parser = CommandParser(prog=prog, description=description)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument("--verbose", action="store_true", help="with --version: include Python and libraries")
    parser.set_defaults(command=None)
    return parser


def _with_verbs(parser: CommandParser, modules: Sequence[object]) -> CommandParser:
    verbs, configured = parser.add_subparsers(metavar="COMMAND"), configuration_option()
    for module in modules:
        module.register(verbs, configured)  # type: ignore[attr-defined]  # each module of the table has it
    add_help_verb(parser, verbs)
    return parser


def _run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    # Otherwise pydantic searches the metadata of every installed package for plugins.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # An argument may hold bytes that are not text, and the locale may lack characters.
            stream.reconfigure(errors="backslashreplace")
    args = parser.parse_args(arguments)
    apply_global_options(parser, args)
    try:
        if args.version:
            return print_out(_versions() if args.verbose else f"{parser.prog} {__version__}")
        if args.command is None:
            parser.error(f"a command is needed; list them with: {parser.prog} help")
        code: int = args.command(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of standard output has closed the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return os.EX_OK
    return code


def _versions() -> str:
    import platform
    import ssl
    from importlib.metadata import PackageNotFoundError, version

    lines = [f"mtasts-daemon {__version__}", f"Python {platform.python_version()}", ssl.OPENSSL_VERSION]
    for name in _LIBRARIES:
        try:
            lines.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lines.append(f"{name} is not installed")
    return "\n".join([*lines, platform.platform()])
