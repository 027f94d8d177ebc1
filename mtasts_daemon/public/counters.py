"""Counters of the public listener: plain integers, written on its thread and read by the metrics."""

from dataclasses import dataclass, field

__all__ = ["PublicCounters"]


@dataclass(slots=True)
class PublicCounters:
    """Counts since the start. ``connections`` is a gauge."""

    connections: int = 0
    accepted: int = 0
    refused: int = 0
    """Connections closed at once because a limit was reached."""
    expired: int = 0
    """Connections closed because no complete request arrived in time."""
    policies: int = 0
    """Requests answered with a policy text."""
    unknown_hosts: int = 0
    """Policy requests for a host without a policy."""
    responses: dict[int, int] = field(default_factory=dict)
    """Other responses by HTTP status."""
    internal_errors: int = 0
