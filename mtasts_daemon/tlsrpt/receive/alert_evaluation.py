"""The alerts of all domains, evaluated from the database and sent to the notifier."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ...notify.alert import Alert, AlertSink, Severity
from ...text import utc_day
from .alert_rules import AlertKind, AlertRules, ReportAlert, is_silenced, raised_alerts
from .alert_store import silences, update_alerts
from .database import Job
from .queries import day_totals, domain_totals, failing_hosts, reporter_days

__all__ = ["evaluate_alerts"]

_DAY = 86400

Run = Callable[[Job[Any]], Awaitable[Any]]


async def evaluate_alerts(read: Run, write: Run, now: float, sink: AlertSink) -> Mapping[str, int]:
    """Record the active alerts, send the new and the ended ones, and return the number of active ones by kind.

    Raises ``StoreError``.
    """
    today, rules = utc_day(now), AlertRules()
    holding: list[ReportAlert] = []
    for one in await read(domain_totals(utc_day(now - (rules.known_days + 1) * _DAY), today)):
        since = (utc_day(now - rules.known_days * _DAY), today)
        holding += raised_alerts(
            one.domain,
            today,
            await read(day_totals(one.domain, *since)),
            await read(reporter_days(one.domain, *since)),
            await read(failing_hosts(one.domain, *since)),
            rules,
        )
    silent = await read(silences(now))
    audible = [alert for alert in holding if not is_silenced(alert, silent, now)]
    new, over = await write(update_alerts(now, audible, [alert for alert in holding if alert not in audible]))
    for alert in new:
        sink(
            Alert(
                f"tls-reports-{alert.kind.value}",
                Severity.WARNING,
                alert.domain,
                alert.sentence,
                now,
                alert.hint,
                {"subject": alert.subject} if alert.subject else {},
            )
        )
    for domain, kind, subject in over:
        sentence = f"no longer: {subject}" if subject else "no longer"
        sink(Alert(f"tls-reports-{kind}", Severity.OK, domain, sentence, now, resolved=True))
    return {kind.value: sum(one.kind is kind for one in audible) for kind in AlertKind}
