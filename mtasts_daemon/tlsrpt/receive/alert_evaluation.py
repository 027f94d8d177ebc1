"""The alerts of all domains, evaluated from the database and sent to the notifier."""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ...notify.alert import Alert, AlertSink, Severity
from .alert_rules import AlertKind, ReportAlert, is_silenced, raised_alerts
from .alert_store import silences, update_alerts
from .database import Job
from .queries import day_totals, domain_totals, failing_hosts, reporters

__all__ = ["evaluate_alerts"]

_DAY = 86400

Run = Callable[[Job[Any]], Awaitable[Any]]


async def evaluate_alerts(read: Run, write: Run, now: float, sink: AlertSink) -> Mapping[str, int]:
    """Record which alerts hold, send those that are new or over, and count those that hold by kind.

    Raises ``StoreError``.
    """
    today = _day(now)
    holding: list[ReportAlert] = []
    for one in await read(domain_totals(_day(now - 31 * _DAY), today)):
        since = (_day(now - 30 * _DAY), today)
        holding += raised_alerts(
            one.domain,
            today,
            await read(day_totals(one.domain, *since)),
            await read(reporters(one.domain, *since)),
            await read(failing_hosts(one.domain, *since)),
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


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(moment))
