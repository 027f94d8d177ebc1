"""Tests of resolver health and DNSSEC validation."""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from mtasts_daemon import errors, log
from mtasts_daemon.config.values import ProbeQuery
from mtasts_daemon.dns import health
from mtasts_daemon.dns.health import DnssecMonitor, ResolverHealth, validates
from mtasts_daemon.log import RepeatLimit
from mtasts_daemon.policy.dns_answer import RRType
from tests.event_loop import idle
from tests.fakes.resolver import FakeResolver

SILENT = errors.DnsTimeout("NS .")
UNREACHABLE = errors.DnsUnreachable("127.0.0.1:53: Connection refused")
FAILING = errors.DnsServerFailure("NS .")
LISTED = "192.0.2.1:53,[2001:db8::1]:53"


@pytest.fixture(autouse=True)
def nothing_logged_before(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(log, "_repeats", RepeatLimit())
    caplog.set_level(logging.INFO, "mtasts_daemon")


class World:
    """Resolvers that give these answers to probes, one after another."""

    def __init__(self, *answers: errors.DnsError | None) -> None:
        self.answers = list(answers)
        self.pauses: list[float] = []
        self.down: list[str | None] = []
        self.tasks: list[asyncio.Task[object]] = []
        addresses = LISTED.split(",")
        self.repeat = asyncio.Event()
        """Set when the pause between two probes may end."""
        self.repeat.set()
        self.hangs = False
        self.answered: float | None = None
        """Seconds since the last answer; None if there was none."""
        self.health = ResolverHealth(
            self.ask, lambda: addresses, self.answered_within, self.down.append, self.spawn, self.sleep
        )

    def answered_within(self, seconds: float) -> bool:
        return self.answered is not None and self.answered < seconds

    async def ask(self) -> None:
        self.health.suspect()  # as if this question failed too
        if self.hangs:
            await asyncio.Event().wait()
        if (error := self.answers.pop(0)) is not None:
            raise error

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await self.repeat.wait()

    def spawn(self, coroutine: Coroutine[Any, Any, object], name: str) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(coroutine, name=name))


async def suspected(world: World, times: int = 1) -> None:
    """Suspect the resolvers twice, ``times`` times, each after the former probes have ended."""
    for _ in range(times):
        world.health.suspect()
        world.health.suspect()
        await asyncio.gather(*world.tasks)
    assert len(world.tasks) == times
    assert world.answers == []


def lines(caplog: pytest.LogCaptureFixture) -> Sequence[tuple[str, str, dict[str, Any]]]:
    return [(record.levelname, record.getMessage(), vars(record)["fields"]) for record in caplog.records]


async def test_resolvers_that_answer_the_probe_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    world = World(None)
    await suspected(world)
    assert lines(caplog) == []
    assert world.down == [None]


@pytest.mark.parametrize(
    ("failure", "event"),
    [
        (SILENT, "resolver-unreachable"),
        (UNREACHABLE, "resolver-unreachable"),
        (FAILING, "resolver-failing"),
        (errors.DnsRefused("NS ."), "resolver-failing"),
    ],
)
async def test_begin_and_end_of_an_outage_are_logged_once(
    failure: errors.DnsError, event: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(failure, failure, failure, None)
    await suspected(world)
    assert lines(caplog) == [
        ("WARNING", event, {"resolvers": LISTED, "error": failure}),
        ("INFO", "resolver-recovered", {"resolvers": LISTED}),
    ]
    assert world.pauses == [1.0] * 3
    assert world.health.failure is None


async def test_questions_fail_at_once_while_the_resolvers_are_silent() -> None:
    world = World(SILENT, UNREACHABLE, None)
    await suspected(world)
    assert world.down == [f"no resolver answers ({LISTED})"] * 2 + [None]


async def test_questions_are_still_asked_while_the_resolvers_return_errors() -> None:
    world = World(FAILING, FAILING, None)
    await suspected(world)
    assert world.down == [None]


async def test_resolver_that_comes_and_goes_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    await suspected(World(*(SILENT, None) * 10), 10)
    assert [event for _, event, _ in lines(caplog)] == ["resolver-unreachable", "resolver-recovered"]


async def test_failed_probe_task_does_not_prevent_the_next(caplog: pytest.LogCaptureFixture) -> None:
    world = World()

    world.health.suspect()
    with pytest.raises(IndexError):  # there is no answer to give; the owner of the task logs it
        await world.tasks[0]
    world.answers = [SILENT, None]
    world.health.suspect()
    await world.tasks[1]
    assert [event for _, event, _ in lines(caplog)] == ["resolver-unreachable", "resolver-recovered"]


async def test_check_asks_only_if_the_last_answer_is_older_than_ten_seconds() -> None:
    world = World(None, None)
    assert await world.health.check() is None
    assert len(world.tasks) == 1
    world.answered = 9.9
    assert await world.health.check() is None
    assert len(world.tasks) == 1
    world.answered = 10.0
    assert await world.health.check() is None
    assert len(world.tasks) == 2


async def test_first_check_in_an_outage_fails_and_concurrent_ones_share_its_probe() -> None:
    world = World(SILENT, SILENT)
    world.answered = 11.0
    world.repeat.clear()
    first, second = (asyncio.create_task(world.health.check()) for _ in range(2))
    assert await first is SILENT
    assert await second is SILENT
    # The probes go on until the end of the outage.
    assert await world.health.check() is SILENT
    assert len(world.tasks) == 1
    world.answers = [None]
    world.repeat.set()
    await world.tasks[0]
    world.answered = 0.0
    assert await world.health.check() is None


async def test_cancelled_check_does_not_cancel_that_of_others() -> None:
    world = World(None)
    first, second = (asyncio.create_task(world.health.check()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is None


async def test_check_without_an_answer_of_the_probe_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_CHECK_TIMEOUT", 0.01)
    world = World()
    world.hangs = True
    assert isinstance(await world.health.check(), errors.DnsTimeout)
    world.tasks[0].cancel()


# -- DNSSEC ------------------------------------------------------------------------------------------------

ROOT = ProbeQuery("NS", "")
BOGUS = ProbeQuery("A", "bogus.example")


async def probed(answers: dict[str, str | errors.DnsError], bogus: str | errors.DnsError | None = None) -> bool | None:
    """Return the verdict on a resolver with these answers by name; names not given have no answer."""
    resolver = FakeResolver()
    for name in ("", "com", "net", "org"):
        answer = answers.get(name, errors.DnsTimeout())
        if isinstance(answer, errors.DnsError):
            resolver.fail(name, RRType.NS, answer)
        else:
            resolver.put(name, RRType.NS, ["ns.example"], authenticated=answer == "ad")
    if isinstance(bogus, errors.DnsError):
        resolver.fail("bogus.example", RRType.A, bogus)
    return await validates(resolver, ROOT, None if bogus is None else BOGUS)


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        ({"": "ad"}, True),
        ({"": "no ad"}, False),
        ({}, None),
        ({"": "no ad", "org": "ad"}, True),
        ({"": errors.DnsServerFailure(), "com": "ad"}, True),
        ({"": errors.DnsServerFailure(), "com": "no ad"}, False),
        ({"": "no ad", "com": "no ad", "net": "no ad", "org": "no ad"}, False),
    ],
)
async def test_one_authenticated_answer_proves_validation(
    answers: dict[str, str | errors.DnsError], verdict: bool | None
) -> None:
    assert await probed(answers) is verdict


@pytest.mark.parametrize(
    ("bogus", "verdict"),
    [(errors.DnsServerFailure(), True), (errors.DnsTimeout(), None), ("answered", False)],
)
async def test_bogus_name_must_fail(bogus: str | errors.DnsError, verdict: bool | None) -> None:
    assert await probed({"": "ad"}, bogus) is verdict
    assert await probed({"": "no ad"}, bogus) is False


async def test_only_changes_of_validation_are_reported() -> None:
    found: list[bool | None] = [None, True, True, None, False, True]
    changes: list[bool] = []
    pauses: list[float] = []

    async def check() -> bool | None:
        if not found:
            raise asyncio.CancelledError
        return found.pop(0)

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    with pytest.raises(asyncio.CancelledError):
        await DnssecMonitor(check, changes.append, pause).run()
    assert changes == [True, False, True]
    assert pauses == [60.0, 3600.0, 3600.0, 60.0, 60.0, 3600.0]


async def test_last_of_several_checks_under_way_counts() -> None:
    answers: list[asyncio.Future[bool | None]] = []
    changes: list[bool] = []

    def check() -> "asyncio.Future[bool | None]":
        answers.append(asyncio.get_running_loop().create_future())
        return answers[-1]

    monitor = DnssecMonitor(check, changes.append, asyncio.sleep)
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(monitor.check())
            await idle()
        answers[1].set_result(False)
        await idle()
        answers[0].set_result(True)
    assert changes == [False]
