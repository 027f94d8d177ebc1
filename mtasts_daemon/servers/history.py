"""What was answered in each minute of the last day, for charts: bounded, in memory, gone with the process."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ..counters import Counters

__all__ = ["History", "Sample"]

_KEPT = 24 * 60


@dataclass(frozen=True, slots=True)
class Sample:
    """The counters at a moment, in wall-clock and in monotonic seconds."""

    at: float
    clock: float
    lookups: int
    hits: int
    answers: dict[str, int] = field(default_factory=dict)


class History:
    """A ring of samples; each interval between two of them is a point of a chart."""

    def __init__(self, counters: Counters, kept: int = _KEPT) -> None:
        self._counters = counters
        self._samples: deque[Sample] = deque(maxlen=kept + 1)

    def sample(self, at: float, clock: float) -> None:
        """Note how things stand; once a minute, and once at the start."""
        self._samples.append(self._now(at, clock))

    def rates(self, at: float, clock: float) -> dict[str, float | None]:
        """Lookups a second and the share answered from memory, over the last minute or so.

        None where that cannot be said: nothing was asked, or not long enough.
        """
        now = self._now(at, clock)
        before = next((sample for sample in reversed(self._samples) if clock - sample.clock >= 30), None)
        before = before or (self._samples[0] if self._samples else now)
        seconds, lookups = now.clock - before.clock, now.lookups - before.lookups
        return {
            "lookups_per_second": round(lookups / seconds, 3) if seconds > 0 else None,
            "hit_rate": round((now.hits - before.hits) / lookups, 4) if lookups else None,
        }

    def series(self, points: int = _KEPT) -> dict[str, Any]:
        """The last ``points`` intervals, the oldest first, one list for each thing counted."""
        samples = list(self._samples)[-points - 1 :]
        steps = list(pairwise(samples))
        kinds = sorted({kind for sample in samples for kind in sample.answers})
        return {
            "at": [round(after.at) for _, after in steps],
            "seconds": [round(after.clock - before.clock, 3) for before, after in steps],
            "lookups": [after.lookups - before.lookups for before, after in steps],
            "hits": [after.hits - before.hits for before, after in steps],
            "answers": {kind: _steps(kind, steps) for kind in kinds},
        }

    def _now(self, at: float, clock: float) -> Sample:
        counters = self._counters
        return Sample(at, clock, counters.lookups, counters.cache_hits, counters.answers)


def _steps(kind: str, steps: Sequence[tuple[Sample, Sample]]) -> list[int]:
    return [after.answers.get(kind, 0) - before.answers.get(kind, 0) for before, after in steps]
