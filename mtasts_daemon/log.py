"""Log lines with stable event names.

Lines go to standard error as ``event key=value ...``. A value is quoted if it holds anything but plain characters, so
that no remote text can forge a line.
"""

import atexit
import json
import logging
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TextIO

from .counters import Counters

__all__ = [
    "LEVELS",
    "RECENT",
    "Counters",
    "RepeatLimit",
    "configure",
    "flush",
    "level",
    "lines_lost",
    "log_event",
    "recent",
    "set_level",
]

_logger = logging.getLogger("mtasts_daemon")
_PLAIN = re.compile(r"[\w.:/@%+*,\[\]-]+\Z", re.ASCII)
_VALUE_LIMIT = 400
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
"""The levels that can be configured."""
RECENT = 200
"""The number of lines that ``recent`` keeps."""


class RepeatLimit:
    """Admits a repeated line once per period (seconds), with the number of lines held back since."""

    def __init__(self, period: float = 60.0, most: int = 1024) -> None:
        self._period = period
        self._most = most
        self._seen: dict[str, tuple[float, int]] = {}

    def admit(self, key: str, now: float) -> int | None:
        """Return the number of lines held back before this one, or None if this one is held back too."""
        since, held_back = self._seen.get(key, (-self._period, 0))
        if now - since < self._period:
            self._seen[key] = (since, held_back + 1)
            return None
        self._seen.pop(key, None)
        while len(self._seen) >= self._most:
            self._seen.pop(next(iter(self._seen)))
        self._seen[key] = (now, 0)
        return held_back


_repeats = RepeatLimit()


def log_event(event: str, *, level: int = logging.INFO, once_a_minute: str | None = None, **fields: object) -> bool:
    """Log ``event`` with its fields, and return True if it was logged.

    Lines with the same ``once_a_minute`` key are logged once a minute; the others are counted.
    """
    if not _logger.isEnabledFor(level):
        return False
    if once_a_minute is not None:
        held_back = _repeats.admit(f"{event} {once_a_minute}", time.monotonic())
        if held_back is None:
            return False
        if held_back:
            fields["repeated"] = held_back
    _logger.log(level, event, extra={"fields": fields})
    return True


def configure(level: str, form: str, environ: Mapping[str, str], stream: TextIO | None = None) -> None:
    """Send log lines of ``level`` and above to standard error, or to ``stream`` at once.

    ``form`` is auto, plain, journald or json; auto is journald if systemd announces a journal. Lines of libraries are
    logged from warning on. Standard error is written by a thread, so that a stalled reader never blocks the caller.
    """
    if form == "auto":
        form = "journald" if "JOURNAL_STREAM" in environ else "plain"
    handler = _queue if stream is None else logging.StreamHandler(stream)
    handler.setFormatter(_Formatter(form))
    _logger.handlers[:] = [handler, recent]
    _logger.propagate = False
    if stream is None:
        logging.getLogger().addHandler(_queue)
    set_level(level)


def flush(timeout: float) -> bool:
    """Wait until all lines are written, at most ``timeout`` seconds. Return False if lines are left."""
    return _queue.drain(timeout)


class _QueueHandler(logging.Handler):
    """Writes lines on a daemon thread. When the reader stalls, at most ``limit`` lines wait; more are counted."""

    def __init__(self, limit: int = 10_000) -> None:
        super().__init__()
        self.lost = 0
        """Lines that were dropped since the start."""
        self._lines: deque[str] = deque()
        self._limit = limit
        self._unreported = 0
        self._idle = threading.Event()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record) + "\n"
        with self._wake:
            if len(self._lines) >= self._limit:
                self.lost += 1
                self._unreported += 1
                return
            if self._unreported:
                self._lines.append(self.format(_lines_lost_record(self._unreported)) + "\n")
                self._unreported = 0
            self._lines.append(line)
            self._idle.clear()
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="log", daemon=True)
                self._thread.start()
            self._wake.notify()

    def _write(self) -> None:
        while True:
            with self._wake:
                while not self._lines:
                    self._idle.set()
                    self._wake.wait()
                lines = "".join(self._lines)
                self._lines.clear()
            with suppress(OSError, ValueError):  # standard error is closed
                _write_all(lines)

    def drain(self, timeout: float) -> bool:
        return self._thread is None or self._idle.wait(timeout)


def _lines_lost_record(count: int) -> logging.LogRecord:
    fields = {"count": count, "meaning": "the reader of the log was too slow"}
    record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, "log-lines-lost", None, None)
    record.fields = fields
    return record


def _write_all(text: str) -> None:
    """Write to standard error without its buffer, whose lock a blocked thread would hold at the end of the process."""
    try:
        descriptor = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        sys.stderr.write(text)
        return
    data = text.encode("utf-8", "backslashreplace")
    while data:
        data = data[os.write(descriptor, data) :]


_queue = _QueueHandler()
atexit.register(_queue.drain, 1.0)


def lines_lost() -> int:
    """Return the number of log lines dropped since the start because the log's reader was too slow."""
    return _queue.lost


def set_level(name: str) -> None:
    """Log lines of this level and above from now on; one of ``LEVELS``."""
    _logger.setLevel(LEVELS[name])


def level() -> str:
    """Return the lowest level that is logged, one of ``LEVELS``."""
    return logging.getLevelName(_logger.getEffectiveLevel()).lower()


class RecentLines(logging.Handler):
    """Keeps the last lines for the admin API, and counts lines by level since the start."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = dict.fromkeys(LEVELS, 0)
        self._lines: deque[dict[str, Any]] = deque(maxlen=RECENT)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        name = record.levelname.lower()
        self.counts[name] = self.counts.get(name, 0) + 1
        if record.levelno > logging.DEBUG:
            fields = {key: _cut(str(value)) for key, value in getattr(record, "fields", {}).items()}
            self._lines.append({"at": record.created, "level": name, "event": record.getMessage(), "fields": fields})

    def lines(self) -> Sequence[dict[str, Any]]:
        """Return the lines, newest first: ``at`` (wall-clock seconds), ``level``, ``event`` and ``fields``."""
        return list(reversed(self._lines))


recent = RecentLines()
"""The last lines. The traceback of an unexpected exception is in the log only."""


class _Formatter(logging.Formatter):
    def __init__(self, form: str) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        fields, event = dict(getattr(record, "fields", {})), record.getMessage()
        if not record.name.startswith("mtasts_daemon") and not fields:
            fields, event = {"logger": record.name, "message": event}, "library-message"
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        if self._form == "json":
            moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
            shown = {key: value if isinstance(value, (int, float)) else str(value) for key, value in fields.items()}
            return json.dumps({"time": moment, "level": record.levelname.lower(), "event": event, **shown})
        line = " ".join([event, *(f"{key}={_shown(value)}" for key, value in fields.items())])
        if self._form == "journald":
            return f"<{_PRIORITIES.get(record.levelno, 5)}>{line}"
        return f"{record.levelname.lower()}: {line}"


def _shown(value: object) -> str:
    text = str(value)
    if "\n" not in text:
        text = _cut(text)
    return text if _PLAIN.match(text) else json.dumps(text)


def _cut(text: str) -> str:
    return text if len(text) <= _VALUE_LIMIT else text[:_VALUE_LIMIT] + "..."
