"""What was measured, and whether it is what was aimed at."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

__all__ = ["Figure", "as_json", "as_text", "median"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One result. ``target`` is the least, or with ``at_most`` the greatest, value that is good enough."""

    name: str
    value: float
    unit: str
    target: float | None = None
    at_most: bool = False
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None where there is none."""
        if self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target


def median(values: Sequence[float]) -> float:
    """The middle one, so that a moment in which the machine was busy does not count."""
    return statistics.median(values)


def as_text(figure: Figure) -> str:
    """A line: the value, the target, and the note."""
    value = f"{figure.value:,.0f}" if figure.value >= 1000 else f"{figure.value:.3g}"
    aim = ""
    if figure.target is not None:
        word = "reached" if figure.reached else "MISSED"
        aim = f"{word} ({'<=' if figure.at_most else '>='} {figure.target:,g})"
    return f"{figure.name:<46} {value:>9} {figure.unit:<10} {aim:<22} {figure.note}".rstrip()


def as_json(figures: Sequence[Figure]) -> list[dict[str, object]]:
    """The same as plain values."""
    return [asdict(figure) | {"reached": figure.reached} for figure in figures]
