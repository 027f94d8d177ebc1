"""What the program tells about itself: log lines with stable event names.

Log lines go to standard error, ``event key=value ...``, with values quoted where they hold anything but plain
characters, so that nothing remote can forge a line.
"""

import json
import logging
import re
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from .counters import Counters

__all__ = ["LEVELS", "Counters", "RepeatLimit", "configure", "level", "log_event", "recent", "set_level"]

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
"""The levels that an operator chooses from."""
_RECENT = 200


class RepeatLimit:
    """Lets a repeated line through once a period (seconds), with the number held back since."""

    def __init__(self, period: float = 60.0, most: int = 1024) -> None:
        self._period = period
        self._most = most
        self._seen: dict[str, tuple[float, int]] = {}

    def admit(self, key: str, now: float) -> int | None:
        """How many were held back before this one, or None when this one is to be held back too."""
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
    """Log ``event`` with its fields. Lines with the same ``once_a_minute`` key are held back and counted.

    Whether it was logged.
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
    """Send log lines of ``level`` and above to standard error.

    ``form`` is auto, plain, journald or json; auto is journald where systemd says that it listens.
    """
    if form == "auto":
        form = "journald" if "JOURNAL_STREAM" in environ else "plain"
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Formatter(form))
    _logger.handlers[:] = [handler, recent]
    _logger.propagate = False
    set_level(level)


def set_level(name: str) -> None:
    """Tell what is of this level and above from now on; one of ``LEVELS``."""
    _logger.setLevel(LEVELS[name])


def level() -> str:
    """The least that is told, one of ``LEVELS``."""
    return logging.getLevelName(_logger.getEffectiveLevel()).lower()


class Recent(logging.Handler):
    """Remembers the last lines for whoever comes to look, and how many there were of each level since the start."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = dict.fromkeys(LEVELS, 0)
        self._lines: deque[dict[str, Any]] = deque(maxlen=_RECENT)

    def emit(self, record: logging.LogRecord) -> None:
        """Note one line."""
        name = record.levelname.lower()
        self.counts[name] = self.counts.get(name, 0) + 1
        if record.levelno > logging.DEBUG:
            fields = {key: _cut(str(value)) for key, value in getattr(record, "fields", {}).items()}
            self._lines.append({"at": record.created, "level": name, "event": record.getMessage(), "fields": fields})

    def lines(self) -> Sequence[dict[str, Any]]:
        """The newest first: ``at`` (wall-clock seconds), ``level``, ``event`` and ``fields``."""
        return list(reversed(self._lines))


recent = Recent()
"""What was told last; a trace of an unexpected exception is in the log only."""


class _Formatter(logging.Formatter):
    def __init__(self, form: str) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        fields = dict(getattr(record, "fields", {}))
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        if self._form == "json":
            moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
            shown = {key: value if isinstance(value, (int, float)) else str(value) for key, value in fields.items()}
            return json.dumps(
                {"time": moment, "level": record.levelname.lower(), "event": record.getMessage(), **shown}
            )
        line = " ".join([record.getMessage(), *(f"{key}={_shown(value)}" for key, value in fields.items())])
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
