"""What one attempt to deliver a report came to."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Attempt", "Result"]


class Result(StrEnum):
    """What it means for the report, and for later ones to the same address."""

    DELIVERED = "delivered"
    DEFERRED = "deferred"
    """Not taken this time."""
    REFUSED = "refused"
    """Refused; asking again would not help."""
    GONE = "gone"
    """Refused, and so will be every other one."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """``detail`` is printable and short; empty: nothing to say.

    ``wait`` is how long, in seconds, the other side asked not to be tried again. ``host`` says that it is the other
    side's trouble rather than this report's, so that other reports would fare no better just now.
    """

    result: Result
    detail: str = ""
    wait: float = 0.0
    host: bool = False
