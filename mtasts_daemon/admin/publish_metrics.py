"""Metrics of the public listener and of published domains."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from ..publish.drift import DRIFT_SLUGS
from .metric_families import counter, gauge, labelled, labelled_gauge
from .service import AdminService

__all__ = ["public_metrics", "publish_metrics"]

_MODES = ("enforce", "testing", "none", "none-served")


def public_metrics(control: AdminService) -> Iterator[Metric]:
    """Yield the metrics of the public listener."""
    counters = control.parts.public.counters
    yield gauge("mtasts_public_connections", "Connections of the public listener.", counters.connections)
    yield counter("mtasts_public_connections_accepted", "Connections accepted.", counters.accepted)
    closed = {"limit": counters.refused, "silent": counters.expired}
    yield labelled("mtasts_public_connections_closed", "Connections closed by a limit.", "reason", closed)
    requests = {"policy": counters.policies, "unknown-host": counters.unknown_hosts}
    yield labelled("mtasts_public_policy_requests", "Requests for policies, by result.", "result", requests)
    codes = {str(code): count for code, count in sorted(counters.responses.copy().items())}
    yield labelled("mtasts_public_responses", "Other responses by HTTP status.", "status", codes)
    certificates = GaugeMetricFamily(
        "mtasts_public_certificate_expiry_timestamp_seconds",
        "When the first certificate of the public listener expires.",
    )
    ends = [one.not_after for one in control.parts.public.certificates]
    if ends:
        certificates.add_metric([], min(ends))
    yield certificates


def publish_metrics(control: AdminService) -> Iterator[Metric]:
    """Yield the metrics of published domains, as of the last minute."""
    found = control.parts.publish.counts
    modes = dict.fromkeys(_MODES, 0) | dict(found.modes)
    yield labelled_gauge("mtasts_publish_domains", "Published domains by mode.", "mode", modes)
    yield gauge("mtasts_publish_gated", "Domains whose new policy waits for the gate.", found.gated)
    yield gauge("mtasts_publish_unchecked", "Domains not checked since the start.", found.unchecked)
    yield gauge("mtasts_publish_forced", "Domains whose policy was published without a passed gate.", found.forced)
    yield gauge("mtasts_publish_rollouts", "Rollouts under way.", found.rollouts)
    yield gauge("mtasts_publish_removals", "Removals under way.", found.removals)
    slugs = dict.fromkeys(DRIFT_SLUGS, 0) | dict(found.findings)
    yield labelled_gauge("mtasts_publish_findings", "Findings at published domains.", "finding", slugs)
