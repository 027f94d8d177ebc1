"""The two commands. ``mtasts-daemon`` is the daemon, ``mtastsctl`` asks it and explains.

Standard output is data, standard error is talk; exit codes are those of sysexits(3). What takes long to import is
imported where it is needed, so that --help and --version are quick.
"""

import argparse
import gc
import io
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .. import __version__
from . import check, explain, migrate, notify, operate, publish, reports, selftest, tlsrpt

if TYPE_CHECKING:
    from ..config import Config, Loaded
    from ..config.values import Listen

__all__ = ["ctl_main", "ctl_parser", "daemon_main", "daemon_parser"]

_NOT_FOUND = 1
_POSTFIX_SOCKET = "socketmap:unix:/var/spool/postfix/run/mtasts/lookup.sock"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(os.EX_USAGE, f"{self.prog}: {message}\n")


def daemon_main(arguments: Sequence[str] | None = None) -> int:
    """Run ``mtasts-daemon`` and return its exit code."""
    return _run(daemon_parser(), arguments)


def ctl_main(arguments: Sequence[str] | None = None) -> int:
    """Run ``mtastsctl`` and return its exit code."""
    return _run(ctl_parser(), arguments)


def _run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    # Else pydantic reads the metadata of every package installed, in search of plugins.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # An argument may hold octets that are not text, and a locale less than the text.
            stream.reconfigure(errors="backslashreplace")
    args = parser.parse_args(arguments)
    try:
        if args.version:
            return _say(_versions() if args.verbose else f"{parser.prog} {__version__}")
        if args.command is None:
            parser.error("a command is needed")
        code: int = args.command(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read standard output has gone.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return os.EX_OK
    return code


def _common(prog: str, description: str) -> "tuple[_Parser, argparse._SubParsersAction[_Parser], _Parser]":
    parser = _Parser(prog=prog, description=description)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument("--verbose", action="store_true", help="with --version: those of Python and the libraries too")
    parser.set_defaults(command=None)
    configured = _Parser(add_help=False)
    configured.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        type=Path,
        help="the configuration (default: /etc/mtasts-daemon/config.yml, and conf.d/*.yml beside it)",
    )
    return parser, parser.add_subparsers(metavar="COMMAND"), configured


def daemon_parser() -> argparse.ArgumentParser:
    """The command line of ``mtasts-daemon``."""
    parser, commands, configured = _common("mtasts-daemon", "MTA-STS policy server for Postfix.")
    serve = commands.add_parser("serve", parents=[configured], help="run the daemon in the foreground")
    serve.set_defaults(command=_serve)
    check = commands.add_parser(
        "check-config", parents=[configured], help="check the configuration; exit code 78 if it has problems"
    )
    check.add_argument("--dump", action="store_true", help="print every value in force, and where it comes from")
    check.set_defaults(command=_check_config)
    schema = commands.add_parser("schema", help="print the JSON Schema of the configuration")
    schema.set_defaults(command=_schema)
    return parser


def ctl_parser() -> argparse.ArgumentParser:
    """The command line of ``mtastsctl``."""
    parser, commands, configured = _common("mtastsctl", "Ask a running mtasts-daemon, and explain its answers.")
    query = commands.add_parser(
        "query", parents=[configured], help="ask the running daemon as Postfix does; exit code 1 if not found"
    )
    query.add_argument("key", metavar="DOMAIN", help="a recipient domain, or a next-hop such as [host]:587")
    query.add_argument(
        "--map", metavar="NAME", type=_map_name, help="the map name in main.cf (default: the default zone)"
    )
    query.add_argument("--server", metavar="ADDRESS", help="socketmap:inet:HOST:PORT or socketmap:unix:PATH")
    query.add_argument("--timeout", metavar="SECONDS", type=_seconds, default=30.0, help="default: %(default)s")
    query.add_argument("--json", action="store_true", help="print JSON")
    query.set_defaults(command=_query)
    explain.register(commands, configured)
    check.register(commands, configured)
    selftest.register(commands, configured)
    notify.register(commands, configured)
    operate.register(commands, configured)
    migrate.register(commands, configured)
    tlsrpt.register(commands, configured)
    reports.register(commands, configured)
    publish.register(commands, configured)
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!a} is not a number") from None
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not within 0 to 3600")
    return seconds


def _map_name(text: str) -> str:
    # A blank would end the name in the request.
    if not text.isascii() or not text.isprintable() or not text or " " in text:
        raise argparse.ArgumentTypeError(f"{text!a} is not a map name")
    return text


# -- mtasts-daemon -----------------------------------------------------------------------------------------


def _serve(args: argparse.Namespace) -> int:
    # Nearly all that start-up makes, it makes for good; the daemon enables it when it is ready.
    gc.disable()
    with _early_signals():
        try:
            return _live(args)
        except Exception as error:
            return _unexpected(error)


@contextmanager
def _early_signals() -> Iterator[None]:
    """What signals do until the daemon takes them. Their defaults would kill it: SIGHUP too, and with no exit code."""

    def end(_number: int, _frame: object) -> None:
        sys.exit(os.EX_OK)

    early: dict[signal.Signals, Any] = {signal.SIGTERM: end, signal.SIGINT: end, signal.SIGHUP: signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in early.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _unexpected(error: Exception) -> int:
    """Tell of a mistake in the program, as it tells all else, for whoever reads its log has to find it there."""
    import logging

    from ..log import configure

    if not logging.getLogger("mtasts_daemon").handlers:
        configure("info", "auto", os.environ)
    fields = {"error": f"{type(error).__name__}: {error}", "hint": "this is a mistake in the program, please report it"}
    logging.getLogger(__name__).error("unexpected-error", exc_info=error, extra={"fields": fields})
    return os.EX_SOFTWARE


def _live(args: argparse.Namespace) -> int:
    from ..config import ConfigProblems
    from ..daemon.systemd import Notifier, listen_fds, notify_address, watchdog_interval
    from ..log import configure, log_event

    try:
        loaded = _load_usable(args.config)
    except ConfigProblems as error:
        return _config_problems(error)
    configure(loaded.config.log.level, loaded.config.log.format, os.environ)

    from ..daemon.app import Daemon, Environment

    environment = Environment(
        load=lambda: _load_usable(args.config),
        environ=dict(os.environ),
        activation=listen_fds(os.environ, os.getpid()),
        notifier=Notifier(notify_address(os.environ)),
        watchdog=watchdog_interval(os.environ, os.getpid()),
    )
    try:
        _run_loop(Daemon, environment, loaded)
    except OSError as error:
        log_event("start-failed", level=40, error=error.strerror or error)
        return os.EX_UNAVAILABLE
    return os.EX_OK


def _load_usable(path: Path | None) -> "Loaded":
    from ..config import load_with_origins
    from ..config.files import check_files

    loaded = load_with_origins(path, environ=os.environ)
    check_files(loaded)
    return loaded


def _run_loop(daemon: type, environment: object, loaded: "Loaded") -> None:
    import asyncio

    try:
        import uvloop
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop

    async def live() -> None:
        await daemon(environment, loaded).run()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(live())


def _check_config(args: argparse.Namespace) -> int:
    from ..config import ConfigProblems, load_with_origins
    from ..config.dump import to_dump
    from ..config.files import check_files

    try:
        loaded = load_with_origins(args.config, environ=os.environ)
        check_files(loaded)
    except ConfigProblems as error:
        return _config_problems(error)
    if args.dump:
        _say(to_dump(loaded).rstrip("\n"))
        return os.EX_OK
    return _complain(os.EX_OK, "the configuration is valid")


def _schema(_args: argparse.Namespace) -> int:
    from ..config.json_schema import json_schema

    _say(json.dumps(json_schema(), indent=2))
    return os.EX_OK


# -- mtastsctl ---------------------------------------------------------------------------------------------


def _query(args: argparse.Namespace) -> int:
    from ..config import ConfigProblems, load
    from ..config.problems import BadValue
    from ..config.values import Listen
    from ..errors import FrameError
    from .lookup_client import ask

    try:
        config = load(args.config, environ=os.environ)
        servers = [Listen.parse(args.server)] if args.server else _own_listeners(config)
    except ConfigProblems as error:
        return _config_problems(error)
    except BadValue as error:
        return _complain(os.EX_USAGE, f"--server: {error.message}{f' ({error.hint})' if error.hint else ''}")
    if servers[0].protocol != "socketmap":
        return _complain(os.EX_USAGE, f"--server: {servers[0]} is not socketmap; {_TCP_TABLE}")
    map_name = args.map or config.default_zone
    failures: dict[str, Exception] = {}
    for server in servers:
        try:
            reply = ask(server, map_name, args.key, args.timeout)
        except (OSError, FrameError) as error:
            failures[str(server)] = error
            continue
        if args.json:
            shown = {"key": args.key, "map": map_name, "server": str(server), "code": reply.code, "text": reply.text}
            _say(json.dumps(shown))
        else:
            _say(f"{reply.code} {reply.text}".rstrip())
        return {"OK": os.EX_OK, "NOTFOUND": _NOT_FOUND}.get(reply.code, os.EX_TEMPFAIL)
    return _complain(os.EX_UNAVAILABLE, f"the daemon cannot be asked: {_why_not(failures, args.server, config)}")


_TCP_TABLE = "to ask over tcp_table: postmap -q DOMAIN tcp:HOST:PORT"


def _why_not(failures: "dict[str, Exception]", server: str | None, config: "Config") -> str:
    told = "; ".join(f"{where}: {getattr(error, 'strerror', None) or error}" for where, error in failures.items())
    if any(isinstance(error, PermissionError) for error in failures.values()):
        return f"{told}. Run this as root, or as a user who may use the socket."
    if server is None and config.listen and all(listen.protocol == "tcp_table" for listen in config.listen):
        return f"{told}. The configuration has tcp_table listeners only; {_TCP_TABLE}"
    return f"{told}. Is it running, with this configuration?"


def _own_listeners(config: "Config") -> "list[Listen]":
    """Where the daemon of this host may be: what is configured, and the socket that the packaged unit makes."""
    from ..config.values import Listen

    configured = [listen for listen in config.listen if listen.protocol == "socketmap"]
    packaged = Listen.parse(_POSTFIX_SOCKET)
    return configured if packaged in configured else [*configured, packaged]


# -- talk --------------------------------------------------------------------------------------------------


def _say(text: str) -> int:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    return os.EX_OK


def _complain(code: int, message: str) -> int:
    sys.stderr.write(message + "\n")
    return code


def _config_problems(error: Exception) -> int:
    for problem in getattr(error, "problems", (error,)):
        _complain(os.EX_CONFIG, str(problem))
    return os.EX_CONFIG


def _versions() -> str:
    import platform
    import ssl
    from importlib.metadata import PackageNotFoundError, version

    lines = [f"mtasts-daemon {__version__}", f"Python {platform.python_version()}", ssl.OPENSSL_VERSION]
    for name in ("aiohttp", "cryptography", "dnspython", "idna", "prometheus-client", "pydantic", "PyYAML", "uvloop"):
        try:
            lines.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lines.append(f"{name} is not installed")
    return "\n".join([*lines, platform.platform()])
