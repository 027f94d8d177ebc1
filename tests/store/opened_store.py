"""Opening a SQLite store for a test, and what is done with it over and over."""

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine, Sequence
from contextlib import closing
from pathlib import Path

from mtasts_daemon.errors import StoreError
from mtasts_daemon.store.policy_store import SqliteStore, StoreLimits, open_store, open_store_read_only
from tests.fakes.store import NOW, policy_entry

ENTRY = policy_entry("example.com")


def run(
    path: Path | str,
    body: Callable[[SqliteStore], Coroutine[None, None, None]],
    *,
    limits: StoreLimits | None = None,
    reported: list[StoreError] | None = None,
) -> Sequence[StoreError]:
    """Open the store, run the body, close it; what opening came across."""

    async def main() -> Sequence[StoreError]:
        told: list[StoreError] = [] if reported is None else reported
        store = await open_store(path, now=NOW, limits=limits or StoreLimits(), report=told.append)
        try:
            await body(store)
        finally:
            await store.close()
        return store.problems

    return asyncio.run(main())


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


async def run_read_only(path: Path, body: Callable[[SqliteStore], Coroutine[None, None, None]]) -> None:
    store = await open_store_read_only(path)
    try:
        await body(store)
    finally:
        await store.close()
