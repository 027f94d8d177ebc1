"""Whose silence it is: that of the resolvers is told, that of a domain's name servers is not."""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from mtasts_daemon import errors, log
from mtasts_daemon.dns.health import ResolverHealth
from mtasts_daemon.log import RepeatLimit

SILENT = errors.DnsTimeout("NS .")
UNREACHABLE = errors.DnsUnreachable("127.0.0.1:53: Connection refused")


@pytest.fixture(autouse=True)
def nothing_told_before(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(log, "_repeats", RepeatLimit())
    caplog.set_level(logging.INFO, "mtasts_daemon")


class World:
    """Resolvers that answer the looks as they are told to, one after another."""

    def __init__(self, *looks: errors.DnsError | None) -> None:
        self.looks = list(looks)
        self.pauses: list[float] = []
        self.clock = 0.0
        self.tasks: list[asyncio.Task[object]] = []
        self.watch = ResolverHealth(self.ask, lambda: ["192.0.2.1:53", "[2001:db8::1]:53"], self.spawn, self.sleep)

    async def ask(self) -> None:
        self.watch.suspect()  # as when this question has no answer either
        if (error := self.looks.pop(0)) is not None:
            raise error

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock += seconds

    def monotonic(self) -> float:
        return self.clock

    def spawn(self, coroutine: Coroutine[Any, Any, object], name: str) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(coroutine, name=name))


def suspected(world: World, times: int = 1) -> None:
    """Let questions have no answer, each after what the last one led to has ended."""

    async def live() -> None:
        for _ in range(times):
            world.watch.suspect()
            world.watch.suspect()
            await asyncio.gather(*world.tasks)

    asyncio.run(live())
    assert len(world.tasks) == times
    assert world.looks == []


def lines(caplog: pytest.LogCaptureFixture) -> Sequence[tuple[str, str, dict[str, Any]]]:
    return [(record.levelname, record.getMessage(), vars(record)["fields"]) for record in caplog.records]


@pytest.mark.parametrize("answer", [None, errors.DnsServerFailure("NS ."), errors.DnsRefused("NS .")])
def test_where_the_resolvers_answer_the_silence_was_that_of_a_domain_and_nothing_is_told(
    answer: errors.DnsError | None, caplog: pytest.LogCaptureFixture
) -> None:
    suspected(World(answer))
    assert lines(caplog) == []


def test_a_silence_is_told_once_with_the_resolvers_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    world = World(SILENT, UNREACHABLE, SILENT, None)
    suspected(world)
    ask = "192.0.2.1:53,[2001:db8::1]:53"
    assert lines(caplog) == [
        ("WARNING", "resolver-unreachable", {"ask": ask, "error": SILENT}),
        ("INFO", "resolver-recovered", {"ask": ask}),
    ]
    assert world.pauses == [5.0] * 3


def test_a_resolver_that_comes_and_goes_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    suspected(World(*(SILENT, None) * 10), 10)
    assert [event for _, event, _ in lines(caplog)] == ["resolver-unreachable", "resolver-recovered"]


def test_the_last_line_is_never_that_of_a_silence_that_has_ended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(*[SILENT] * 7, None, *[SILENT] * 9, None)
    monkeypatch.setattr(log, "time", world)
    suspected(world, 2)
    assert [event for _, event, _ in lines(caplog)] == ["resolver-unreachable", "resolver-recovered"] * 2


def test_a_look_that_fails_otherwise_does_not_end_the_watch(caplog: pytest.LogCaptureFixture) -> None:
    world = World()

    async def live() -> None:
        world.watch.suspect()
        with pytest.raises(IndexError):  # nothing to answer with; whoever owns the task tells of it
            await world.tasks[0]
        world.looks = [SILENT, None]
        world.watch.suspect()
        await world.tasks[1]

    asyncio.run(live())
    assert [event for _, event, _ in lines(caplog)] == ["resolver-unreachable", "resolver-recovered"]
