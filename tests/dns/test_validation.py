"""Whether the resolver validates: the probe, and that its state outlives a silence."""

import asyncio

import pytest

from mtasts_daemon import errors
from mtasts_daemon.config.values import ProbeQuery
from mtasts_daemon.dns.validation import DnssecMonitor, validates
from mtasts_daemon.policy.dns_answer import RRType
from tests.fakes.resolver import FakeResolver

ROOT = ProbeQuery("NS", "")
BOGUS = ProbeQuery("A", "bogus.example")


@pytest.mark.parametrize(
    ("signed", "bogus", "verdict"),
    [
        ("ad", None, True),
        ("no ad", None, False),
        (errors.DnsTimeout(), None, None),
        ("ad", errors.DnsServerFailure(), True),
        ("ad", errors.DnsTimeout(), None),
        ("ad", "answered", False),
        ("no ad", errors.DnsServerFailure(), False),
    ],
)
def test_the_probe(signed: str | errors.DnsError, bogus: str | errors.DnsError | None, verdict: bool | None) -> None:
    async def ask() -> bool | None:
        resolver = FakeResolver()
        if isinstance(signed, errors.DnsError):
            resolver.fail("", RRType.NS, signed)
        else:
            resolver.put("", RRType.NS, ["a.root-servers.net"], authenticated=signed == "ad")
        if isinstance(bogus, errors.DnsError):
            resolver.fail("bogus.example", RRType.A, bogus)
        return await validates(resolver, ROOT, None if bogus is None else BOGUS)

    assert asyncio.run(ask()) is verdict


def test_only_changes_are_told_no_answer_keeps_the_state_and_all_but_validation_is_asked_again_soon() -> None:
    looks: list[bool | None] = [None, True, True, None, False, True]
    changes: list[bool] = []
    pauses: list[float] = []

    async def look() -> bool | None:
        if not looks:
            raise asyncio.CancelledError
        return looks.pop(0)

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    async def watch() -> None:
        await DnssecMonitor(look, changes.append, pause).run()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(watch())
    assert changes == [True, False, True]
    assert pauses == [60.0, 3600.0, 3600.0, 60.0, 60.0, 3600.0]


def test_of_two_looks_under_way_the_later_counts_whichever_ends_last() -> None:
    async def watch() -> list[bool]:
        answers: list[asyncio.Future[bool | None]] = []
        changes: list[bool] = []

        def look() -> asyncio.Future[bool | None]:
            answers.append(asyncio.get_running_loop().create_future())
            return answers[-1]

        watch = DnssecMonitor(look, changes.append, asyncio.sleep)
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(watch.look())
                await asyncio.sleep(0)
            answers[1].set_result(False)
            await asyncio.sleep(0)
            answers[0].set_result(True)
        return changes

    assert asyncio.run(watch()) == [False]
