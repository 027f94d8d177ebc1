"""Alerts as values. A part that alerts needs this module only: make an ``Alert`` and call the ``AlertSink``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from ..text import sanitize

__all__ = ["Alert", "AlertSink", "Severity", "alert_json", "alert_text", "no_alerts"]

_MAX_TEXT = 2000


class Severity(Enum):
    """How much something matters, in ascending order; the values are stable."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """The position in ascending order."""
        return _RANKS[self]


_RANKS = {severity: rank for rank, severity in enumerate(Severity)}


@dataclass(frozen=True, slots=True)
class Alert:
    """One event for the operator. ``at`` is in seconds since the epoch.

    ``slug`` names the kind of event and is stable; ``subject`` is the domain or part concerned; ``sentence`` says
    what happened and ``remedy`` what to do. ``details`` are further facts. ``resolved`` says that it is over.
    """

    slug: str
    severity: Severity
    subject: str
    sentence: str
    at: float
    remedy: str = ""
    details: Mapping[str, str] = field(default_factory=dict)
    resolved: bool = False


class AlertSink(Protocol):
    """Takes alerts. Neither waits nor raises; call it on the main event loop."""

    def __call__(self, alert: Alert, /) -> None:
        """Queue the alert."""


def no_alerts(_alert: Alert, /) -> None:
    """Drop the alert: the sink if no notification is configured."""


def alert_json(alert: Alert) -> dict[str, Any]:
    """Return the alert as a webhook sends it; the names are stable."""
    return {
        "slug": alert.slug,
        "severity": alert.severity.value,
        "subject": alert.subject,
        "sentence": alert.sentence,
        "remedy": alert.remedy,
        "details": dict(alert.details),
        "resolved": alert.resolved,
        "at": alert.at,
    }


def alert_text(alert: Alert) -> str:
    """Return the alert as a mail shows it: printable lines only, even if the alert quotes remote text."""
    state = "resolved" if alert.resolved else alert.severity.value
    lines = [f"{state}: {alert.subject}: {alert.sentence} ({alert.slug})"]
    if alert.remedy:
        lines.append(f"  {alert.remedy}")
    lines += [f"  {name}: {value}" for name, value in alert.details.items()]
    return "\n".join(sanitize(line, _MAX_TEXT) for line in lines)
