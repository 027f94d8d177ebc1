"""What commands say: data on standard output, talk on standard error, tables and progress for people."""

import json
import os
import sys
import time
from collections.abc import Sequence

__all__ = ["Progress", "mark", "print_error", "print_out", "printable", "say_json", "span", "table", "when"]

_EVERY = 0.1


def print_out(text: str) -> int:
    """Print ``text`` as data; the exit code of success."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    return os.EX_OK


def say_json(value: object) -> int:
    """Print ``value`` as JSON in one document; the exit code of success."""
    return print_out(json.dumps(value, indent=2, ensure_ascii=False))


def print_error(code: int, message: str) -> int:
    """Print ``message`` as talk; ``code``."""
    sys.stderr.write(message + "\n")
    return code


def table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows below their titles, numbers to the right, all else to the left; nothing but the titles without rows."""
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


def printable(text: object) -> str:
    """``text`` made fit for a terminal, whoever wrote it."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(text))


def mark(good: bool | None, text: str) -> str:
    """``text`` in green, red or neither, where standard output is a terminal and nobody objects (NO_COLOR)."""
    if good is None or os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        return text
    return f"\033[3{2 if good else 1}m{text}\033[0m"


def span(seconds: float) -> str:
    """A time in its two largest units, such as ``3d4h``."""
    left, parts = int(abs(seconds)), list[str]()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        if left >= size and len(parts) < 2:
            parts.append(f"{left // size}{unit}")
            left %= size
    return "".join(parts) or "0s"


def when(moment: float | None, now: float) -> str:
    """A moment, as seen from now."""
    if moment is None:
        return "-"
    return f"in {span(moment - now)}" if moment >= now else f"{span(now - moment)} ago"


class Progress:
    """A bar on standard error while something long goes on, where that is a terminal; nothing otherwise."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self.total = total
        self._shown_at = 0.0
        self._shown = sys.stderr.isatty() and total > 0

    def at(self, done: int) -> None:
        """So many are done."""
        now = time.monotonic()
        if not self._shown or (now - self._shown_at < _EVERY and done < self.total):
            return
        self._shown_at = now
        filled = 30 * min(done, self.total) // self.total
        sys.stderr.write(f"\r{self._what} [{'#' * filled}{'.' * (30 - filled)}] {done:,}/{self.total:,}")
        sys.stderr.flush()

    def end(self) -> None:
        """Take the bar away."""
        if self._shown_at:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
