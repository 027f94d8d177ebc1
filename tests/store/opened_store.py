"""Open a SQLite store for a test."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

from mtasts_daemon.errors import StoreError
from mtasts_daemon.store.policy_store import SqliteStore, StoreLimits, open_store, open_store_read_only
from tests.fakes.store import NOW, policy_entry

ENTRY = policy_entry("example.com")


@asynccontextmanager
async def opened(
    path: Path | str,
    *,
    limits: StoreLimits | None = None,
    reported: list[StoreError] | None = None,
    lock_seconds: float = 6.0,
    in_memory: bool = False,
) -> AsyncIterator[SqliteStore]:
    """Open the store and close it."""
    report = ([] if reported is None else reported).append
    store = await open_store(
        path, now=NOW, limits=limits or StoreLimits(), report=report, lock_seconds=lock_seconds, in_memory=in_memory
    )
    try:
        yield store
    finally:
        await store.close()


async def run(
    path: Path | str,
    body: Callable[[SqliteStore], Coroutine[None, None, None]],
    *,
    reported: list[StoreError] | None = None,
) -> Sequence[StoreError]:
    """Open the store, run the body and close it. Return the problems found at opening."""
    async with opened(path, reported=reported) as store:
        await body(store)
    return store.problems


async def nothing(store: SqliteStore) -> None:
    pass


async def put_example(store: SqliteStore) -> None:
    await store.put(ENTRY, NOW)


async def expect_example(store: SqliteStore) -> None:
    assert await store.get(ENTRY.domain) == ENTRY


def by_hand(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


@asynccontextmanager
async def opened_read_only(path: Path) -> AsyncIterator[SqliteStore]:
    store = await open_store_read_only(path)
    try:
        yield store
    finally:
        await store.close()
