"""Output of commands: data on standard output, messages on standard error, tables and progress."""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..text import quoted, sanitize

__all__ = [
    "Progress",
    "colored",
    "escape",
    "format_age",
    "format_duration",
    "format_time",
    "print_error",
    "print_json",
    "print_out",
    "print_problems",
    "printable_name",
    "step_printer",
    "table",
]

_REDRAW_EVERY = 0.1


def print_out(text: str) -> int:
    """Print ``text`` to standard output and return EX_OK."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    return os.EX_OK


def print_json(value: object) -> int:
    """Print ``value`` as one JSON document and return EX_OK."""
    return print_out(json.dumps(value, indent=2, ensure_ascii=False))


def print_error(code: int, message: str) -> int:
    """Print ``message`` to standard error and return ``code``."""
    sys.stderr.write(message + "\n")
    return code


def print_problems(error: Exception) -> int:
    """Print each problem of a configuration error to standard error and return EX_CONFIG."""
    for problem in getattr(error, "problems", (error,)):
        print_error(os.EX_CONFIG, str(problem))
    return os.EX_CONFIG


def table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return the rows below their titles. Columns of numbers are right-aligned, others left-aligned."""
    cells = [list(titles), *([f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows)]
    numbers = [all(isinstance(row[at], int) for row in rows) and bool(rows) for at in range(len(titles))]
    widths = [max(len(row[at]) for row in cells) for at in range(len(titles))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numbers, strict=True)
        ).rstrip()
        for row in cells
    )


def escape(text: object) -> str:
    """Return ``text`` without characters that control a terminal, at full length."""
    return sanitize(text, None)


def printable_name(text: str) -> str:
    """Return a name as the user wrote it, on one line and cut to 80 characters; in quotes if it is blank."""
    return sanitize(text) if text.strip() else quoted(text)


def colored(good: bool | None, text: str) -> str:
    """Return ``text`` in green, red or no colour. There is no colour without a terminal or with NO_COLOR set."""
    if good is None or os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        return text
    return f"\033[3{2 if good else 1}m{text}\033[0m"


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units, such as ``3d4h``."""
    left, parts = int(abs(seconds)), list[str]()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        if left >= size and len(parts) < 2:
            parts.append(f"{left // size}{unit}")
            left %= size
    return "".join(parts) or "0s"


def format_time(moment: float | None, now: float) -> str:
    """Return a time relative to now: ``in 3h``, ``5m ago``, or a dash for None."""
    if moment is None:
        return "-"
    return f"in {format_duration(moment - now)}" if moment >= now else f"{format_duration(now - moment)} ago"


def format_age(moment: float | None, now: float) -> str:
    """Return how long ago something happened, or ``never`` for None and 0."""
    return "never" if not moment else f"{format_duration(now - moment)} ago"


def step_printer() -> Callable[[Mapping[str, Any]], int] | None:
    """Return a function that prints a step of the daemon to standard error; None if that is not a terminal."""
    if not sys.stderr.isatty():
        return None
    return lambda step: print_error(0, f"  {step['title'].strip()}: {escape(step['found'].partition(chr(10))[0])}")


class Progress:
    """A progress bar on standard error; nothing is shown if that is not a terminal."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self.total = total
        self._drawn_at = 0.0
        self._shown = sys.stderr.isatty() and total > 0

    def at(self, done: int) -> None:
        """Show that ``done`` items are finished."""
        now = time.monotonic()
        if not self._shown or (now - self._drawn_at < _REDRAW_EVERY and done < self.total):
            return
        self._drawn_at = now
        filled = 30 * min(done, self.total) // self.total
        sys.stderr.write(f"\r{self._what} [{'#' * filled}{'.' * (30 - filled)}] {done:,}/{self.total:,}")
        sys.stderr.flush()

    def end(self) -> None:
        """Remove the bar."""
        if self._drawn_at:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
