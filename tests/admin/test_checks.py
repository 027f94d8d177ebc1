"""Checks of the running daemon."""

import asyncio
from pathlib import Path

from mtasts_daemon.admin.checks import CachedProbe, authorities_check, count_authorities, resolver_check
from tests.fakes.ca import Ca
from tests.fakes.clock import FakeClock


class Resolver:
    """A resolver that answers, or hangs until it is released."""

    def __init__(self) -> None:
        self.asked = 0
        self.called = asyncio.Event()
        self.answer: bool | None = True
        self.released = asyncio.Event()
        self.released.set()

    async def __call__(self) -> bool | None:
        self.asked += 1
        self.called.set()
        await self.released.wait()
        return self.answer


async def test_probe_is_used_for_ten_seconds_and_then_repeated() -> None:
    clock, resolver = FakeClock(), Resolver()
    probe = CachedProbe(resolver, clock)
    assert await probe.result() is True
    resolver.answer = None
    clock.advance(9)
    assert await probe.result() is True
    clock.advance(2)
    # The first status in an outage does not report the earlier success.
    assert await probe.result() is None
    assert resolver.asked == 2


async def test_concurrent_callers_share_one_probe_and_its_cancellation_is_theirs_alone() -> None:
    resolver = Resolver()
    resolver.released.clear()
    probe = CachedProbe(resolver, FakeClock())
    first, second = (asyncio.create_task(probe.result()) for _ in range(2))
    await resolver.called.wait()
    first.cancel()
    resolver.released.set()
    assert await second is True
    assert resolver.asked == 1


def test_resolver_without_an_answer_fails_the_check() -> None:
    assert [resolver_check(found).ok for found in (True, False, None)] == [True, True, False]


def test_missing_ca_certificates_fail_the_check(tmp_path: Path, ca: Ca) -> None:
    assert count_authorities(ca.pem) == (1, str(ca.pem))
    assert authorities_check(ca.pem) is None
    found = authorities_check(tmp_path / "missing.pem")
    assert found is not None and not found.ok
    assert "No such file" in found.detail and "https.ca_file" in found.detail
