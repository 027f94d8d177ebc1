"""Deliver alerts by mail and by webhook, in batches, with retries, from a bounded queue."""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Final

from .. import __version__
from ..log import log_event
from ..ports import Clock
from .alert import Alert, alert_json, alert_text

__all__ = ["AlertChannel", "NotifyService", "alert_mail", "webhook_body"]

QUEUE_MAX: Final = 256
"""Alerts that wait for one channel; beyond that the oldest are dropped, and counted."""
_BATCH: Final = 50
_GATHER_SECONDS: Final = 5.0
"""How long the first alert waits for others, so that one cause makes one mail."""
_RETRY_FIRST, _RETRY_LAST, _RETRY_FOR = 60.0, 3600.0, 86400.0


@dataclass(slots=True)
class AlertChannel:
    """One way to the operator.

    ``deliver`` raises ``OSError`` with a sentence if the alerts could not be delivered.
    """

    name: str
    deliver: Callable[[Sequence[Alert]], Awaitable[None]]
    waiting: "deque[Alert]" = field(default_factory=lambda: deque(maxlen=QUEUE_MAX))
    delivered: int = 0
    dropped: int = 0
    last_error: str = ""


class NotifyService:
    """An ``AlertSink`` with a task per channel. Used from one event loop."""

    def __init__(
        self,
        clock: Clock,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        channels: Sequence[AlertChannel] = (),
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self.channels: tuple[AlertChannel, ...] = tuple(channels)
        self._arrived = asyncio.Event()
        self._changed = asyncio.Event()

    def __call__(self, alert: Alert, /) -> None:
        """Log the alert and queue it for each channel."""
        level = logging.INFO if alert.resolved else logging.WARNING
        log_event(
            "alert",
            level=level,
            slug=alert.slug,
            severity=alert.severity.value,
            subject=alert.subject,
            meaning=alert.sentence,
        )
        for channel in self.channels:
            if len(channel.waiting) == QUEUE_MAX:
                channel.dropped += 1
                log_event("alert-dropped", level=logging.ERROR, once_a_minute=channel.name, channel=channel.name)
            channel.waiting.append(alert)
        self._arrived.set()

    def configure(self, channels: Sequence[AlertChannel]) -> None:
        """Use these channels from now on; alerts that wait for a channel of the same name go to the new one."""
        before = {channel.name: channel for channel in self.channels}
        for channel in channels:
            old = before.get(channel.name)
            if old is not None:
                channel.waiting.extend(old.waiting)
                channel.delivered, channel.dropped = old.delivered, old.dropped
        self.channels = tuple(channels)
        self._changed.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            self._changed.clear()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._serve(channel), name=channel.name) for channel in self.channels]
                await self._changed.wait()
                for task in tasks:
                    task.cancel()

    async def _serve(self, channel: AlertChannel) -> None:
        while True:
            while not channel.waiting:
                self._arrived.clear()
                await self._arrived.wait()
            await self._sleep(_GATHER_SECONDS)
            batch = [channel.waiting[at] for at in range(min(_BATCH, len(channel.waiting)))]
            await self._deliver(channel, batch)
            for alert in batch:
                # New alerts may have pushed some of these out meanwhile.
                if channel.waiting and channel.waiting[0] is alert:
                    channel.waiting.popleft()

    async def _deliver(self, channel: AlertChannel, batch: Sequence[Alert]) -> None:
        """Try until it succeeds or a day has passed."""
        wait, until = _RETRY_FIRST, self._clock.monotonic() + _RETRY_FOR
        while True:
            try:
                await channel.deliver(batch)
            except OSError as error:
                channel.last_error = str(error) or type(error).__name__
                error_text = channel.last_error
                log_event("alert-delivery-failed", level=logging.WARNING, channel=channel.name, error=error_text)
            except Exception:
                channel.last_error = "internal error, see the log"
                logging.getLogger(__name__).exception("alert-internal-error")
            else:
                channel.delivered += len(batch)
                channel.last_error = ""
                return
            if self._clock.monotonic() >= until:
                channel.dropped += len(batch)
                log_event("alert-dropped", level=logging.ERROR, channel=channel.name, count=len(batch))
                return
            await self._sleep(wait)
            wait = min(2 * wait, _RETRY_LAST)


def webhook_body(alerts: Sequence[Alert]) -> bytes:
    """Return the JSON that a webhook receives: ``{"source": "mtasts-daemon", "version": ..., "alerts": [...]}``."""
    body = {"source": "mtasts-daemon", "version": __version__, "alerts": [alert_json(alert) for alert in alerts]}
    return json.dumps(body).encode()


def alert_mail(alerts: Sequence[Alert], sender: str, recipient: str, now: float) -> bytes:
    """Return one mail with the alerts, worst first, ready for SMTP."""
    ordered = sorted(alerts, key=lambda alert: (alert.resolved, -alert.severity.rank))
    first = ordered[0]
    more = f" and {len(alerts) - 1} more" if len(alerts) > 1 else ""
    state = "resolved" if first.resolved else first.severity.value
    subject = f"mtasts-daemon {state}: {first.subject}: {first.slug}{more}"
    message = EmailMessage()
    message["From"], message["To"] = sender, recipient
    message["Subject"] = "".join(char for char in subject if char.isprintable())[:200]
    message["Date"] = formatdate(now)
    message["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])
    message["Auto-Submitted"] = "auto-generated"
    message.set_content("\n\n".join(alert_text(alert) for alert in ordered) + "\n")
    return message.as_bytes(policy=message.policy.clone(linesep="\r\n"))
