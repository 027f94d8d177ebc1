"""The summary of one domain, read in one transaction for the page, the API and the command."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .advice import NO_CONTEXT, Advice, AdviceFacts, Change, ReportContext, advise, changes_near, failure_hint
from .alert_store import open_alerts
from .database import Job, SqlConnection
from .queries import day_totals, failing_hosts, reporters, unauthenticated_count
from .totals import DayTotals, FailingHost, ReporterTotals

__all__ = ["DomainSummary", "summary_job", "summary_json"]


@dataclass(frozen=True, slots=True)
class DomainSummary:
    """A domain over some days. ``untrusted`` counts reports that are not in the sums."""

    domain: str
    since: str
    until: str
    days: Sequence[DayTotals]
    reporters: Sequence[ReporterTotals]
    failures: Sequence[FailingHost]
    advice: Sequence[Advice]
    alerts: Sequence[dict[str, Any]]
    untrusted: int
    changes: Sequence[Change] = ()


def summary_job(
    domain: str,
    since: str,
    until: str,
    *,
    submitter: str = "",
    result_type: str = "",
    context: ReportContext = NO_CONTEXT,
) -> Job[DomainSummary]:
    """Return the job that reads it. ``context`` is what checks saw of the domain."""

    def job(connection: SqlConnection) -> DomainSummary:
        days = day_totals(domain, since, until, submitter)(connection)
        who = reporters(domain, since, until)(connection)
        failures = failing_hosts(domain, since, until, submitter, result_type)(connection)
        untrusted = unauthenticated_count(domain, since, until)(connection)
        facts = AdviceFacts(domain, until, days, who, failures, context, untrusted)
        return DomainSummary(
            domain,
            since,
            until,
            days,
            who,
            failures,
            advise(facts),
            open_alerts(domain)(connection),
            untrusted,
            context.changes,
        )

    return job


def summary_json(found: DomainSummary) -> dict[str, Any]:
    """Return it as JSON has it."""
    return {
        "domain": found.domain,
        "since": found.since,
        "until": found.until,
        "days": [asdict(day) for day in found.days],
        "reporters": [asdict(one) for one in found.reporters],
        "failures": [
            asdict(one)
            | {
                "hint": failure_hint(one.result_type, found.domain),
                "changes": [asdict(change) for change in changes_near(one.first_day, found.changes)],
            }
            for one in found.failures
        ],
        "advice": [asdict(one) for one in found.advice],
        "alerts": list(found.alerts),
        "untrusted": found.untrusted,
    }
