"""The state file, which could not be used at the start, can be used again."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mtasts_daemon.errors import StoreError
from mtasts_daemon.policy.mtasts import Mode
from mtasts_daemon.publish import registry
from mtasts_daemon.publish.database import PublishDatabase
from mtasts_daemon.publish.file_return import joined, joined_states
from mtasts_daemon.publish.policy_text import make_policy
from mtasts_daemon.publish.removal import removal_policy
from mtasts_daemon.publish.state import DomainState, PublishPhase

from .world import DAY, PublishWorld, publishing

ENFORCE = {"mode": "enforce", "mx": ["mx.example.com"]}
TESTING = {"mode": "testing", "mx": ["mx.example.com"]}
NOW, SERVED = 1_000_000.0, 900_000.0

STRICT = make_policy(Mode.ENFORCE, ["mx.example.com"], 30 * 86400).text
SOFT = make_policy(Mode.TESTING, ["mx.example.com"], 86400).text
NONE = removal_policy().text
P = PublishPhase


@pytest.mark.parametrize(
    ("stored", "memory", "text", "phase", "held"),
    [
        # Only the file knows a policy.
        ((STRICT, P.DIRECT, 0.0), (None, P.DIRECT, 0.0), STRICT, P.DIRECT, 0.0),
        # The policy being served stays, and senders may hold that of the file.
        ((STRICT, P.COMPLETE, 0.0), (SOFT, P.TESTING, 0.0), SOFT, P.COMPLETE, SERVED + 30 * DAY),
        ((SOFT, P.TESTING, 0.0), (STRICT, P.DIRECT, SERVED + 60 * DAY), STRICT, P.TESTING, SERVED + 60 * DAY),
        # A removal continues.
        ((NONE, P.REMOVING, SERVED + 9.0), (None, P.DIRECT, 0.0), NONE, P.REMOVING, SERVED + 9.0),
        ((NONE, P.REMOVING, SERVED + 9.0), (STRICT, P.DIRECT, 0.0), NONE, P.REMOVING, SERVED + 30 * DAY),
        ((None, P.REMOVED, 0.0), (STRICT, P.DIRECT, 0.0), NONE, P.REMOVING, SERVED + 30 * DAY),
        ((None, P.REMOVED, 0.0), (None, P.DIRECT, 0.0), None, P.REMOVED, 0.0),
        ((STRICT, P.COMPLETE, 0.0), (None, P.REMOVED, 0.0), NONE, P.REMOVING, SERVED + 30 * DAY),
        ((STRICT, P.COMPLETE, 0.0), (NONE, P.REMOVING, SERVED + 9.0), NONE, P.REMOVING, SERVED + 30 * DAY),
    ],
)
def test_joined_state_serves_no_less_and_waits_for_both(
    stored: tuple[bytes | None, PublishPhase, float],
    memory: tuple[bytes | None, PublishPhase, float],
    text: bytes | None,
    phase: PublishPhase,
    held: float,
) -> None:
    one, other = (
        DomainState("example.com", text=text, phase=phase, held_until=held) for text, phase, held in (stored, memory)
    )
    found = joined(one, other, NOW, SERVED)
    assert (found.text, found.phase, found.held_until) == (text, phase, held)


@contextmanager
def file_away(folder: Path) -> Iterator[None]:
    """Put a folder at the place of the file."""
    file, aside = folder / "publish.sqlite", folder / "aside.sqlite"
    if file.exists():
        file.rename(aside)
    file.mkdir()
    try:
        yield
    finally:
        file.rmdir()
        if aside.exists():
            aside.rename(file)


async def recovered(world: PublishWorld) -> bool:
    known = world.service.registry
    assert known is not None
    return await known.recover()


async def problems(world: PublishWorld) -> list[str]:
    found: list[str] = (await world.operations.overview())["problems"]
    return found


async def test_states_are_written_again_after_a_failure_and_a_write_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = PublishDatabase.put

    async def put_one(database: PublishDatabase, states: Sequence[DomainState], *more: Any, **others: Any) -> None:
        if len(states) > 1:
            raise StoreError("the disk is full")
        await put(database, states, *more, **others)

    async with publishing(tmp_path) as world:
        with file_away(tmp_path):
            await world.configure({"new.example": TESTING, "example.com": TESTING})
        with monkeypatch.context() as full:
            full.setattr(PublishDatabase, "put", put_one)
            assert await recovered(world)
            assert "full" in str(await problems(world))
            await world.operations.remove("new.example")
        assert not await recovered(world)
        assert await problems(world) == []
    async with publishing(tmp_path) as world:
        await world.configure({"other.example": TESTING})
        assert "mode: testing" in world.text()


async def test_file_that_can_be_used_again_is_used_without_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    domains = dict.fromkeys(("example.com", "removed.example", "gone.example"), ENFORCE)
    async with publishing(tmp_path) as world:
        for name in domains:
            world.mx(name, "mx.example.com")
        await world.configure(domains)
        for name in domains:
            await world.visit(name)
        await world.operations.remove("removed.example")
        live = world.text()
        assert "mode: enforce" in live
    async with publishing(tmp_path) as world:
        with file_away(tmp_path):
            await world.configure(
                {name: domains[name] for name in ("example.com", "removed.example")} | {"new.example": TESTING}
            )
            assert (world.text(), world.text("gone.example")) == ("", "")
            assert "mode: testing" in world.text("new.example")
            assert not await recovered(world)
            assert await problems(world)
        world.clock.advance(DAY)
        assert await recovered(world)
        assert not await recovered(world)
        assert await problems(world) == []
        assert (world.text(), world.text("gone.example")) == (live, live)
        assert "mode: none" in world.text("removed.example")
        assert "mode: testing" in world.text("new.example")
        events = [record.getMessage() for record in caplog.records]
        assert (events.count("publish-in-memory"), events.count("publish-database-restored")) == (1, 1)
        # The time without the file does not end a removal.
        found = await world.operations.remove("removed.example")
        assert found["removal"] == {"step": "wait", "until": world.clock.wall() + 30 * DAY}
    async with publishing(tmp_path) as world:  # all of it is in the file
        await world.configure({})
        assert "mode: testing" in world.text("new.example")
        assert (world.text(), world.text("gone.example")) == (live, live)


async def test_file_that_was_never_there_gets_the_states_of_memory(tmp_path: Path) -> None:
    async with publishing(tmp_path) as world:
        with file_away(tmp_path):
            world.mx("example.com", "mx.example.com")
            await world.configure({"example.com": ENFORCE})
            await world.visit()
            live = world.text()
            assert "mode: enforce" in live
        assert await recovered(world)
        assert world.text() == live
    async with publishing(tmp_path) as world:
        await world.configure({})
        assert world.text() == live


async def test_policy_published_while_states_are_joined_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with publishing(tmp_path) as world:
        world.mx("example.com", "mx.example.com")
        await world.configure({"example.com": ENFORCE})
        await world.visit()
        assert "mode: enforce" in world.text()
    begun, released = threading.Event(), threading.Event()

    def held_back(*arguments: Any) -> dict[str, DomainState]:
        begun.set()
        released.wait(10)
        return joined_states(*arguments)

    monkeypatch.setattr(registry, "joined_states", held_back)
    async with publishing(tmp_path) as world:
        with file_away(tmp_path):
            await world.configure({"example.com": TESTING})
        joining = asyncio.create_task(recovered(world))
        assert await asyncio.to_thread(begun.wait, 10)
        both = {"mode": "testing", "mx": ["mx.example.com", "new.example.com"]}
        await world.configure({"example.com": both, "new.example": TESTING})
        live = world.text()
        assert "new.example.com" in live
        released.set()
        assert await joining
        assert world.text() == live
        assert await problems(world) == []
        # Senders may hold the policy of the file.
        await world.operations.remove("example.com")
        found = await world.operations.remove("example.com")
        assert found["removal"] == {"step": "wait", "until": world.clock.wall() + 30 * DAY}
    async with publishing(tmp_path) as world:  # both are in the file
        await world.configure({})
        assert "mode: none" in world.text()
        assert "mode: testing" in world.text("new.example")
