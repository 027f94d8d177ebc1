"""Metrics for Prometheus, made from plain counters on request. Label values are closed sets without domains.

Names are stable. A lookup answered from the reply cache takes about 10 microseconds and is not timed: it counts in the
smallest bucket of the histogram and adds nothing to the sum.
"""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from platform import python_version

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder

from .. import __version__
from ..dns.resolver import DnsCounters
from ..errors import TlsrptEventError
from ..log import recent
from ..policy.decision import Answer
from ..tlsrpt.collect.collector import CollectorCounters
from ..tlsrpt.database.overview import DeliveryCounters, ReportTotals
from .metric_families import counter, gauge, histogram, labelled, labelled_gauge
from .receiving_metrics import receiving_families
from .receiving_state import ReceivingState
from .service import AdminService

__all__ = ["Exposition", "ProcessMetrics", "families"]

_HOLDS = 1.0
_MAX_FORMS = 8
_CHANGES = ("policy-learned", "policy-changed", "policy-renewed")
_DELIVERY_STATES = ("waiting", "delivered", "refused", "failed", "suppressed")
_REFUSED = {"sts-record-missing": "txt-missing", "policy-refresh-failed": "refresh-failed"}


class ProcessMetrics(ProcessCollector):
    """The metrics of a process, also if /proc has nothing but processes (ProcSubset=pid of the systemd unit)."""

    def _boot_time(self) -> float | None:
        if sys.platform != "linux":
            return super()._boot_time()  # type: ignore[no-any-return,no-untyped-call]  # it has no annotations
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


class Exposition:
    """All metrics as text. Made once per second at most, because that blocks lookups for over a millisecond."""

    def __init__(self, control: AdminService) -> None:
        self._control = control
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessMetrics(registry=self._registry)
        # While the process does not run, these are absent.
        ProcessMetrics("mtasts_receive", lambda: control.parts.receiving.pid or "none", registry=self._registry)
        self._made: dict[str, tuple[float, bytes]] = {}
        self._state = ReceivingState()

    def text(self, accept: str, state: ReceivingState) -> tuple[bytes, str]:
        """Return the text in the format that ``accept`` prefers, and its Content-Type."""
        self._state = state
        encode, content_type = choose_encoder(accept)
        now = self._control.parts.clock.monotonic()
        made = self._made.get(content_type)
        if made is None or now - made[0] >= _HOLDS:
            if len(self._made) >= _MAX_FORMS:
                self._made.clear()
            made = self._made[content_type] = (now, encode(self._registry))
        return made[1], content_type

    def collect(self) -> Iterable[Metric]:
        """Return the metrics; called by the registry."""
        return families(self._control, self._state)


def families(control: AdminService, state: ReceivingState) -> Iterator[Metric]:
    """Yield all metrics except those of the process."""
    yield InfoMetricFamily(
        "mtasts_build", "Version of the program.", {"version": __version__, "python": python_version()}
    )
    for part in (
        _lookups,
        _cache,
        _refresh,
        _dns,
        _https,
        _store,
        _tlsrpt,
    ):
        yield from part(control)
    yield from receiving_families(state)
    yield from _daemon(control, state)


def _lookups(control: AdminService) -> Iterator[Metric]:
    counters, lookups = control.parts.counters, control.parts.lookups
    protocols = dict.fromkeys(("socketmap", "tcp_table"), 0) | counters.protocols
    yield labelled("mtasts_lookups", "Lookups answered.", "protocol", protocols)
    given = dict.fromkeys((answer.value for answer in Answer), 0) | counters.answers
    yield labelled("mtasts_lookup_answers", "Replies by type.", "answer", given)
    hits = counters.cache_hits
    yield histogram("mtasts_lookup_duration_seconds", "Duration of lookups.", counters.waits, quick=hits)
    yield gauge("mtasts_lookup_inflight", "Lookups waiting for a reply.", lookups.waiting())
    yield gauge("mtasts_lookup_connections", "Open lookup connections.", len(lookups.connections))
    yield counter("mtasts_lookup_malformed", "Malformed requests.", counters.malformed_frames)
    yield counter(
        "mtasts_lookup_replies_shortened", "Replies shortened to Postfix's limit.", counters.replies_shortened
    )
    yield counter("mtasts_lookup_connections_refused", "Connections closed at the limit.", counters.connections_refused)


def _cache(control: AdminService) -> Iterator[Metric]:
    parts, overview = control.parts, control.overview
    counters, limit = parts.counters, parts.configuration().config.store.max_policies
    yield counter("mtasts_cache_requests", "Lookups that consulted the cache.", counters.lookups)
    yield counter("mtasts_cache_hits", "Lookups answered from the reply cache.", counters.cache_hits)
    yield counter(
        "mtasts_cache_stale_served", "Replies from a policy that was being checked again.", counters.stale_served
    )
    yield labelled_gauge(
        "mtasts_cache_entries", "Valid policies stored, counted once a minute.", "mode", overview.modes
    )
    yield gauge("mtasts_cache_entries_limit", "Maximum number of stored policies.", limit)
    yield gauge("mtasts_cache_expiring", "Valid policies that expire within a day.", overview.expiring)
    yield gauge(
        "mtasts_cache_enforce_at_risk",
        "Enforced policies that expire within a day and whose last refresh failed.",
        overview.enforce_at_risk,
    )
    removed = dict.fromkeys(("expired", "one-day", "least-recent"), 0) | parts.store.counters.removed
    yield labelled("mtasts_cache_evictions", "Policies removed from the store.", "reason", removed)


def _refresh(control: AdminService) -> Iterator[Metric]:
    counters, overview = control.parts.counters, control.overview
    now = control.parts.clock.wall()
    kinds = {"txt": counters.txt_checks, "policy": counters.refreshes}
    yield labelled("mtasts_refresh", "Checks of TXT records and fetches of live policies.", "kind", kinds)
    yield labelled("mtasts_refresh_failures", "Failed fetches of live policies.", "reason", counters.refresh_failures)
    yield gauge("mtasts_refresh_due", "Policies due for a refresh.", overview.due)
    lag = 0.0 if overview.due_since is None else max(now - overview.due_since, 0.0)
    yield gauge("mtasts_refresh_lag_seconds", "Age of the most overdue refresh.", lag)
    yield gauge(
        "mtasts_refresh_last_success_timestamp_seconds", "Time of the last successful refresh.", counters.refreshed_at
    )
    age = control.parts.clock.monotonic() - control.parts.refresher.heartbeat
    yield gauge("mtasts_refresh_heartbeat_timestamp_seconds", "Time of the last round of the refresher.", now - age)
    changed = counters.policies_changed
    changes = {change.removeprefix("policy-"): changed.get(change, 0) for change in _CHANGES}
    yield labelled("mtasts_policies_changed", "Policies fetched over HTTPS.", "change", changes)
    refused = {reason: changed.get(event, 0) for event, reason in _REFUSED.items()}
    yield labelled("mtasts_downgrades_refused", "Failures after which a live policy was kept.", "reason", refused)
    yield counter(
        "mtasts_policies_unmatched",
        "Policies that permit none of the domain's MX hosts.",
        counters.policies_unmatched,
    )
    yield gauge(
        "mtasts_deferred_domains",
        "Domains whose mail is deferred now.",
        len(control.deferred),
    )
    yield counter("mtasts_dane_discoveries", "DANE lookups of a destination's MX hosts.", counters.dane_discoveries)


def _dns(control: AdminService) -> Iterator[Metric]:
    found = getattr(control.parts.service.resolver, "counters", DnsCounters())
    queries = {rrtype.name: count for rrtype, count in found.queries.items()}
    yield labelled("mtasts_dns_queries", "DNS queries sent.", "rrtype", queries)
    failures = CounterMetricFamily(
        "mtasts_dns_failures", "DNS queries without a usable response.", labels=["rrtype", "reason"]
    )
    for (rrtype, reason), count in sorted(found.failures.items()):
        failures.add_metric([rrtype.name, reason], count)
    yield failures
    yield histogram("mtasts_dns_duration_seconds", "Duration of DNS queries.", found.durations)
    yield counter("mtasts_dns_retries", "DNS queries repeated.", found.retries)
    dropped = {"unexpected": found.unexpected, "mismatched": found.mismatched}
    yield labelled(
        "mtasts_dns_dropped",
        "DNS responses dropped: unexpected (late or forged) or mismatched (forged).",
        "reason",
        dropped,
    )
    yield counter("mtasts_dns_tcp_fallbacks", "DNS queries repeated over TCP after truncation.", found.tcp_fallbacks)
    yield gauge(
        "mtasts_dns_authenticated", "1 if the resolver validates DNSSEC.", int(bool(control.parts.dnssec.state))
    )


def _https(control: AdminService) -> Iterator[Metric]:
    counters = control.parts.counters
    yield counter("mtasts_https_fetches", "Policy fetches.", counters.fetches)
    yield labelled("mtasts_https_failures", "Failed policy fetches.", "reason", counters.fetch_failures)
    yield histogram("mtasts_https_duration_seconds", "Duration of policy fetches.", counters.fetch_seconds)


def _store(control: AdminService) -> Iterator[Metric]:
    found = control.parts.store.counters
    yield labelled("mtasts_store_operations", "Operations of the store.", "op", {"get": found.gets, "put": found.puts})
    yield counter("mtasts_store_failures", "Failed operations of the store.", found.failures)
    yield counter("mtasts_store_damaged_rows", "Damaged rows that were skipped.", found.damaged_rows)
    yield SummaryMetricFamily(
        "mtasts_store_duration_seconds",
        "Duration of commits.",
        count_value=found.commits,
        sum_value=found.commit_seconds,
    )


def _tlsrpt(control: AdminService) -> Iterator[Metric]:
    collecting = control.parts.tlsrpt.database is not None
    yield gauge("mtasts_tlsrpt_collecting", "1 if TLS results are collected.", int(collecting))
    yield from _tls_results(control.parts.tlsrpt.collected)
    yield from _tls_reports(control.parts.tlsrpt.delivered)
    sending, found = control.sends_reports, control.reports or ReportTotals()
    yield gauge("mtasts_tlsrpt_sending", "1 if TLS reports are sent.", int(sending))
    yield labelled_gauge(
        "mtasts_tlsrpt_deliveries",
        "Reports by state, counted once a minute; finished ones over seven days.",
        "state",
        {state: getattr(found, state) for state in _DELIVERY_STATES},
    )
    yield gauge("mtasts_tlsrpt_deliveries_due", "Waiting reports that are due.", found.due)
    since = found.waits_since if sending else None
    # Counted up to a minute ago, when the day may not have been over.
    waits = 0.0 if since is None else max(control.parts.clock.wall() - since, 0.0)
    yield gauge(
        "mtasts_tlsrpt_undelivered_seconds",
        "Time since the end of the earliest day with a waiting report.",
        waits,
    )


def _tls_results(found: CollectorCounters) -> Iterator[Metric]:
    yield counter("mtasts_tlsrpt_events", "TLS results received from Postfix.", found.received)
    rejected = dict.fromkeys((leaf.slug for leaf in TlsrptEventError.__subclasses__()), 0) | found.rejected
    yield labelled("mtasts_tlsrpt_events_rejected", "TLS results that were rejected.", "reason", rejected)
    yield gauge("mtasts_tlsrpt_last_event_timestamp_seconds", "Time of the last TLS result.", found.received_at)
    yield counter("mtasts_tlsrpt_sessions_refused", "Sessions dropped at the limit of domains per day.", found.refused)
    yield counter("mtasts_tlsrpt_findings_lost", "Failures seen by the daemon itself and lost.", found.findings_lost)
    yield gauge("mtasts_tlsrpt_queued_bytes", "Size of TLS results not yet on disk.", found.queued)
    yield counter("mtasts_tlsrpt_store_failures", "Failed transactions; they are repeated.", found.store_failures)
    yield SummaryMetricFamily(
        "mtasts_tlsrpt_store_duration_seconds",
        "Duration of commits of TLS results.",
        count_value=found.commits,
        sum_value=found.commit_seconds,
    )


def _tls_reports(found: DeliveryCounters) -> Iterator[Metric]:
    yield counter("mtasts_tlsrpt_reports_made", "Reports generated.", found.made)
    yield labelled("mtasts_tlsrpt_reports_skipped", "Reports not generated.", "reason", found.skipped)
    yield labelled("mtasts_tlsrpt_reports", "Reports delivered.", "transport", found.delivered)
    yield labelled("mtasts_tlsrpt_report_failures", "Failed delivery attempts.", "reason", found.failures)


def _daemon(control: AdminService, state: ReceivingState) -> Iterator[Metric]:
    counters, reloaded = control.parts.counters, control.parts.reloaded()
    yield gauge(
        "mtasts_config_last_reload_successful",
        "1 if the last reload succeeded.",
        int(not reloaded.problems),
    )
    yield gauge(
        "mtasts_config_last_reload_success_timestamp_seconds",
        "Last successful reload.",
        reloaded.succeeded_at,
    )
    yield histogram("mtasts_event_loop_lag_seconds", "Lag of the event loop.", counters.loop_lag)
    yield labelled("mtasts_log_messages", "Log lines.", "level", _sum(recent.counts, state.log_counts))
    tlsrpt = control.parts.tlsrpt
    unhandled = {
        "daemon": counters.unhandled,
        "tls-results": tlsrpt.collected.unhandled,
        "tls-reports": tlsrpt.delivered.unhandled,
        "public": state.public.get("internal_errors", 0),
        "receiving": state.unhandled,
    }
    yield labelled("mtasts_unhandled_exceptions", "Unhandled exceptions.", "task", unhandled)


def _sum(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    return {key: first.get(key, 0) + second.get(key, 0) for key in {**first, **second}}
