"""The metrics, made of plain counters when somebody asks for them. Labels are closed sets; no domain is among them.

Names are stable. A lookup answered from a ready reply takes some ten microseconds, which nobody measures: it counts
in the least bucket of its histogram, and with no time in the sum.
"""

from collections.abc import Iterable, Iterator, Mapping
from platform import python_version

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder

from .. import __version__
from ..counters import Durations
from ..dns.resolver import DnsCounters
from ..errors import TlsrptEventError
from ..log import recent
from ..notify.alert import Severity
from ..policy.decision import Answer
from ..tlsrpt.collect.collector import CollectorCounters
from ..tlsrpt.database.overview import DeliveryCounters, Reports
from .publish_metrics import public_metrics, publish_metrics
from .service import AdminService

__all__ = ["Exposition", "families"]

_HOLDS = 1.0
_MAX_FORMS = 8
_CHANGES = ("policy-learned", "policy-changed", "policy-renewed")
_DELIVERY_STATES = ("waiting", "delivered", "refused", "failed", "suppressed")
_REFUSED = {"sts-record-missing": "txt-missing", "policy-refresh-failed": "refresh-failed"}


class Exposition:
    """All metrics as text. Made once a second at most, since it holds up lookups for more than a millisecond."""

    def __init__(self, control: AdminService) -> None:
        self._control = control
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        self._made: dict[str, tuple[float, bytes]] = {}

    def text(self, accept: str) -> tuple[bytes, str]:
        """In the form that ``accept`` asks for, and its Content-Type."""
        encode, content_type = choose_encoder(accept)
        now = self._control.parts.clock.monotonic()
        made = self._made.get(content_type)
        if made is None or now - made[0] >= _HOLDS:
            if len(self._made) >= _MAX_FORMS:
                self._made.clear()
            made = self._made[content_type] = (now, encode(self._registry))
        return made[1], content_type

    def collect(self) -> Iterable[Metric]:
        """For the registry."""
        return families(self._control)


def families(control: AdminService) -> Iterator[Metric]:
    """All metrics but those of the process."""
    yield InfoMetricFamily(
        "mtasts_build", "The version that runs.", {"version": __version__, "python": python_version()}
    )
    for part in (
        _lookups,
        _cache,
        _refresh,
        _dns,
        _https,
        _store,
        _tlsrpt,
        _checks,
        _daemon,
        public_metrics,
        publish_metrics,
    ):
        yield from part(control)


def _lookups(control: AdminService) -> Iterator[Metric]:
    counters, lookups = control.parts.counters, control.parts.lookups
    protocols = dict.fromkeys(("socketmap", "tcp_table"), 0) | counters.protocols
    yield _labelled("mtasts_lookups", "Lookups answered.", "protocol", protocols)
    given = dict.fromkeys((answer.value for answer in Answer), 0) | counters.answers
    yield _labelled("mtasts_lookup_answers", "Answers given.", "answer", given)
    hits = counters.cache_hits
    yield _histogram("mtasts_lookup_duration_seconds", "How long lookups took.", counters.waits, quick=hits)
    yield _gauge("mtasts_lookup_inflight", "Lookups that wait for their replies.", lookups.waiting())
    yield _gauge("mtasts_lookup_connections", "Connections of Postfix.", len(lookups.connections))
    yield _counter("mtasts_lookup_malformed", "Requests that did not follow their protocol.", counters.malformed_frames)
    yield _counter("mtasts_lookup_replies_shortened", "Replies cut to what Postfix reads.", counters.replies_shortened)
    yield _counter(
        "mtasts_lookup_connections_refused", "Connections closed to make room.", counters.connections_refused
    )


def _checks(control: AdminService) -> Iterator[Metric]:
    """Watched domains: the only metrics with a domain as label, because the operator lists them."""
    yield _counter("mtasts_checks", "Domains checked, watched or asked for.", control.parts.checks.checks)
    found = GaugeMetricFamily(
        "mtasts_check_findings", "Findings of the last check of a watched domain.", labels=["domain", "severity"]
    )
    last = GaugeMetricFamily(
        "mtasts_check_timestamp_seconds", "When a watched domain was last checked.", labels=["domain"]
    )
    for state in control.parts.watch.states.values():
        if state.result is not None:
            for severity in (Severity.ERROR, Severity.WARNING, Severity.NOTE):
                found.add_metric([state.domain, severity.value], state.result.count(severity))
            last.add_metric([state.domain], state.result.evidence.at)
    yield found
    yield last


def _cache(control: AdminService) -> Iterator[Metric]:
    parts, overview = control.parts, control.overview
    counters, limit = parts.counters, parts.configuration().config.store.max_policies
    yield _counter("mtasts_cache_requests", "Lookups, as requests to the cache.", counters.lookups)
    yield _counter("mtasts_cache_hits", "Lookups answered from a ready reply.", counters.cache_hits)
    yield _counter(
        "mtasts_cache_stale_served", "Answers from a policy that was looked at again beside.", counters.stale_served
    )
    modes = GaugeMetricFamily("mtasts_cache_entries", "Valid policies stored, once a minute.", labels=["mode"])
    for mode, count in overview.modes.items():
        modes.add_metric([mode], count)
    yield modes
    yield _gauge("mtasts_cache_entries_limit", "Policies stored at most.", limit)
    yield _gauge("mtasts_cache_expiring", "Valid policies that end within a day.", overview.expiring)
    yield _gauge(
        "mtasts_cache_enforce_at_risk",
        "Enforced policies that end within a day and whose last refresh failed.",
        overview.enforce_at_risk,
    )
    removed = dict.fromkeys(("expired", "one-day", "least-recent"), 0) | parts.store.counters.removed
    yield _labelled("mtasts_cache_evictions", "Policies removed from the store.", "reason", removed)


def _refresh(control: AdminService) -> Iterator[Metric]:
    counters, overview = control.parts.counters, control.overview
    now = control.parts.clock.wall()
    kinds = {"txt": counters.txt_checks, "policy": counters.refreshes}
    yield _labelled("mtasts_refresh", "Looks at TXT records, and refreshes of policies.", "kind", kinds)
    yield _labelled(
        "mtasts_refresh_failures", "Failed refreshes of live policies.", "reason", counters.refresh_failures
    )
    yield _gauge("mtasts_refresh_due", "Policies due for a refresh.", overview.due)
    lag = 0.0 if overview.due_since is None else max(now - overview.due_since, 0.0)
    yield _gauge("mtasts_refresh_lag_seconds", "For how long the longest overdue refresh has been due.", lag)
    yield _gauge(
        "mtasts_refresh_last_success_timestamp_seconds", "When a policy was last refreshed.", counters.refreshed_at
    )
    age = control.parts.clock.monotonic() - control.parts.refresher.heartbeat
    yield _gauge("mtasts_refresh_heartbeat_timestamp_seconds", "When the refresher last looked.", now - age)
    told = counters.policies_changed
    changes = {change.removeprefix("policy-"): told.get(change, 0) for change in _CHANGES}
    yield _labelled("mtasts_policies_changed", "Policies that came over HTTPS.", "change", changes)
    refused = {reason: told.get(event, 0) for event, reason in _REFUSED.items()}
    yield _labelled(
        "mtasts_downgrades_refused", "Failures in spite of which a live policy was kept.", "reason", refused
    )
    yield _counter(
        "mtasts_policies_unmatched", "Policies found to permit no MX host of their domain.", counters.policies_unmatched
    )
    yield _gauge(
        "mtasts_policies_undeliverable",
        "Domains used within two days whose policy permits none of their MX hosts, once a minute.",
        len(control.mx_mismatches),
    )
    yield _counter("mtasts_dane_walks", "Looks at the MX hosts of a destination.", counters.dane_walks)


def _dns(control: AdminService) -> Iterator[Metric]:
    found = getattr(control.parts.service.resolver, "counters", DnsCounters())
    queries = {rrtype.name: count for rrtype, count in found.queries.items()}
    yield _labelled("mtasts_dns_queries", "Questions asked.", "rrtype", queries)
    failures = CounterMetricFamily(
        "mtasts_dns_failures", "Questions without a usable answer.", labels=["rrtype", "reason"]
    )
    for (rrtype, reason), count in sorted(found.failures.items()):
        failures.add_metric([rrtype.name, reason], count)
    yield failures
    yield _histogram("mtasts_dns_duration_seconds", "How long answers took.", found.durations)
    yield _counter("mtasts_dns_retries", "Questions sent once more.", found.retries)
    dropped = {"unexpected": found.unexpected, "mismatched": found.mismatched}
    yield _labelled(
        "mtasts_dns_dropped", "Replies dropped: late or forged (unexpected), or forged (mismatched).", "reason", dropped
    )
    yield _counter(
        "mtasts_dns_tcp_fallbacks", "Questions asked again over TCP, for a longer reply.", found.tcp_fallbacks
    )
    yield _gauge(
        "mtasts_dns_authenticated", "Whether the resolver validates DNSSEC.", int(bool(control.parts.dnssec.state))
    )


def _https(control: AdminService) -> Iterator[Metric]:
    counters = control.parts.counters
    yield _counter("mtasts_https_fetches", "Policies asked for.", counters.fetches)
    yield _labelled("mtasts_https_failures", "Policies not had.", "reason", counters.fetch_failures)
    yield _histogram("mtasts_https_duration_seconds", "How long fetches took.", counters.fetch_seconds)


def _store(control: AdminService) -> Iterator[Metric]:
    found = control.parts.store.counters
    yield _labelled("mtasts_store_operations", "Calls of the store.", "op", {"get": found.gets, "put": found.puts})
    yield _counter("mtasts_store_failures", "Calls of the store that failed.", found.failures)
    yield _counter("mtasts_store_damaged_rows", "Rows passed over because they made no sense.", found.damaged_rows)
    yield SummaryMetricFamily(
        "mtasts_store_duration_seconds",
        "How long commits took.",
        count_value=found.commits,
        sum_value=found.commit_seconds,
    )


def _tlsrpt(control: AdminService) -> Iterator[Metric]:
    collecting = control.parts.tlsrpt.database is not None
    yield _gauge("mtasts_tlsrpt_collecting", "Whether TLS results are collected.", int(collecting))
    yield from _tls_results(control.parts.tlsrpt.collected)
    yield from _tls_reports(control.parts.tlsrpt.delivered)
    sending, found = control.sends_reports, control.reports or Reports()
    yield _gauge("mtasts_tlsrpt_sending", "Whether they are reported.", int(sending))
    states = GaugeMetricFamily(
        "mtasts_tlsrpt_deliveries",
        "Reports by what became of them, those that are done of seven days, once a minute.",
        labels=["state"],
    )
    for state in _DELIVERY_STATES:
        states.add_metric([state], getattr(found, state))
    yield states
    yield _gauge("mtasts_tlsrpt_deliveries_due", "Of those that wait the ones whose moment has come.", found.due)
    since = found.waits_since if sending else None
    # Counted a minute ago, so it may not have been over yet.
    waits = 0.0 if since is None else max(control.parts.clock.wall() - since, 0.0)
    yield _gauge(
        "mtasts_tlsrpt_undelivered_seconds",
        "For how long the earliest day has been over that waits for reports.",
        waits,
    )


def _tls_results(found: CollectorCounters) -> Iterator[Metric]:
    yield _counter("mtasts_tlsrpt_events", "TLS results received from Postfix.", found.received)
    rejected = dict.fromkeys((leaf.slug for leaf in TlsrptEventError.__subclasses__()), 0) | found.rejected
    yield _labelled("mtasts_tlsrpt_events_rejected", "Of those the ones that were not kept.", "reason", rejected)
    yield _gauge("mtasts_tlsrpt_last_event_timestamp_seconds", "When the last one came.", found.received_at)
    yield _counter(
        "mtasts_tlsrpt_sessions_refused", "Sessions not kept, the day having too many domains.", found.refused
    )
    yield _counter("mtasts_tlsrpt_notes_lost", "Failures that only the daemon knew of and lost.", found.notes_lost)
    yield _gauge("mtasts_tlsrpt_queued_bytes", "TLS results that wait for the disk.", found.queued)
    yield _counter("mtasts_tlsrpt_store_failures", "Transactions that failed; they are repeated.", found.store_failures)
    yield SummaryMetricFamily(
        "mtasts_tlsrpt_store_duration_seconds",
        "How long commits of TLS results took.",
        count_value=found.commits,
        sum_value=found.commit_seconds,
    )


def _tls_reports(found: DeliveryCounters) -> Iterator[Metric]:
    yield _counter("mtasts_tlsrpt_reports_made", "Reports made.", found.made)
    yield _labelled("mtasts_tlsrpt_reports_skipped", "Days of domains not reported.", "reason", found.skipped)
    yield _labelled("mtasts_tlsrpt_reports", "Reports that were taken.", "transport", found.delivered)
    yield _labelled("mtasts_tlsrpt_report_failures", "Attempts that delivered none.", "reason", found.failures)


def _daemon(control: AdminService) -> Iterator[Metric]:
    counters, reloaded = control.parts.counters, control.parts.reloaded()
    yield _gauge(
        "mtasts_config_last_reload_successful",
        "Whether the configuration last read is in force.",
        int(not reloaded.problems),
    )
    yield _gauge(
        "mtasts_config_last_reload_success_timestamp_seconds", "When it was last taken over.", reloaded.succeeded_at
    )
    yield _histogram("mtasts_event_loop_lag_seconds", "By how much the event loop was late.", counters.loop_lag)
    yield _labelled("mtasts_log_messages", "Log lines.", "level", recent.counts)
    tlsrpt = control.parts.tlsrpt
    unhandled = {
        "daemon": counters.unhandled,
        "tls-results": tlsrpt.collected.unhandled,
        "tls-reports": tlsrpt.delivered.unhandled,
    }
    yield _labelled("mtasts_unhandled_exceptions", "Exceptions that nobody expected.", "task", unhandled)


# -- families ----------------------------------------------------------------------------------------------


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)


def _labelled(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in sorted(values.items()):
        family.add_metric([value], count)
    return family


def _histogram(name: str, text: str, found: Durations, quick: int = 0) -> Metric:
    """``quick`` are counted in the least bucket, beside those that were measured."""
    buckets: list[tuple[str, float]] = []
    total = quick
    for bound, count in zip([*map(str, found.bounds), "+Inf"], found.counts, strict=True):
        total += count
        buckets.append((bound, total))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=found.total)
