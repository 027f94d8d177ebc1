"""``mtastsctl top``: the daemon's figures on a terminal, redrawn until q is pressed."""

import argparse
import os
import select
import shutil
import sys
import termios
import textwrap
import time
import tty
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .admin_client import Client, Unreachable, add_daemon_command
from .command_line import Verbs, seconds
from .output import escape, format_duration, print_error

__all__ = ["register", "truncate"]

_STATES = ("due", "waiting", "delivered", "refused", "failed")
_BARS = " ▁▂▃▄▅▆▇█"


def register(verbs: Verbs, configured: argparse.ArgumentParser) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser("top", parents=[configured], help="show the daemon's figures live; q quits")
    parser.add_argument(
        "--interval", metavar="SECONDS", type=seconds(0.2, 3600), default=2.0, help="default: %(default)s"
    )
    add_daemon_command(parser, _top, json=False)


def _top(args: argparse.Namespace, client: Client) -> int:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return print_error(os.EX_USAGE, "top needs a terminal; for scripts there is status --json")
    client.get_soon("status")  # an error is printed here, before the screen changes
    before: Mapping[str, Any] | None = None
    with _screen():
        while True:
            try:
                found = client.get_soon("status")
                # After a restart the counters are reset, so no rate can be shown.
                same = before is not None and before["started_at"] == found["started_at"]
                history, log = client.get_soon("history", minutes=60), client.get_soon("log")["lines"]
                _draw(_lines(found, before if same else None, history, log))
                before = found
            except Unreachable as error:
                # It may be restarting.
                _draw(iter(("mtasts-daemon  DOES NOT ANSWER; q quits", "", *textwrap.wrap(str(error), 78))))
            if _quit_pressed(args.interval):
                return os.EX_OK


def _lines(
    found: Mapping[str, Any], before: Mapping[str, Any] | None, history: Mapping[str, Any], log: list[dict[str, Any]]
) -> Iterator[str]:
    """Yield the lines of the screen."""
    lookups, cache, refresher = found["lookups"], found["cache"], found["refresher"]
    now, up = time.strftime("%H:%M:%S"), format_duration(found["now"] - found["started_at"])
    failing = [check["name"] for check in found["checks"] if not check["ok"]]
    state = f"NOT READY: {', '.join(failing)}" if failing else "ready"
    yield f"mtasts-daemon {found['version']}  {now}  up {up}  {state}"
    yield ""
    rate, share = lookups["lookups_per_second"] or 0.0, lookups["hit_rate"]
    if before is not None and found["now"] > before["now"]:
        asked = lookups["total"] - before["lookups"]["total"]
        rate = asked / (found["now"] - before["now"])
        share = (lookups["hits"] - before["lookups"]["hits"]) / asked if asked else None
    hits = "-" if share is None else f"{share:.1%}"
    yield (
        f"lookups    {rate:>10,.1f}/s  hits {hits:>6}  waiting {lookups['waiting']:>5}"
        f"  connections {lookups['connections']:>4}"
    )
    yield f"  {'total':<10} {lookups['total']:>14,}"
    for kind, count in sorted(lookups["answers"].items()):
        more = count - (before["lookups"]["answers"].get(kind, 0) if before is not None else count)
        yield f"  {kind:<10} {count:>14,}  +{more:,}"
    modes = "  ".join(f"{mode} {count:,}" for mode, count in cache["modes"].items())
    yield f"policies   {modes}  failing {cache['failing']:,}  expiring {cache['expiring']:,}"
    if (deferred := found["deferred"])["total"]:
        names = " ".join(one["domain"] for one in deferred["domains"])
        yield f"deferred   {deferred['total']:,} domains  {names}"
    yield f"refresher  due {refresher['due']:,}  in progress {refresher['under_way']}  done {refresher['refreshes']:,}"
    if (reports := found["tlsrpt"]["reports"]) is not None:
        yield f"reports    {'  '.join(f'{state} {count:,}' for state, count in reports.items() if state in _STATES)}"
    if history["lookups"]:
        yield ""
        yield f"lookups per minute, last hour: {_sparks(history['lookups'])}"
    yield ""
    for line in log:
        fields = " ".join(f"{key}={value}" for key, value in line["fields"].items())
        yield f"{time.strftime('%H:%M:%S', time.localtime(line['at']))} {line['level']:<7} {line['event']} {fields}"


def _sparks(values: list[int]) -> str:
    most = max(values) or 1
    return "".join(_BARS[-(-value * (len(_BARS) - 1) // most)] for value in values)


# -- the terminal ------------------------------------------------------------------------------------------


@contextmanager
def _screen() -> Iterator[None]:
    """Use the alternate screen without a cursor, and read keys unbuffered."""
    settings = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        sys.stdout.write("\033[?1049h\033[?25l")
        yield
    finally:
        sys.stdout.write("\033[?25h\033[?1049l")
        sys.stdout.flush()
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)


def _draw(lines: Iterator[str]) -> None:
    columns, rows = shutil.get_terminal_size()
    picture = [truncate(escape(line), columns) for _, line in zip(range(rows), lines, strict=False)]
    # Each line is cleared after its text and the screen below the last one, so that nothing flickers.
    sys.stdout.write("\033[H" + "\033[K\r\n".join(picture) + "\033[K\033[J")
    sys.stdout.flush()


def truncate(line: str, columns: int) -> str:
    """Return what fits into ``columns``, with an ellipsis if something was cut."""
    return line if len(line) <= columns else f"{line[: columns - 1]}…"


def _quit_pressed(timeout: float) -> bool:
    """Wait for a key for up to ``timeout`` seconds. Return True if it is q."""
    ready, _, _ = select.select([sys.stdin], [], [], timeout)
    return bool(ready) and os.read(sys.stdin.fileno(), 64)[:1] in (b"q", b"Q", b"\x03", b"")
