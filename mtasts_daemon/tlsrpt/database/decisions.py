"""Define the decisions about due report units, each a day and a policy domain.

Days are ``YYYY-MM-DD``; moments are seconds since the epoch.
"""

from dataclasses import dataclass

from .connection import SavedReport

__all__ = ["NewDelivery", "ReportDecision", "ReportMade", "Retry", "Skip", "WaitingUnit"]


@dataclass(frozen=True, slots=True)
class WaitingUnit:
    """Report unit that is due. ``attempts`` is the number of failed lookups of its TLSRPT record."""

    day: str
    domain: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Skip:
    """Decision to send no report. ``reason`` is a slug, in some cases followed by a colon and details."""

    day: str
    domain: str
    reason: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Decision to look up the TLSRPT record again at ``next_at``."""

    day: str
    domain: str
    next_at: float
    reason: str


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """Address of a new report. ``suppressed`` is the reason why the address gets no report, or empty.

    Deliveries to one ``destination`` are made one after the other.
    """

    uri: str
    tag: str
    destination: str
    suppressed: str = ""


@dataclass(frozen=True, slots=True)
class ReportMade:
    """Report and its deliveries, from ``next_at`` until ``until``, and the ``problems`` of the TLSRPT record."""

    day: str
    domain: str
    report: SavedReport
    deliveries: tuple[NewDelivery, ...]
    next_at: float
    until: float
    problems: tuple[str, ...] = ()


ReportDecision = Skip | Retry | ReportMade
