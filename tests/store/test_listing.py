"""Lists of entries, compared with filtering and sorting all entries in Python."""

import contextlib
import json
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mtasts_daemon.policy.cache_entry import CacheEntry, FetchFailure, HeldPolicy
from mtasts_daemon.policy.mtasts import parse_policy
from mtasts_daemon.store.listing import SORTS, Query, overview, page
from mtasts_daemon.store.policy_store import MEMORY, SqliteStore
from tests.fakes.store import DAY, NOW, policy_entry
from tests.store.opened_store import opened

MODES = ("enforce", "testing", "none")


def entries() -> list[CacheEntry]:
    """Sixty that differ in everything that lists look at, with many ties."""
    made = []
    for number in range(60):
        mode = MODES[number % 3]
        body = f"version: STSv1\nmode: {mode}\nmx: mx.example.com\nmax_age: 864000\n".encode()
        held = HeldPolicy("1", body, parse_policy(body), NOW - number % 5 * DAY, NOW + (number % 7 - 2) * DAY / 2)
        failure = FetchFailure("1", NOW, NOW + 300, number % 4, "policy-timeout", "x") if number % 4 else None
        entry = replace(policy_entry(f"d{number * 37 % 60:02}.example"), held=held, failure=failure)
        made.append(replace(entry, first_used=NOW - 40 * DAY, last_used=NOW - number % 6 * 10 * DAY))
    return made


@asynccontextmanager
async def filled(path: str) -> AsyncIterator[SqliteStore]:
    """Open a store that holds ``entries``."""
    async with opened(path) as store:
        for number, entry in enumerate(entries()):
            await store.put(entry, None if number % 5 == 0 else NOW + (number % 3 - 1) * 3600)
        yield store


@pytest.fixture(params=["file", "memory"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store.db") if request.param == "file" else MEMORY


async def listed(store: SqliteStore, query: Query) -> list[str]:
    """All pages."""
    found: list[str] = []
    while True:
        shown = await store.browse(page(query))
        assert len(shown.entries) <= query.limit
        found += [json.loads(entry)["domain"] for entry in shown.entries]
        if shown.after is None:
            return found
        query = replace(query, after=shown.after)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("sort", SORTS)
async def test_pages_in_any_order_have_each_entry_once(path: str, sort: str, descending: bool) -> None:
    async with filled(path) as store:
        whole = await listed(store, Query(sort=sort, descending=descending, limit=500))
        assert sorted(whole) == sorted(entry.domain for entry in entries())
        for limit in (1, 7, 60):
            assert await listed(store, Query(sort=sort, descending=descending, limit=limit)) == whole


async def test_order_is_that_of_the_values(path: str) -> None:
    async with filled(path) as store:
        used = {entry.domain: entry.last_used for entry in entries()}
        found = await listed(store, Query(sort="used", limit=9))
        assert found == sorted(found, key=lambda domain: (used[domain], domain))


FILTERS: list[tuple[Query, Callable[[CacheEntry], bool]]] = [
    (Query(mode="testing"), lambda e: e.held is not None and e.held.policy.mode.value == "testing"),
    (Query(text="7."), lambda e: "7." in e.domain),
    (Query(text="%"), lambda e: False),
    (Query(failing=True), lambda e: e.failure is not None),
    (Query(expires_before=NOW + DAY), lambda e: e.held is not None and e.held.valid_until < NOW + DAY),
    (Query(live_at=NOW), lambda e: e.live(NOW) is not None),
    (Query(mode="enforce", failing=True, text="1"), lambda e: _enforced(e) and bool(e.failure) and "1" in e.domain),
]


def _enforced(entry: CacheEntry) -> bool:
    return entry.held is not None and entry.held.policy.mode.value == "enforce"


@pytest.mark.parametrize(("query", "wanted"), FILTERS)
async def test_filter_selects_matching_entries(path: str, query: Query, wanted: Callable[[CacheEntry], bool]) -> None:
    async with filled(path) as store:
        expected = sorted(entry.domain for entry in entries() if wanted(entry))
        assert await listed(store, replace(query, limit=4)) == expected
        first = await store.browse(page(replace(query, limit=1)))
        assert first.total == len(expected)
        if first.after is not None:
            assert (await store.browse(page(replace(query, after=first.after)))).total is None


async def test_overview_counts_valid_entries(path: str) -> None:
    async with filled(path) as store:
        found = await store.browse(overview(NOW, NOW - 30 * DAY))
        live = [entry for entry in entries() if entry.live(NOW)]
        soon = [e for e in live if e.held is not None and e.held.valid_until < NOW + DAY]
        assert sum(found.modes.values()) == len(live)
        assert found.failing == sum(1 for entry in live if entry.failure)
        assert found.expiring == len(soon)
        assert found.enforce_at_risk == sum(1 for entry in soon if _enforced(entry) and entry.failure)
        assert found.due == len(await store.due(NOW, NOW - 30 * DAY, 1000))
        assert found.due_since == NOW - 3600


class Explained:
    """A connection that gives the plan of what is asked."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.steps: list[str] = []

    def execute(self, statement: str, values: object = ()) -> sqlite3.Cursor:
        found = self._connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)  # type: ignore[arg-type]
        self.steps += [row[3] for row in found]
        return self._connection.execute(statement, values)  # type: ignore[arg-type]


@pytest.mark.parametrize("sort", SORTS)
async def test_list_reads_one_index_and_only_the_rows_it_shows(tmp_path: Path, sort: str) -> None:
    def plan(connection: sqlite3.Connection) -> list[str]:
        explained = Explained(connection)
        page(Query(sort=sort, text="1"))(explained)  # type: ignore[arg-type]  # all that is used of a connection
        return explained.steps

    async with filled(str(tmp_path / "store.db")) as store:
        steps = await store.browse(plan)
        assert any("USING COVERING INDEX entry_list" in step for step in steps)
        assert any("INTEGER PRIMARY KEY" in step for step in steps)


async def test_list_yields_to_other_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ways: list[str] = []
    monkeypatch.setattr("os.sched_yield", lambda: ways.append(threading.current_thread().name))

    async with filled(str(tmp_path / "store.db")) as store:
        await listed(store, Query(text="7", sort="used"))
    assert len(ways) > 5
    assert threading.current_thread().name not in ways


@pytest.mark.parametrize(
    "damage",
    [
        "failure_detail = CAST(x'ff' AS TEXT)",
        "failure_detail = x'ff'",
        "failure_detail = hex(zeroblob(1000000))",
        "failure_count = 'many'",
        "last_used = x'00'",
        "due_at = -1e999",
        "domain = CAST(x'ff' AS TEXT)",
        "domain = x'ff'",
    ],
)
async def test_damaged_row_hides_no_other_row(tmp_path: Path, damage: str) -> None:
    async with filled(str(tmp_path / "store.db")) as store:
        with contextlib.closing(sqlite3.connect(store.path)) as other, other:
            other.execute(f"UPDATE entry SET {damage} WHERE domain = 'd07.example'")
        others = sorted({entry.domain for entry in entries()} - {"d07.example"})
        for query in (Query(limit=60), Query(sort="used"), Query(sort="due"), Query(sort="failures")):
            shown = await store.browse(page(query))
            listed = [json.loads(entry) for entry in shown.entries]
            assert sorted({entry["domain"] for entry in listed} - {"d07.example"}) == others
            assert sum(map(len, shown.entries)) < 60_000
