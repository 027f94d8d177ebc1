"""Metrics of the receiving side: checks, received TLS reports, the public listener and published domains."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from ..errors import MtaStsError, ReceivedReportDeferred, ReceivedReportError, StoreError
from ..notify.alert import Severity
from ..publish.drift import DRIFT_SLUGS
from ..tlsrpt.receive.alert_rules import AlertKind
from ..tlsrpt.receive.authentication import AuthMethod
from ..tlsrpt.receive.model import Deviation, ReportSource
from .metric_families import counter, gauge, labelled, labelled_gauge
from .receiving_state import ReceivingState

__all__ = ["receiving_families"]

_MODES = ("enforce", "testing", "none", "none-served")


def receiving_families(state: ReceivingState) -> Iterator[Metric]:
    """Yield the metrics. Label values are closed sets, but for the domains that the operator lists."""
    yield from _received(state)
    yield from _checks(state)
    yield from _public(state)
    yield from _publish(state)


def _received(state: ReceivingState) -> Iterator[Metric]:
    found = state.intake
    yield gauge("mtasts_received_receiving", "Whether TLS reports of others are received.", int(state.receiving))
    for name, text, label, counts, known in (
        ("mtasts_received_reports", "TLS reports that came in.", "source", "received", ReportSource),
        (
            "mtasts_received_reports_stored",
            "Those that were stored or dropped.",
            "authentication",
            "stored",
            AuthMethod,
        ),
        ("mtasts_received_reports_refused", "Those that were not.", "reason", "rejected", _refusals()),
        ("mtasts_received_deviations", "Deviations from RFC 8460.", "deviation", "deviations", Deviation),
    ):
        yield labelled(name, text, label, dict.fromkeys(map(str, known), 0) | found.get(counts, {}))
    yield counter("mtasts_received_duplicates", "TLS reports that had come before.", found.get("duplicates", 0))
    yield counter("mtasts_received_revisions", "TLS reports that revised an earlier one.", found.get("revisions", 0))
    yield counter(
        "mtasts_received_foreign_domains", "Policy domains in reports that are not ours.", found.get("foreign", 0)
    )
    yield gauge(
        "mtasts_received_last_timestamp_seconds", "When the last TLS report was stored.", found.get("last_at", 0.0)
    )
    alerts = {kind.value: state.alerts.get(kind.value, 0) for kind in AlertKind}
    yield labelled_gauge("mtasts_received_alerts", "Alerts about received reports that hold.", "kind", alerts)
    if state.imap_last_success is not None:
        yield gauge(
            "mtasts_received_imap_last_success_timestamp_seconds", "When the mailbox was read.", state.imap_last_success
        )


def _refusals() -> list[str]:
    roots: tuple[type[MtaStsError], ...] = (ReceivedReportError, ReceivedReportDeferred)
    return [leaf.slug for root in roots for leaf in root.__subclasses__()] + [StoreError.slug]


def _checks(state: ReceivingState) -> Iterator[Metric]:
    yield counter("mtasts_checks", "Domains checked, watched or asked for.", state.checks)
    found = GaugeMetricFamily(
        "mtasts_check_findings", "Findings of the last check of a watched domain.", labels=["domain", "severity"]
    )
    last = GaugeMetricFamily(
        "mtasts_check_timestamp_seconds", "When a watched domain was last checked.", labels=["domain"]
    )
    for one in state.watched:
        for severity in (Severity.ERROR, Severity.WARNING, Severity.NOTE):
            found.add_metric([one.domain, severity.value], one.findings.get(severity.value, 0))
        last.add_metric([one.domain], one.at)
    yield found
    yield last


def _public(state: ReceivingState) -> Iterator[Metric]:
    found = state.public
    yield gauge("mtasts_public_connections", "Connections of the public listener.", found.get("connections", 0))
    yield counter("mtasts_public_connections_accepted", "Connections accepted.", found.get("accepted", 0))
    closed = {"limit": found.get("refused", 0), "silent": found.get("expired", 0)}
    yield labelled("mtasts_public_connections_closed", "Connections closed by a limit.", "reason", closed)
    requests = {"policy": found.get("policies", 0), "unknown-host": found.get("unknown_hosts", 0)}
    yield labelled("mtasts_public_policy_requests", "Requests for policies, by result.", "result", requests)
    codes = found.get("responses", {})
    yield labelled("mtasts_public_responses", "Other responses by HTTP status.", "status", codes)
    certificates = GaugeMetricFamily(
        "mtasts_public_certificate_expiry_timestamp_seconds",
        "When the first certificate of the public listener expires.",
    )
    if state.certificate_expiry is not None:
        certificates.add_metric([], state.certificate_expiry)
    yield certificates


def _publish(state: ReceivingState) -> Iterator[Metric]:
    """Yield the metrics of published domains, as of the last minute."""
    found = state.publish
    modes = dict.fromkeys(_MODES, 0) | dict(found.get("modes", {}))
    yield labelled_gauge("mtasts_publish_domains", "Published domains by mode.", "mode", modes)
    for name, text, count in (
        ("mtasts_publish_gated", "Domains whose new policy waits for the gate.", "gated"),
        ("mtasts_publish_unchecked", "Domains not checked since the start.", "unchecked"),
        ("mtasts_publish_forced", "Domains whose policy was published without a passed gate.", "forced"),
        ("mtasts_publish_rollouts", "Rollouts under way.", "rollouts"),
        ("mtasts_publish_removals", "Removals under way.", "removals"),
    ):
        yield gauge(name, text, found.get(count, 0))
    slugs = dict.fromkeys(DRIFT_SLUGS, 0) | dict(found.get("findings", {}))
    yield labelled_gauge("mtasts_publish_findings", "Findings at published domains.", "finding", slugs)
