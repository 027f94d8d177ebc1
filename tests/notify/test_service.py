"""Alerts: queues, batches, retries, limits and safe rendering."""

import asyncio
import email
import json
from collections.abc import Sequence
from email import policy

from hypothesis import given
from hypothesis import strategies as st

from mtasts_daemon.notify.alert import Alert, Severity, alert_text
from mtasts_daemon.notify.service import QUEUE_MAX, AlertChannel, NotifyService, alert_mail, webhook_body
from tests.fakes.clock import FakeClock


def alert(number: int = 0, severity: Severity = Severity.ERROR) -> Alert:
    return Alert("policy-timeout", severity, f"{number}.example.com", "It timed out.", 1.8e9, "Fix it.", {"mx": "mx1"})


class Sleeps:
    """Record waits and advance the clock by them; fail after ``most`` waits."""

    def __init__(self, clock: FakeClock, most: int = 1000) -> None:
        self.clock, self.waits, self.most = clock, list[float](), most
        self.exhausted = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        if len(self.waits) >= self.most:
            self.exhausted.set()
            await asyncio.Event().wait()
        self.waits.append(seconds)
        self.clock.advance(seconds)
        await asyncio.sleep(0)


class Sink:
    def __init__(self, failures: int = 0) -> None:
        self.batches: list[Sequence[Alert]] = []
        self.failures = failures
        self.delivered = asyncio.Event()

    async def __call__(self, batch: Sequence[Alert]) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("the mail server is down")
        self.batches.append(tuple(batch))
        self.delivered.set()


async def test_alerts_of_one_moment_make_one_delivery() -> None:
    clock, sink = FakeClock(), Sink()
    service = NotifyService(clock, Sleeps(clock), [AlertChannel("mail", sink)])
    for number in range(3):
        service(alert(number))
    task = asyncio.create_task(service.run())
    await sink.delivered.wait()
    assert [len(batch) for batch in sink.batches] == [3]
    assert service.channels[0].delivered == 3
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_failed_delivery_is_retried_with_back_off() -> None:
    clock, sink = FakeClock(), Sink(failures=4)
    sleeps = Sleeps(clock)
    service = NotifyService(clock, sleeps, [AlertChannel("mail", sink)])
    service(alert())
    task = asyncio.create_task(service.run())
    await sink.delivered.wait()
    assert sleeps.waits == [5.0, 60.0, 120.0, 240.0, 480.0]
    assert not service.channels[0].last_error
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_delivery_that_fails_for_a_day_is_dropped_and_counted() -> None:
    clock, tried = FakeClock(), 0
    began, last = clock.monotonic(), asyncio.Event()

    async def refuse(_batch: Sequence[Alert]) -> None:
        nonlocal tried
        tried += 1
        if clock.monotonic() - began >= 86400:
            last.set()
        raise OSError("no connection")

    channel = AlertChannel("webhook", refuse)
    service = NotifyService(clock, Sleeps(clock), [channel])
    service(alert())
    task = asyncio.create_task(service.run())
    await last.wait()
    assert (channel.dropped, channel.delivered, len(channel.waiting)) == (1, 0, 0)
    assert tried == 30
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_one_channel_down_does_not_hold_up_the_other() -> None:
    clock, good = FakeClock(), Sink()
    service = NotifyService(clock, Sleeps(clock, 500), [AlertChannel("a", Sink(10_000)), AlertChannel("b", good)])
    service(alert())
    task = asyncio.create_task(service.run())
    await good.delivered.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_queue_is_bounded_and_keeps_the_newest() -> None:
    clock, channel = FakeClock(), AlertChannel("mail", Sink())
    service = NotifyService(clock, Sleeps(clock), [channel])
    for number in range(QUEUE_MAX + 10):
        service(alert(number))
    assert len(channel.waiting) == QUEUE_MAX
    assert channel.dropped == 10
    assert channel.waiting[-1].subject == f"{QUEUE_MAX + 9}.example.com"


async def test_reconfigured_channel_keeps_waiting_alerts() -> None:
    clock, sink = FakeClock(), Sink()
    service = NotifyService(clock, Sleeps(clock), [AlertChannel("mail", Sink(10_000))])
    service(alert())
    task = asyncio.create_task(service.run())
    await asyncio.sleep(0)
    service.configure([AlertChannel("mail", sink)])
    await sink.delivered.wait()
    assert sink.batches == [(alert(),)]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_webhook_body_has_stable_names() -> None:
    body = json.loads(webhook_body([alert()]))
    assert body["source"] == "mtasts-daemon"
    assert body["alerts"] == [
        {
            "slug": "policy-timeout",
            "severity": "error",
            "subject": "0.example.com",
            "sentence": "It timed out.",
            "remedy": "Fix it.",
            "details": {"mx": "mx1"},
            "resolved": False,
            "at": 1.8e9,
        }
    ]


def test_mail_names_the_worst_alert_first() -> None:
    raw = alert_mail([alert(1, Severity.NOTE), alert(2)], "d@example.com", "ops@example.com", 1.8e9)
    message = email.message_from_bytes(raw, policy=policy.default)
    assert message["Subject"] == "mtasts-daemon error: 2.example.com: policy-timeout and 1 more"
    assert message["Auto-Submitted"] == "auto-generated"
    body = message.get_content()
    assert body.index("2.example.com") < body.index("1.example.com")


@given(st.text(max_size=100), st.text(max_size=100))
def test_remote_text_cannot_forge_lines_or_headers(subject: str, detail: str) -> None:
    hostile = Alert("x", Severity.ERROR, subject, detail, 0.0, details={"seen": detail})
    assert len(alert_text(hostile).splitlines()) == 2
    message = email.message_from_bytes(alert_mail([hostile], "a@example.com", "b@example.com", 0.0))
    assert message.keys() == [
        "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "Content-Type",
        "Content-Transfer-Encoding", "MIME-Version",
    ]  # fmt: skip
