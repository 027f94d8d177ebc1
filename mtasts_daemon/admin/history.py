"""Lookups per minute of the last day, for charts. In memory only."""

from collections import deque
from dataclasses import dataclass
from typing import Any

from ..counters import Counters

__all__ = ["History"]

_KEPT = 24 * 60
_MIN_PERIOD = 30.0
"""Rates are averages over at least this many seconds."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """The counters at one time, in monotonic seconds."""

    clock: float
    lookups: int
    hits: int
    answers: dict[str, int]


class History:
    """Differences of the counters between calls of ``sample``: one column per counter, at most ``kept`` rows."""

    def __init__(self, counters: Counters, kept: int = _KEPT) -> None:
        self._counters = counters
        self._kept = kept
        # The last two, so that a rate never covers a period of 0 s.
        self._last: deque[_Sample] = deque(maxlen=2)
        self._columns = {name: self._column() for name in ("at", "seconds", "lookups", "hits")}
        self._answers: dict[str, deque[float]] = {}

    def sample(self, at: float, clock: float) -> None:
        """Record the counters; called once a minute. ``at`` is wall-clock seconds, ``clock`` monotonic seconds."""
        now = self._now(clock)
        if self._last:
            before, columns = self._last[-1], self._columns
            for kind in now.answers:
                if kind not in self._answers:
                    self._answers[kind] = self._column()
                    self._answers[kind].extend([0] * len(columns["at"]))
                self._answers[kind].append(now.answers[kind] - before.answers.get(kind, 0))
            columns["at"].append(round(at))
            columns["seconds"].append(round(clock - before.clock, 3))
            columns["lookups"].append(now.lookups - before.lookups)
            columns["hits"].append(now.hits - before.hits)
        self._last.append(now)

    def rates(self, clock: float) -> dict[str, float | None]:
        """Return lookups per second and the share answered from memory, over about a minute.

        A rate is None if there was no lookup, or if it is too early.
        """
        now = self._now(clock)
        before = next((sample for sample in reversed(self._last) if clock - sample.clock >= _MIN_PERIOD), None)
        before = before or (self._last[0] if self._last else now)
        seconds, lookups = now.clock - before.clock, now.lookups - before.lookups
        return {
            "lookups_per_second": round(lookups / seconds, 3) if seconds > 0 else None,
            "hit_rate": round((now.hits - before.hits) / lookups, 4) if lookups else None,
        }

    def series(self, points: int = _KEPT) -> dict[str, Any]:
        """Return the last ``points`` intervals, the oldest first, one list per counter."""
        return {
            **{name: list(column)[-points:] for name, column in self._columns.items()},
            "answers": {kind: list(column)[-points:] for kind, column in sorted(self._answers.items())},
        }

    def _column(self) -> deque[float]:
        return deque(maxlen=self._kept)

    def _now(self, clock: float) -> _Sample:
        counters = self._counters
        return _Sample(clock, counters.lookups, counters.cache_hits, counters.answers)
