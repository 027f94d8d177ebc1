"""Metrics of the public listener and of published domains."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ..publish.drift import DRIFT_SLUGS
from .service import AdminService

__all__ = ["public_metrics", "publish_metrics"]

_MODES = ("enforce", "testing", "none", "none-served")


def public_metrics(control: AdminService) -> Iterator[Metric]:
    """Yield the metrics of the public listener."""
    counters = control.parts.public.counters
    yield _gauge("mtasts_public_connections", "Connections of the public listener.", counters.connections)
    yield _counter("mtasts_public_connections_accepted", "Connections accepted.", counters.accepted)
    closed = {"limit": counters.refused, "silent": counters.expired}
    yield _labelled("mtasts_public_connections_closed", "Connections closed by a limit.", "reason", closed)
    requests = {"policy": counters.policies, "unknown-host": counters.unknown_hosts}
    yield _labelled("mtasts_public_policy_requests", "Requests for policies, by result.", "result", requests)
    codes = {str(code): count for code, count in sorted(counters.responses.copy().items())}
    yield _labelled("mtasts_public_responses", "Other responses by HTTP status.", "status", codes)
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
    yield _labelled_gauge("mtasts_publish_domains", "Published domains by mode.", "mode", modes)
    yield _gauge("mtasts_publish_gated", "Domains whose new policy waits for the gate.", found.gated)
    yield _gauge("mtasts_publish_unchecked", "Domains not checked since the start.", found.unchecked)
    yield _gauge("mtasts_publish_forced", "Domains whose policy was published without a passed gate.", found.forced)
    yield _gauge("mtasts_publish_rollouts", "Rollouts under way.", found.rollouts)
    yield _gauge("mtasts_publish_removals", "Removals under way.", found.removals)
    slugs = dict.fromkeys(DRIFT_SLUGS, 0) | dict(found.findings)
    yield _labelled_gauge("mtasts_publish_findings", "Findings at published domains.", "finding", slugs)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value)


def _labelled(name: str, text: str, label: str, values: Mapping[str, float]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _labelled_gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
