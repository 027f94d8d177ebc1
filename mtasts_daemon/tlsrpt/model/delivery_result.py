"""The result of an attempt to deliver a report."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["DeliveryResult", "Result"]


class Result(StrEnum):
    """Result for the report, and for later reports to the same address."""

    DELIVERED = "delivered"
    DEFERRED = "deferred"
    """Not accepted yet; the delivery is retried."""
    REFUSED = "refused"
    """Refused permanently; the delivery is not retried."""
    GONE = "gone"
    """Refused permanently; the address does not accept reports at all."""


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """Result of an attempt, with a short printable ``detail``.

    ``wait`` is the minimum number of seconds before the next attempt, as requested by the server. ``host`` is True if
    the server is the cause and not the report, so that other reports to it would fail as well.
    """

    result: Result
    detail: str = ""
    wait: float = 0.0
    host: bool = False
