"""A certificate that expires while its domain is watched: real checks, history and webhook, servers on loopback."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

import pytest

from mtasts_daemon.config import Config
from mtasts_daemon.diagnose.check.evidence import CheckEvidence
from mtasts_daemon.diagnose.watch.watch import DomainWatch
from mtasts_daemon.notify.delivery import channels_for
from mtasts_daemon.notify.service import NotifyService
from tests.diagnose.worlds import body
from tests.event_loop import until
from tests.fakes.ca import Ca
from tests.fakes.check_world import DOMAIN, HOST, CheckWorld
from tests.fakes.clock import FakeClock
from tests.fakes.https import Behaviour
from tests.fakes.probed_smtp import MxBehaviour
from tests.fakes.webhook import Webhook


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    found = Webhook()
    yield found
    found.close()


class WatchedWorld:
    """A watched domain, and the times at which its two certificates expire. An async context manager.

    The clock of the watch moves by the sleeps of the watch only.
    """

    def __init__(self, ca: Ca, folder: Path, webhook: Webhook, mx: datetime, policy: datetime) -> None:
        folder.mkdir()
        webhook.received.clear()
        self.clock = FakeClock(time.time())
        policy_host = Behaviour(body=body("enforce"), expires=policy)
        self.world = CheckWorld(ca, MxBehaviour(HOST, expires=mx), policy=policy_host)
        self.world.monotonic = self.clock.monotonic
        self.webhook = webhook
        settings = {
            "check": {"domains": [DOMAIN], "database": str(folder / "check.sqlite")},
            "notify": {"webhook": webhook.url},
        }
        self.config = Config.model_validate(settings)
        self.notify = NotifyService(self.clock, lambda _seconds: asyncio.sleep(0), channels_for(self.config, {}))
        self.watch = DomainWatch(self._gather, self.notify, self.clock, {}, Random(1), self._sleep)
        self.checks = 0
        self._wanted = 0
        self._more, self._asleep = asyncio.Event(), asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.world.__aenter__()
        self._notifying = asyncio.create_task(self.notify.run())
        await self.watch.configure(self.config)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.watch.stop()
        self._notifying.cancel()
        await asyncio.gather(self._notifying, return_exceptions=True)
        await self.world.__aexit__(kind, error, trace)

    def renew(self, expires: datetime) -> None:
        """Replace both certificates."""
        self.world.smtp.behaviours["127.0.0.1"] = MxBehaviour(HOST, expires=expires)
        self.world.https.behaviours[DOMAIN] = Behaviour(body=body("enforce"), expires=expires)

    async def _gather(self, _domain: str) -> CheckEvidence:
        self.checks += 1
        return await self.world.evidence()

    async def _sleep(self, seconds: float) -> None:
        if self.checks >= self._wanted:
            self._more.clear()
            self._asleep.set()
            await self._more.wait()
        self.clock.advance(seconds)

    async def check(self) -> set[str]:
        """Let the time pass until the next check has ended; return the problems that it found."""
        self._wanted = self.checks + 1
        self._asleep.clear()
        self._more.set()
        await self._asleep.wait()
        result = self.watch.states[DOMAIN].result
        assert result is not None
        return {finding.slug for finding in result.problems}

    async def alerts(self, count: int) -> list[tuple[str, str, bool]]:
        """Wait until the webhook has ``count`` alerts; return severity, slug and whether it is over, of each."""
        await until(lambda: len(self._received()) >= count)
        return self._received()

    def _received(self) -> list[tuple[str, str, bool]]:
        sent = [alert for _, body in self.webhook.received for alert in body["alerts"]]
        return [(alert["severity"], alert["slug"], alert["resolved"]) for alert in sent]


@pytest.mark.parametrize(
    ("expiring", "warning", "error"),
    [
        ("mx", "certificate-expires", "certificate-expired"),
        ("policy", "policy-host-certificate-expires", "webpki-expired"),
    ],
)
async def test_certificate_that_expires_gives_warning_then_error_then_all_clear(
    ca: Ca, tmp_path: Path, webhook: Webhook, expiring: str, warning: str, error: str
) -> None:
    renewed = datetime.now(UTC) + timedelta(days=90)
    # The certificate must live for two checks. If this machine is too slow for that, the next one lives longer.
    for lifetime in (2, 10, 60):
        expires = int(time.time()) + lifetime
        dates = {"mx": renewed, "policy": renewed, expiring: datetime.fromtimestamp(expires, UTC)}
        async with WatchedWorld(ca, tmp_path / str(lifetime), webhook, **dates) as watched:
            found = [await watched.check(), await watched.check()]
            if time.time() >= expires:
                continue
            assert found == [{warning}, {warning}]
            sent = [("warning", warning, False)]
            assert await watched.alerts(1) == sent
            await until(lambda: time.time() > expires + 1)  # noqa: B023
            # Confirmed by a second check, and only then is the warning over.
            assert [await watched.check(), await watched.check()] == [{error}, {error}]
            sent += [("error", error, False), ("warning", warning, True)]
            assert await watched.alerts(3) == sent
            watched.renew(renewed)
            assert await watched.check() == set()
            assert await watched.alerts(4) == [*sent, ("error", error, True)]
            return
    pytest.fail("two checks took more than a minute")
