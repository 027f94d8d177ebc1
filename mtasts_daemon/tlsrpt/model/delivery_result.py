"""The result of an attempt to deliver a report."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["DeliveryResult", "Result"]


class Result(StrEnum):
    """The result for the report, and for later ones to the same address."""

    DELIVERED = "delivered"
    DEFERRED = "deferred"
    """Not accepted this time; retried."""
    REFUSED = "refused"
    """Refused; not retried."""
    GONE = "gone"
    """Refused, and the address wants no other reports."""


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """The result with a printable, short ``detail``.

    ``wait`` is the number of seconds after which the server wants to be tried again. ``host`` is True if the cause is
    the server and not this report, so that other reports to it would fail as well.
    """

    result: Result
    detail: str = ""
    wait: float = 0.0
    host: bool = False
