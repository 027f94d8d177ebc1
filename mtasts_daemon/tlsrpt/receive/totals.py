"""Sums over received reports, as values. Days are UTC, ``YYYY-MM-DD``."""

from dataclasses import dataclass

__all__ = ["DayTotals", "DomainTotals", "FailingHost", "ReporterTotals", "UnauthenticatedTotals"]


@dataclass(frozen=True, slots=True)
class DomainTotals:
    """A domain's sums over some days. ``reports`` counts trusted reports."""

    domain: str
    reports: int
    successful: int
    failed: int
    first_day: str
    last_day: str

    @property
    def failed_share(self) -> float:
        """The failed part of all sessions, 0 to 1."""
        return self.failed / max(self.successful + self.failed, 1)


@dataclass(frozen=True, slots=True)
class UnauthenticatedTotals:
    """A domain that has no authenticated report in some days; ``reports`` counts unauthenticated ones."""

    domain: str
    reports: int
    first_day: str
    last_day: str


@dataclass(frozen=True, slots=True)
class DayTotals:
    """A domain's day. ``types`` are failed sessions by result type, as failure-details count them."""

    day: str
    reports: int
    successful: int
    failed: int
    types: dict[str, int]


@dataclass(frozen=True, slots=True)
class ReporterTotals:
    """A submitter's sums over some days; ``days`` counts those that it reported."""

    submitter: str
    reports: int
    successful: int
    failed: int
    days: int
    first_day: str
    last_day: str


@dataclass(frozen=True, slots=True)
class FailingHost:
    """Failures of one type at one MX host; an empty host was not reported."""

    result_type: str
    mx_host: str
    failed: int
    first_day: str
    last_day: str
    reporters: int
