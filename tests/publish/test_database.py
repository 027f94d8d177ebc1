"""The database of published domains."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mtasts_daemon.errors import StoreError
from mtasts_daemon.policy.mtasts import Mode
from mtasts_daemon.publish.database import PublishDatabase, PublishEvent
from mtasts_daemon.publish.policy_text import make_policy
from mtasts_daemon.publish.state import DomainState, PublishPhase

NOW = 1_800_000_000.0
POLICY = make_policy(Mode.ENFORCE, ["mx.example.com"], 86400)
FULL = DomainState(
    "example.com",
    POLICY.text,
    NOW,
    NOW + 5,
    PublishPhase.ENFORCE_DAY,
    NOW - 5,
    ("mx.example.com",),
    POLICY.id,
    'because "they" said so \u2028',
    POLICY.id,
)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[tuple[PublishDatabase, list[DomainState]]]:
    database = PublishDatabase(path)
    try:
        yield database, await database.open(NOW)
    finally:
        await database.close()


async def test_states_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "publish.sqlite"
    async with opened(path) as (database, states):
        assert states == []
        await database.put(
            [FULL, DomainState("b.example")], [PublishEvent("example.com", NOW, "published", "x")], served=NOW
        )
    async with opened(path) as (database, states):
        assert {state.domain: state for state in states} == {"example.com": FULL, "b.example": DomainState("b.example")}
        assert await database.history("example.com") == [PublishEvent("example.com", NOW, "published", "x")]
        assert await database.history("b.example") == []
    assert path.stat().st_mode & 0o777 == 0o600


async def test_history_is_newest_first_and_forgets_after_400_days(tmp_path: Path) -> None:
    async with opened(tmp_path / "publish.sqlite") as (database, _):
        for day in (0, 1, 401):
            await database.put([], [PublishEvent("example.com", NOW + day * 86400, f"day-{day}")], served=NOW)
        assert [event.event for event in await database.history("example.com")] == ["day-401", "day-1"]


async def test_damaged_rows_cost_their_own_domains_only(tmp_path: Path) -> None:
    path = tmp_path / "publish.sqlite"
    async with opened(path) as (database, _):
        await database.put([FULL, *(DomainState(f"d{number}.example") for number in range(4))], served=NOW)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE domain SET phase = 'nonsense' WHERE domain = 'd0.example'")
        connection.execute("UPDATE domain SET text = x'00ff' WHERE domain = 'd1.example'")
        connection.execute("UPDATE domain SET mx_hosts = '[' WHERE domain = 'd2.example'")
        connection.execute("UPDATE domain SET live_since = 'soon' WHERE domain = 'd3.example'")
    connection.close()
    async with opened(path) as (database, states):
        assert states == [FULL]
        assert "4 domains cannot be read" in str(database.problems[0])


async def test_damaged_file_is_set_aside_and_a_new_one_begun(tmp_path: Path) -> None:
    path = tmp_path / "publish.sqlite"
    path.write_bytes(b"this is no database at all, but long enough to look like something" * 99)
    async with opened(path) as (database, states):
        assert states == []
        assert "set aside as" in str(database.problems[0])
        await database.put([FULL], served=NOW)


async def test_foreign_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "publish.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()
    database = PublishDatabase(path)
    with pytest.raises(StoreError, match="another program"):
        await database.open(NOW)
    with pytest.raises(StoreError):
        await database.put([FULL], served=NOW)
    await database.close()
    with pytest.raises(StoreError):
        await database.put([FULL], served=NOW)


async def test_lost_file_is_written_again_from_memory(tmp_path: Path) -> None:
    path = tmp_path / "publish.sqlite"
    async with opened(path) as (database, _):
        await database.put([FULL], served=NOW)
        assert not await database.recover(NOW)
        path.unlink()
        assert await database.recover(NOW)
        await database.put([FULL], served=NOW)
        assert not await database.recover(NOW)
    async with opened(path) as (_, states):
        assert states == [FULL]
