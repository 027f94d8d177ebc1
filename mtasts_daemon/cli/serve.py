"""``mtasts-daemon serve``: run the daemon in the foreground."""

import argparse
import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .command_line import Verbs
from .output import print_problems

if TYPE_CHECKING:
    from ..config import Loaded

__all__ = ["register"]


def register(verbs: Verbs, configured: argparse.ArgumentParser) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser("serve", parents=[configured], help="run the daemon in the foreground")
    parser.set_defaults(command=_serve)


def _serve(args: argparse.Namespace) -> int:
    # Nearly all objects made during start-up live until exit; the daemon enables collection when it is ready.
    gc.disable()
    with _early_signals():
        try:
            return _run(args)
        except Exception as error:
            return _internal_error(error)


@contextmanager
def _early_signals() -> Iterator[None]:
    """Handle signals until the daemon installs its own handlers.

    The default actions would kill the process: for SIGHUP too, and without an exit code.
    """

    def end(_number: int, _frame: object) -> None:
        sys.exit(os.EX_OK)

    early: dict[signal.Signals, Any] = {signal.SIGTERM: end, signal.SIGINT: end, signal.SIGHUP: signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in early.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _internal_error(error: Exception) -> int:
    """Log an internal error in the usual format and return EX_SOFTWARE."""
    import logging

    from ..log import configure

    if not logging.getLogger("mtasts_daemon").handlers:
        configure("info", "auto", os.environ)
    fields = {"error": f"{type(error).__name__}: {error}", "hint": "this is a bug in mtasts-daemon, please report it"}
    logging.getLogger(__name__).error("unexpected-error", exc_info=error, extra={"fields": fields})
    return os.EX_SOFTWARE


def _run(args: argparse.Namespace) -> int:
    from ..config import ConfigProblems, load_with_origins
    from ..daemon.systemd import Notifier, listen_fds, notify_address, watchdog_interval
    from ..log import configure, log_event

    try:
        # Without check_files: fetches or the admin listener fail without the file, but lookups must be answered.
        loaded = load_with_origins(args.config, environ=os.environ)
    except ConfigProblems as error:
        return print_problems(error)
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
    """Return the configuration for a reload, which the earlier one survives if a file cannot be read."""
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

    async def run() -> None:
        await daemon(environment, loaded).run()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run())
