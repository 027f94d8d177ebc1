"""Counters: plain numbers, cheap enough for the hot path; the metrics read them on request."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Counters", "Durations", "LabelledCounter"]

_BOUNDS = (0.0001, 0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Durations:
    """A histogram of seconds. ``counts`` has one number per bound, and one for longer durations."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = _BOUNDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Add one duration."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds


class LabelledCounter:
    """One kind of answer: the number of new answers, and of answers from the reply cache."""

    __slots__ = ("hits", "made")

    def __init__(self) -> None:
        self.made = 0
        self.hits = 0


@dataclass(slots=True)
class Counters:
    """Counts since the start, named like the metrics."""

    misses: int = 0
    """Lookups that were not answered from the reply cache."""
    tallies: dict[tuple[str, str], LabelledCounter] = field(default_factory=dict)
    """By protocol, such as ``socketmap``, and kind of answer, such as ``secure``."""
    waits: Durations = field(default_factory=Durations)
    """Durations of the lookups that had to wait."""
    stale_served: int = 0
    """Answers from a policy whose TXT record was being checked again."""
    dane_discoveries: int = 0
    policies_unmatched: int = 0
    malformed_frames: int = 0
    connections_refused: int = 0
    replies_shortened: int = 0
    policies_changed: dict[str, int] = field(default_factory=dict)
    refreshes: int = 0
    """Fetches of live policies."""
    refresh_failures: dict[str, int] = field(default_factory=dict)
    """Those of them that failed, by the slug of the error."""
    refreshed_at: float = 0.0
    """Wall-clock time of the last successful refresh."""
    txt_checks: int = 0
    fetches: int = 0
    fetch_failures: dict[str, int] = field(default_factory=dict)
    fetch_seconds: Durations = field(default_factory=Durations)
    loop_lag: Durations = field(default_factory=Durations)
    """Lag of the event loop, measured every second."""
    unhandled: int = 0

    @property
    def cache_hits(self) -> int:
        """Lookups answered from the reply cache."""
        return sum(tally.hits for tally in self.tallies.values())

    @property
    def lookups(self) -> int:
        """All lookups."""
        return self.misses + self.cache_hits

    @property
    def answers(self) -> dict[str, int]:
        """Answers by kind."""
        return self._answered(1)

    @property
    def protocols(self) -> dict[str, int]:
        """Answers by protocol."""
        return self._answered(0)

    def _answered(self, label: int) -> dict[str, int]:
        given: dict[str, int] = {}
        for labels, tally in self.tallies.items():
            given[labels[label]] = given.get(labels[label], 0) + tally.made + tally.hits
        return given

    def tally(self, protocol: str, kind: str) -> LabelledCounter:
        """Return the counter for a kind of answer in a protocol."""
        return self.tallies.get((protocol, kind)) or self.tallies.setdefault((protocol, kind), LabelledCounter())

    @staticmethod
    def count(table: dict[str, int], key: str) -> None:
        """Add one to a key of a counter with a label."""
        table[key] = table.get(key, 0) + 1
