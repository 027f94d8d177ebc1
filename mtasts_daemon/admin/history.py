"""What was answered in each minute of the last day, for charts: bounded, in memory, gone with the process."""

from collections import deque
from dataclasses import dataclass
from typing import Any

from ..counters import Counters

__all__ = ["History"]

_KEPT = 24 * 60
_ENOUGH = 30.0
"""Seconds that rates are taken over at least."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """The counters at a moment, in monotonic seconds."""

    clock: float
    lookups: int
    hits: int
    answers: dict[str, int]


class History:
    """What was counted between each two calls of ``sample``, one column for each thing, at most ``kept`` of each."""

    def __init__(self, counters: Counters, kept: int = _KEPT) -> None:
        self._counters = counters
        self._kept = kept
        # The last two, so that rates are always over some time.
        self._last: deque[_Sample] = deque(maxlen=2)
        self._columns = {name: self._column() for name in ("at", "seconds", "lookups", "hits")}
        self._answers: dict[str, deque[float]] = {}

    def sample(self, at: float, clock: float) -> None:
        """Note how things stand, ``at`` in wall-clock and ``clock`` in monotonic seconds; once a minute."""
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
        """Lookups a second and the share answered from memory, over the last minute or so.

        None where that cannot be said: nothing was asked, or there was no time yet.
        """
        now = self._now(clock)
        before = next((sample for sample in reversed(self._last) if clock - sample.clock >= _ENOUGH), None)
        before = before or (self._last[0] if self._last else now)
        seconds, lookups = now.clock - before.clock, now.lookups - before.lookups
        return {
            "lookups_per_second": round(lookups / seconds, 3) if seconds > 0 else None,
            "hit_rate": round((now.hits - before.hits) / lookups, 4) if lookups else None,
        }

    def series(self, points: int = _KEPT) -> dict[str, Any]:
        """The last ``points`` intervals, the oldest first, one list for each thing counted."""
        return {
            **{name: list(column)[-points:] for name, column in self._columns.items()},
            "answers": {kind: list(column)[-points:] for kind, column in sorted(self._answers.items())},
        }

    def _column(self) -> deque[float]:
        return deque(maxlen=self._kept)

    def _now(self, clock: float) -> _Sample:
        counters = self._counters
        return _Sample(clock, counters.lookups, counters.cache_hits, counters.answers)
