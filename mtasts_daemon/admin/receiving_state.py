"""What the receiving process reports to the daemon: plain values, which cross as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

__all__ = ["ReceivingState", "WatchedCounts"]


@dataclass(frozen=True, slots=True)
class WatchedCounts:
    """The last check of a watched domain: findings by severity, and its wall-clock time."""

    domain: str
    findings: Mapping[str, int]
    at: float


@dataclass(frozen=True, slots=True)
class ReceivingState:
    """The state of the receiving side; the defaults are those of a process that never started.

    ``intake``, ``public`` and ``publish`` are the fields of ``IntakeCounters``, ``PublicCounters`` and
    ``DomainCounts``; missing ones are zero.
    """

    failures: Mapping[str, str] = field(default_factory=dict)
    """Parts and background tasks that failed: name to reason."""
    unhandled: int = 0
    log_counts: Mapping[str, int] = field(default_factory=dict)
    """Log lines by level."""
    checks: int = 0
    watched: Sequence[WatchedCounts] = ()
    receiving: bool = False
    intake: Mapping[str, Any] = field(default_factory=dict)
    alerts: Mapping[str, int] = field(default_factory=dict)
    imap_last_success: float | None = None
    public: Mapping[str, Any] = field(default_factory=dict)
    certificate_expiry: float | None = None
    publish: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the values as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "ReceivingState":
        """Return the state from JSON values. Raises KeyError or TypeError for other ones."""
        values = {one.name: found[one.name] for one in fields(cls)}
        values["watched"] = [WatchedCounts(**one) for one in values["watched"]]
        return cls(**values)
