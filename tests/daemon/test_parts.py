"""Optional parts: the failure of one is logged and retried, and stops nothing else."""

import asyncio

import pytest

from mtasts_daemon.config import Config
from mtasts_daemon.counters import Counters
from mtasts_daemon.daemon.parts import OptionalParts
from mtasts_daemon.diagnose.check.service import CheckService
from mtasts_daemon.diagnose.watch.watch import DomainWatch
from mtasts_daemon.errors import StoreError
from mtasts_daemon.notify.part import NotifyPart
from mtasts_daemon.public.check_part import PublicCheckPart
from mtasts_daemon.public.server import PublicServer
from mtasts_daemon.publish.own_check import OwnDomainCheck
from mtasts_daemon.publish.service import PublishService
from mtasts_daemon.tlsrpt.receive.service import ReceiveService
from tests.event_loop import until


class FakePart:
    def __init__(self, name: str, error: BaseException | None = None) -> None:
        self.name = name
        self.error = error
        self.calls: list[str] = []

    async def configure(self, _config: Config) -> None:
        self.calls.append("configure")
        if self.error is not None:
            raise self.error

    async def stop(self) -> None:
        self.calls.append("stop")
        if isinstance(self.error, ZeroDivisionError):
            raise self.error


@pytest.mark.parametrize(
    ("error", "reason", "unhandled"),
    [
        (OSError(98, "Address already in use"), "Address already in use", 0),
        (OSError("no number"), "no number", 0),
        (StoreError("disk full"), "disk full", 0),
        (ZeroDivisionError("a bug"), "internal error: ZeroDivisionError", 1),
        (asyncio.CancelledError(), "it was interrupted", 0),
    ],
)
async def test_part_that_fails_is_retried_and_the_others_run(error: BaseException, reason: str, unhandled: int) -> None:
    counters, config = Counters(), Config()
    parts = OptionalParts(counters)
    bad, good = FakePart("bad", error), FakePart("good")
    parts.add(bad)
    parts.add(good)
    await parts.configure(config)
    assert list(parts.failures) == ["bad"]
    assert reason in parts.failures["bad"]
    assert counters.unhandled == unhandled
    bad.error = None
    await parts.retry(config)
    assert parts.failures == {}
    await parts.retry(config)
    await parts.stop()
    assert bad.calls == ["configure", "configure", "stop"]
    assert good.calls == ["configure", "stop"]


class SlowPart(FakePart):
    """A part whose disk hangs until ``release`` is set."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.release = asyncio.Event()
        self.configs: list[Config] = []
        self.at_once = 0

    async def configure(self, config: Config) -> None:
        self.at_once += 1
        assert self.at_once == 1
        await self.release.wait()
        self.configs.append(config)
        self.at_once -= 1


def test_part_names_are_those_of_the_configuration() -> None:
    # The log and /readyz show them.
    parts = (ReceiveService, NotifyPart, CheckService, DomainWatch, PublicServer, PublicCheckPart, OwnDomainCheck)
    assert [part.name for part in (*parts, PublishService)] == [
        "tls-report-receiver",
        "notify",
        "check-service",
        "check",
        "public",
        "public-check",
        "publish-check",
        "publish",
    ]


async def test_part_that_hangs_holds_up_neither_the_others_nor_a_reload() -> None:
    parts = OptionalParts(Counters(), within=0.01)
    slow, good = SlowPart("slow"), FakePart("good")
    parts.add(slow)
    parts.add(good)
    old, new = Config(), Config()
    await parts.configure(old)
    assert good.calls == ["configure"]
    assert "still starting" in parts.failures["slow"]
    await asyncio.gather(parts.configure(new), parts.retry(new))
    slow.release.set()
    await until(lambda: slow.configs[-1:] == [new] and parts.failures == {})
    # The newest configuration comes last, and never two at once.
    assert slow.configs == [old, new]
    assert slow.configs[-1] is new
    await parts.stop()


async def test_part_that_hangs_does_not_hold_up_the_stop() -> None:
    parts = OptionalParts(Counters(), within=0.01)
    slow = SlowPart("slow")
    parts.add(slow)
    await parts.configure(Config())
    await parts.stop()
    assert slow.calls == ["stop"]
    assert slow.configs == []


async def test_stop_reaches_every_part_even_if_one_raises() -> None:
    counters = Counters()
    parts = OptionalParts(counters)
    first, last = FakePart("first"), FakePart("last", ZeroDivisionError())
    parts.add(first)
    parts.add(last)
    await parts.stop()
    assert (first.calls, last.calls, counters.unhandled) == (["stop"], ["stop"], 1)
