"""What is decided about a subject, that is a day and a policy domain, when its moment has come.

Days are ``YYYY-MM-DD``; moments are seconds since the epoch.
"""

from dataclasses import dataclass

from .connection import SavedReport

__all__ = ["Made", "NewDelivery", "ReportDecision", "Retry", "Skip", "Waiting"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A subject whose moment has come; ``attempts`` counts the failed lookups of its TLSRPT record."""

    day: str
    domain: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Skip:
    """There is to be no report; ``reason`` is a slug, perhaps with more behind a colon."""

    day: str
    domain: str
    reason: str


@dataclass(frozen=True, slots=True)
class Retry:
    """It cannot be told yet whom to report to."""

    day: str
    domain: str
    next_at: float
    reason: str


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """An address of a new report. ``lane`` is what deliveries take turns at; ``suppressed`` is why it gets none."""

    uri: str
    tag: str
    lane: str
    suppressed: str = ""


@dataclass(frozen=True, slots=True)
class Made:
    """The report and where it goes, from ``next_at`` on and until ``until``; ``problems`` of the record are told."""

    day: str
    domain: str
    report: SavedReport
    deliveries: tuple[NewDelivery, ...]
    next_at: float
    until: float
    problems: tuple[str, ...] = ()


ReportDecision = Skip | Retry | Made
