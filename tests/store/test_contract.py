"""The contract of the store port, which every implementation passes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from mtasts_daemon.errors import StoreError
from mtasts_daemon.policy.cache_entry import CacheEntry, FetchFailure, HeldPolicy, TxtCheck, on_load
from mtasts_daemon.policy.draft2017 import parse_json_policy
from mtasts_daemon.policy.mtasts import parse_policy
from mtasts_daemon.ports import Store
from mtasts_daemon.store.policy_store import MEMORY, SqliteStore, StoreLimits, open_store
from tests.fakes.store import DAY, NOW, FakeStore, policy_entry

AnyStore = SqliteStore | FakeStore
PORTS: tuple[type[Store], ...] = (SqliteStore, FakeStore)
"""For the type checker: each implements the port."""


@dataclass
class Kind:
    """One way to make a store."""

    name: str
    path: str

    @asynccontextmanager
    async def opened(self, limits: StoreLimits | None = None) -> AsyncIterator[AnyStore]:
        store = await self.open(limits or StoreLimits())
        try:
            yield store
        finally:
            await store.close()

    async def open(self, limits: StoreLimits) -> AnyStore:
        if self.name == "fake":
            return FakeStore(limits)
        if self.name == "unwritable":
            await asyncio.to_thread(Path(f"{self.path}.lock").mkdir, exist_ok=True)
        return await open_store(self.path, now=NOW, limits=limits, in_memory=self.name == "unwritable")


@pytest.fixture(params=["file", "memory", "unwritable", "fake"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    return Kind(request.param, MEMORY if request.param in ("memory", "fake") else str(tmp_path / "store.db"))


FULL = replace(
    policy_entry("full.example"),
    txt=TxtCheck(NOW - 5, NOW + 300, "20240102", "sts-record-syntax", "what it said: 'ü'"),
    failure=FetchFailure("20240102", NOW - 4, NOW + 600, 3, "policy-timeout", "no answer in 60 s"),
    first_used=NOW - 7 * DAY,
)


async def test_empty_store_has_no_entries(kind: Kind) -> None:
    async with kind.opened() as store:
        assert await store.get("absent.example") is None
        assert not await store.delete("absent.example")
        assert await store.due(NOW, 0, 10) == []
        assert await store.page("", 10) == []
        assert await store.count() == 0
        assert await store.tidy(NOW) == 0


@pytest.mark.parametrize(
    "entry",
    [
        FULL,
        replace(FULL, txt=None),
        replace(FULL, failure=None),
        replace(FULL, held=None),
        on_load(FULL, NOW - 10 * DAY),
        replace(FULL, txt=TxtCheck(NOW, NOW + 60)),
        CacheEntry("bare.example"),
    ],
)
async def test_entry_is_returned_as_it_was_put(kind: Kind, entry: CacheEntry) -> None:
    async with kind.opened() as store:
        await store.put(entry, NOW)
        assert await store.get(entry.domain) == entry


async def test_draft_policy_is_returned_as_it_was_put(kind: Kind) -> None:
    text = b'\xef\xbb\xbf {"version": "STSv1", "mode": "report", "max_age": "600", "mx": [".example.com"]}'
    held = HeldPolicy("1", text, parse_json_policy(text), NOW, NOW + 600)

    async with kind.opened() as store:
        await store.put(CacheEntry("draft.example", held), NOW)
        entry = await store.get("draft.example")
        assert entry is not None
        assert entry.held == held


async def test_body_of_64_kib_is_returned_as_it_was_put(kind: Kind) -> None:
    entry = policy_entry("long.example", body=_body_of(65536))

    async with kind.opened() as store:
        await store.put(entry, NOW)
        assert await store.get("long.example") == entry


async def test_second_put_replaces_entry_and_due_moment(kind: Kind) -> None:
    async with kind.opened() as store:
        await store.put(FULL, NOW)
        newer = replace(FULL, txt=None, last_used=NOW + 1)
        await store.put(newer, None)
        assert await store.get(FULL.domain) == newer
        assert await store.due(NOW + DAY, 0, 10) == []
        assert await store.count() == 1


async def test_concurrent_puts_take_effect_in_order(kind: Kind) -> None:
    versions = [replace(FULL, last_used=NOW + number) for number in range(50)]

    async with kind.opened() as store:
        await asyncio.gather(*(store.put(version, None) for version in versions))
        assert await store.get(FULL.domain) == versions[-1]


async def test_concurrent_callers_get_their_own_entries(kind: Kind) -> None:
    async with kind.opened() as store:
        entries = [policy_entry(f"d{number}.example") for number in range(300)]
        await asyncio.gather(*(store.put(entry, NOW) for entry in entries))
        asked = [f"d{number}.example" for number in range(-300, 600)]
        found = await asyncio.gather(*(store.get(domain) for domain in asked))
        known = {entry.domain: entry for entry in entries}
        assert found == [known.get(domain) for domain in asked]


async def test_strange_name_is_not_found(kind: Kind) -> None:
    async with kind.opened() as store:
        await store.put(FULL, NOW)
        for name in ("", "'", '"]', "full.example\0", "FULL.example", "\udcff.example", "ü.example", "x" * 70000, "%"):
            assert await store.get(name) is None
        assert await store.get(FULL.domain) == FULL


async def test_delete_returns_true_if_there_was_an_entry(kind: Kind) -> None:
    async with kind.opened() as store:
        await store.put(FULL, NOW)
        assert await store.delete(FULL.domain)
        assert not await store.delete(FULL.domain)
        assert await store.get(FULL.domain) is None
        assert await store.due(NOW, 0, 10) == []
        await store.put(FULL, NOW)
        assert await store.get(FULL.domain) == FULL


async def test_touch_moves_last_used_forward_and_never_back(kind: Kind) -> None:
    async with kind.opened() as store:
        await store.put(FULL, NOW)
        await store.touch([(FULL.domain, NOW + 60), ("absent.example", NOW)])
        await store.touch(iter([(FULL.domain, NOW + 30)]))
        assert await store.get(FULL.domain) == replace(FULL, last_used=NOW + 60)
        assert await store.get("absent.example") is None
        await store.touch([])


async def test_touch_takes_more_domains_than_one_transaction(kind: Kind) -> None:
    async with kind.opened() as store:
        await store.put(FULL, NOW)
        others = [(f"absent{number}.example", NOW) for number in range(2500)]
        await store.touch([*others, (FULL.domain, NOW + 1)])
        assert await store.get(FULL.domain) == replace(FULL, last_used=NOW + 1)


async def test_due_returns_the_longest_overdue_first_up_to_the_limit(kind: Kind) -> None:
    async with kind.opened() as store:
        for number, due in enumerate([NOW - 1, NOW - 3, NOW, NOW + 1, NOW - 2]):
            await store.put(policy_entry(f"d{number}.example"), due)
        await store.put(policy_entry("never.example"), None)
        assert [entry.domain for entry in await store.due(NOW, 0, 3)] == ["d1.example", "d4.example", "d0.example"]
        assert len(await store.due(NOW, 0, 10)) == 4


async def test_due_skips_unused_domains(kind: Kind) -> None:
    async with kind.opened() as store:
        await store.put(policy_entry("idle.example", last_used=NOW - 1), NOW - 9)
        await store.put(policy_entry("used.example", last_used=NOW), NOW)
        assert [entry.domain for entry in await store.due(NOW, NOW, 1)] == ["used.example"]
        await store.touch([("idle.example", NOW)])
        assert [entry.domain for entry in await store.due(NOW, NOW, 1)] == ["idle.example"]


async def test_pages_cover_all_entries_in_order_of_name(kind: Kind) -> None:
    async with kind.opened() as store:
        for name in ("c", "a", "d", "b", "e"):
            await store.put(policy_entry(f"{name}.example"), NOW)
        seen: list[str] = []
        while page := await store.page(seen[-1] if seen else "", 2):
            assert len(page) <= 2
            seen += [entry.domain for entry in page]
        assert seen == ["a.example", "b.example", "c.example", "d.example", "e.example"]
        assert await store.count() == 5


async def test_tidy_removes_what_expired_more_than_30_days_ago(kind: Kind) -> None:
    entry = policy_entry("old.example")
    assert entry.held is not None
    edge = entry.held.valid_until + 30 * DAY

    async with kind.opened() as store:
        await store.put(entry, NOW)
        assert await store.tidy(edge) == 0
        assert await store.tidy(edge + 1) == 1
        assert await store.get("old.example") is None


async def test_tidy_removes_one_day_domains_then_the_least_recently_used(kind: Kind) -> None:
    async with kind.opened(StoreLimits(max_policies=2)) as store:
        used = {
            "regular-old": (NOW - 9 * DAY, NOW - 8 * DAY),
            "regular-new": (NOW - 9 * DAY, NOW),
            "one-day-old": (NOW - 5 * DAY, NOW - 4 * DAY - 1),
            "one-day-new": (NOW + 1, NOW + 2),
            "over-midnight": (NOW - 1, NOW),
        }
        for name, (first, last) in used.items():
            await store.put(policy_entry(name, first_used=first, last_used=last), NOW)
        assert await store.tidy(NOW) == 3
        left = [entry.domain for entry in await store.page("", 10)]
        assert left == ["over-midnight", "regular-new"]


async def test_tidy_at_the_limit_removes_nothing(kind: Kind) -> None:
    async with kind.opened(StoreLimits(max_policies=3)) as store:
        for number in range(3):
            await store.put(policy_entry(f"d{number}.example"), NOW)
        assert await store.tidy(NOW) == 0


async def test_tidy_over_the_byte_limit_keeps_the_most_recently_used(kind: Kind) -> None:
    async with kind.opened(StoreLimits(max_bytes=20 * 65536)) as store:
        for number in range(40):
            await store.put(policy_entry(f"d{number:02}.example", body=_body_of(65000), last_used=NOW + number), NOW)
        gone = await store.tidy(NOW)
        assert 20 <= gone < 35
        left = [entry.domain for entry in await store.page("", 100)]
        assert left == [f"d{number:02}.example" for number in range(gone, 40)]
        assert await store.tidy(NOW) == 0


async def test_cancelled_put_takes_effect_before_later_ones(kind: Kind) -> None:
    async with kind.opened() as store:
        first = asyncio.create_task(store.put(FULL, NOW))
        await asyncio.sleep(0)
        first.cancel()
        newer = replace(FULL, last_used=NOW + 1)
        await store.put(newer, NOW)
        assert await store.get(FULL.domain) == newer


async def test_closed_store_raises_and_may_be_closed_again(kind: Kind) -> None:
    async with kind.opened() as store:
        await store.close()
        for call in (store.get("a"), store.put(FULL, NOW), store.delete("a"), store.due(NOW, 0, 1), store.tidy(NOW)):
            with pytest.raises(StoreError):
                await call
        await store.close()


# -- any sequence of calls -------------------------------------------------------------

BODIES = [b"version: STSv1\nmode: %s\nmx: mx%d.example.com\nmax_age: %d\n" % (m, n, n * 9999) for m, n in
          [(b"enforce", 1), (b"testing", 200), (b"none", 3000)]]  # fmt: skip
DOMAINS = st.sampled_from([f"{name}.example" for name in "abcdef"])
MOMENTS = st.floats(min_value=0, max_value=2 * NOW)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@st.composite
def helds(draw: st.DrawFn) -> HeldPolicy:
    text, at = draw(st.sampled_from(BODIES)), draw(MOMENTS)
    policy = parse_policy(text)
    return HeldPolicy(draw(WORDS), text, policy, at, at + policy.max_age)


ENTRIES = st.builds(
    CacheEntry,
    DOMAINS,
    st.none() | helds(),
    st.none() | st.builds(TxtCheck, MOMENTS, MOMENTS, st.none() | WORDS, st.none() | WORDS, WORDS),
    st.none() | st.builds(FetchFailure, WORDS, MOMENTS, MOMENTS, st.integers(1, 10**9), WORDS, WORDS),
    MOMENTS,
    MOMENTS,
)


class StoreAgainstTheFake(RuleBasedStateMachine):
    """Compare a store with the fake, which is a dictionary."""

    kind: Kind

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.model = FakeStore()
        self.store = self.runner.run(self.kind.open(StoreLimits()))
        for entry in self.runner.run(self.store.page("", 100)):
            self.runner.run(self.store.delete(entry.domain))

    @rule(entry=ENTRIES, due=st.none() | MOMENTS)
    def put(self, entry: CacheEntry, due: float | None) -> None:
        self.runner.run(self.store.put(entry, due))
        self.runner.run(self.model.put(entry, due))

    @rule(domain=DOMAINS)
    def delete(self, domain: str) -> None:
        assert self.runner.run(self.store.delete(domain)) == self.runner.run(self.model.delete(domain))

    @rule(used=st.lists(st.tuples(DOMAINS, MOMENTS), max_size=4))
    def touch(self, used: list[tuple[str, float]]) -> None:
        self.runner.run(self.store.touch(used))
        self.runner.run(self.model.touch(used))

    @rule(now=MOMENTS)
    def tidy(self, now: float) -> None:
        assert self.runner.run(self.store.tidy(now)) == self.runner.run(self.model.tidy(now))

    @rule(now=MOMENTS, since=MOMENTS)
    def due(self, now: float, since: float) -> None:
        found = self.runner.run(self.store.due(now, since, 100))
        expected = self.runner.run(self.model.due(now, since, 100))
        assert sorted(found, key=lambda entry: entry.domain) == sorted(expected, key=lambda entry: entry.domain)

    @rule()
    def reopen(self) -> None:
        if self.kind.name == "file":
            self.runner.run(self.store.close())
            self.store = self.runner.run(self.kind.open(StoreLimits()))

    @invariant()
    def holds_the_same(self) -> None:
        assert self.runner.run(self.store.page("", 100)) == self.runner.run(self.model.page("", 100))

    def teardown(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()


@pytest.mark.parametrize("name", ["file", "memory"])
def test_store_behaves_like_a_dictionary_in_any_order_of_calls(name: str, tmp_path: Path) -> None:
    class Machine(StoreAgainstTheFake):
        kind = Kind(name, str(tmp_path / "store.db") if name == "file" else MEMORY)

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=25, stateful_step_count=15, deadline=None, derandomize=True)
    )


def _body_of(size: int) -> bytes:
    start = b"version: STSv1\nmode: enforce\nmx: mx.example.com\nmax_age: 604800\n"
    return start + b"x: " + b"y" * (size - len(start) - 4) + b"\n"
