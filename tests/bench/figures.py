"""Figures and their targets."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

__all__ = ["Figure", "as_json", "as_text", "median"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One result. ``target`` is the minimum, or with ``at_most`` the maximum, that is good enough."""

    name: str
    value: float
    unit: str
    target: float | None = None
    at_most: bool = False
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Return True if the target is reached; None without a target."""
        if self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target


def median(values: Sequence[float]) -> float:
    """Return the median, so that a busy moment does not count."""
    return statistics.median(values)


def as_text(figure: Figure) -> str:
    """Return a line with value, target and note."""
    value = f"{figure.value:,.0f}" if figure.value >= 1000 else f"{figure.value:.3g}"
    aim = ""
    if figure.target is not None:
        word = "reached" if figure.reached else "MISSED"
        aim = f"{word} ({'<=' if figure.at_most else '>='} {figure.target:,g})"
    return f"{figure.name:<46} {value:>9} {figure.unit:<10} {aim:<22} {figure.note}".rstrip()


def as_json(figures: Sequence[Figure]) -> list[dict[str, object]]:
    """Return the figure as JSON values."""
    return [asdict(figure) | {"reached": figure.reached} for figure in figures]
