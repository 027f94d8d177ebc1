"""Decisions about report units, each a day and a policy domain, when they are due.

Days are ``YYYY-MM-DD``; moments are seconds since the epoch.
"""

from dataclasses import dataclass

from .connection import SavedReport

__all__ = ["Made", "NewDelivery", "ReportDecision", "Retry", "Skip", "Waiting"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A report unit that is due; ``attempts`` counts the failed lookups of its TLSRPT record."""

    day: str
    domain: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Skip:
    """No report is sent; ``reason`` is a slug, in some cases with details behind a colon."""

    day: str
    domain: str
    reason: str


@dataclass(frozen=True, slots=True)
class Retry:
    """The receiver cannot be looked up now; it is tried again at ``next_at``."""

    day: str
    domain: str
    next_at: float
    reason: str


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """An address of a new report. Deliveries of one ``destination`` take turns; ``suppressed`` is why it gets none."""

    uri: str
    tag: str
    destination: str
    suppressed: str = ""


@dataclass(frozen=True, slots=True)
class Made:
    """The report and its deliveries, from ``next_at`` until ``until``, with the ``problems`` of the TLSRPT record."""

    day: str
    domain: str
    report: SavedReport
    deliveries: tuple[NewDelivery, ...]
    next_at: float
    until: float
    problems: tuple[str, ...] = ()


ReportDecision = Skip | Retry | Made
