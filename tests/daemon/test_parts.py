"""Optional parts: the failure of one is logged and retried, and stops nothing else."""

import pytest

from mtasts_daemon.config import Config
from mtasts_daemon.counters import Counters
from mtasts_daemon.daemon.parts import OptionalParts
from mtasts_daemon.errors import StoreError


class FakePart:
    def __init__(self, name: str, error: Exception | None = None) -> None:
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
    ],
)
async def test_part_that_fails_is_retried_and_the_others_run(error: Exception, reason: str, unhandled: int) -> None:
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


async def test_stop_reaches_every_part_even_if_one_raises() -> None:
    counters = Counters()
    parts = OptionalParts(counters)
    first, last = FakePart("first"), FakePart("last", ZeroDivisionError())
    parts.add(first)
    parts.add(last)
    await parts.stop()
    assert (first.calls, last.calls, counters.unhandled) == (["stop"], ["stop"], 1)
