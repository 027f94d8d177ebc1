"""The policy store: one SQLite file, kept with the storage engine of ``database``.

The event loop never waits for SQLite. Calls that come while a thread is busy go over in one batch: writes into one
transaction (a group commit), reads into one query. A ``put`` returns after its COMMIT. Puts of one domain take effect
in the order in which they were made, also if their caller was cancelled.

If the file cannot be written when it is opened, its policies are read into memory and new ones are kept there;
``recover`` writes them back when it can.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ..errors import StoreError
from ..policy.cache_entry import CacheEntry
from .database import MEMORY, Database, Job, Options
from .entry_table import DUE_KEYS, PAGE_KEYS, EntryTable, Read, Report, StoreCounters, StoreLimits
from .schema import SCHEMA, row_of

__all__ = ["MEMORY", "SqliteStore", "StoreCounters", "StoreLimits", "open_store", "open_store_read_only"]

_NAMES_BEYOND_LIMIT = 10_000
"""The file may exceed its limits by the puts between two checks."""

_TOUCHES_AT_ONCE = 1000
"""Domains touched in one transaction, so that no put waits long behind them."""

_ENTRIES_AT_ONCE = 8
"""Entries of a list that are read and parsed in one job, so that no lookup waits long behind them."""

_READ_DEADLINE = 3.0
_WRITE_DEADLINE = 10.0
"""Seconds. A read ends before the lookup that waits for it, so that the lookup knows that the store is at fault."""

_LOCK_SECONDS = 6.0
"""Seconds to wait for another daemon to end; one that is stopped ends within five."""

_DEFAULT_LIMITS = StoreLimits()

T = TypeVar("T")


class SqliteStore:
    """A ``ports.Store``, made by ``open_store``; belongs to the event loop that opened it.

    Calls raise ``StoreError`` if the disk fails, is full or hangs, if a row is damaged (``StoreDamaged``) or if the
    store is closed. Later calls work again when the cause is gone. No other process may write the file.
    """

    def __init__(self, database: Database, rows: EntryTable, limits: StoreLimits) -> None:
        self.counters = rows.counters
        self.problems: Sequence[StoreError] = ()
        """Problems found at opening, for the log, such as a damaged file that was set aside."""
        self._database = database
        self._rows = rows
        self._max_names = limits.max_policies + _NAMES_BEYOND_LIMIT
        self._names: set[str] = set()
        self._knows_names = False
        self._putting: Counter[str] = Counter()
        self._uncertain: set[str] = set()
        """Domains whose last put failed, or lost its caller, and may still be committed."""

    @property
    def file(self) -> str:
        """The configured path."""
        return self._database.file

    @property
    def path(self) -> str:
        """The file in use, or ``MEMORY``."""
        return self._database.path

    @property
    def memory_reason(self) -> StoreError | None:
        """Why policies are kept in memory instead of the file; None if they are not."""
        return self._database.memory_reason

    @property
    def write_failure(self) -> StoreError | None:
        """Why the last write failed; None if it succeeded."""
        return self._database.write_failure

    # -- names -------------------------------------------------------------------------------------------------

    def may_hold(self, domain: str) -> bool:
        """Return False if the domain is certainly not stored. Does not wait; always True before ``learn_names``."""
        return self._database.closed or not self._knows_names or domain in self._names

    async def learn_names(self) -> None:
        """Read which domains are stored, so that lookups of others do not ask the disk. Raises ``StoreError``.

        Runs on a thread of its own; takes about a second for 200,000 domains.
        """
        if not self._knows_names:
            names = await self.browse(self._rows.names)
            self._names |= names  # with what was put meanwhile
            self._knows_names = True
            self._limit_names()

    def _limit_names(self) -> None:
        if len(self._names) > self._max_names:
            self._uncertain.clear()
            self._forget_names()

    def _forget_names(self) -> None:
        self._knows_names = False
        # Pending entries may not be in the file when the names are read next.
        self._names = self._uncertain.union(self._putting)

    def _remove_names(self, removed: Iterable[str]) -> None:
        # A domain with a put under way may be stored again after it was removed.
        kept = self._uncertain.union(self._putting)
        self._names.difference_update(domain for domain in removed if domain not in kept)

    # -- the port ----------------------------------------------------------------------------------------------

    async def get(self, domain: str) -> CacheEntry | None:
        """Return the entry as it was put, or None, also if its row is damaged.

        Raises ``StoreError`` after 3 s if the disk hangs.
        """
        self.counters.gets += 1
        if not self.may_hold(domain):
            return None
        found: CacheEntry | None = await self._read(domain)
        return found

    async def put(self, entry: CacheEntry, due: float | None) -> None:
        """Store the entry, and when its policy is due for a refresh; it is committed on return."""
        self.counters.puts += 1
        domain, mode = entry.domain, None if entry.held is None else entry.held.policy.mode.value
        self._names.add(domain)
        self._putting[domain] += 1
        try:
            removed = await self._database.write(partial(self._rows.put, (*row_of(entry), due, mode)))
        except BaseException:
            self._uncertain.add(domain)
            raise
        finally:
            self._putting[domain] -= 1
            if not self._putting[domain]:
                del self._putting[domain]
            self._limit_names()
        self._uncertain.discard(domain)
        if removed:
            self._remove_names(removed)

    async def touch(self, used: Iterable[tuple[str, float]]) -> None:
        """Move ``last_used`` of the domains forward; unknown ones are ignored."""
        moves = iter(used)
        while some := list(itertools.islice(moves, _TOUCHES_AT_ONCE)):
            await self._database.write(partial(self._rows.touch, some))

    async def delete(self, domain: str) -> bool:
        """Remove the entry. Return True if there was one."""
        removed = await self._database.write(partial(self._rows.delete, domain))
        self._remove_names(removed)
        return bool(removed)

    async def due(self, now: float, used_since: float, limit: int) -> Sequence[CacheEntry]:
        """Return entries due at ``now`` and looked up since ``used_since``, the longest overdue first."""
        return await self._select(DUE_KEYS, (now, used_since), limit)

    async def page(self, after: str, limit: int) -> Sequence[CacheEntry]:
        """Return entries whose domain sorts behind ``after``, in that order; fewer than ``limit`` are the last."""
        return await self._select(PAGE_KEYS, (after,), limit)

    async def _select(self, statement: str, values: Sequence[object], limit: int) -> Sequence[CacheEntry]:
        found: list[CacheEntry] = []
        offset = 0
        while (wanted := limit - len(found)) > 0:
            keys = await self._read(partial(self._rows.keys, statement, (*values, wanted, offset)))
            for start in range(0, len(keys), _ENTRIES_AT_ONCE):
                found += await self._read(partial(self._rows.entries, keys[start : start + _ENTRIES_AT_ONCE]))
            if len(keys) < wanted:
                break
            offset += len(keys)  # as many more as there were damaged rows
        return found

    async def tidy(self, now: float) -> int:
        """Remove what expired more than 30 days ago and what exceeds the limits. Return the number removed.

        Domains looked up on one UTC day only are removed first, then the least recently used.
        """
        removed = await self._database.write(partial(self._rows.tidy, now))
        self._remove_names(removed)
        return len(removed)

    async def count(self) -> int:
        """Return the number of entries, including damaged and expired ones."""
        return int(await self._read(self._rows.count))

    async def browse(self, call: Job[T]) -> T:
        """Run a long read on a thread and a connection of its own, so that no lookup waits behind it."""
        if self.path == MEMORY or self._database.closed:
            memory: T = await self._read(call)
            return memory
        return await asyncio.to_thread(self._browse, call)

    def _browse(self, call: Job[T]) -> T:
        # The first answer does not wait for this import.
        from .listing import browse_file

        if self._database.is_lost():
            raise StoreError("its file was deleted or replaced")
        return browse_file(self.file, call)

    # -- the file ----------------------------------------------------------------------------------------------

    async def recover(self, now: float) -> Sequence[StoreError]:
        """Reopen the file if it was deleted or replaced, or can be written again. Return the problems found.

        The caller writes back what it has in memory. Raises ``StoreError``; the next call tries again.
        """
        problems = await self._database.recover(now)
        if problems:
            self._forget_names()
        return problems

    async def close(self) -> None:
        """Commit queued writes and close the file. Raises ``StoreError`` if the disk hangs for 3 s."""
        await self._database.close()

    async def _read(self, job: Read) -> Any:
        return await self._database.read(job)


def _ignore(error: StoreError) -> None:
    pass


async def open_store(
    path: str | Path,
    *,
    now: float,
    limits: StoreLimits = _DEFAULT_LIMITS,
    report: Report = _ignore,
    lock_seconds: float = _LOCK_SECONDS,
    in_memory: bool = False,
) -> SqliteStore:
    """Open the store for this process; create the file (0600) and its last folder if missing.

    A damaged file is renamed and a new one started; see ``problems``. ``report`` is called on the loop for each damaged
    row that is read later. With ``in_memory``, a file that cannot be written is read into memory, and one of a newer
    version is left untouched; see ``memory_reason``. Otherwise raises ``StoreSchemaNewer`` or ``StoreError``. A process
    that writes the file is given ``lock_seconds`` to end.
    """
    rows = _rows(limits, report)
    options = Options(
        "store",
        lock_seconds=None if str(path) == MEMORY else lock_seconds,
        fallback=rows if in_memory else None,
        read_deadline=_READ_DEADLINE,
        write_deadline=_WRITE_DEADLINE,
        run_reads=rows.run_reads,
    )
    store = SqliteStore(Database(path, SCHEMA, options, rows.counters), rows, limits)
    store.problems = await store._database.open(now)
    with suppress(StoreError):  # a damaged page; the names are learned later
        store._knows_names = await store._read(rows.is_empty)
    return store


async def open_store_read_only(path: str | Path, *, report: Report = _ignore) -> SqliteStore:
    """Open the file for reading, also while the daemon writes it. Every write raises ``StoreError``."""
    rows = _rows(_DEFAULT_LIMITS, report)
    options = Options("store", read_only=True, run_reads=rows.run_reads)
    store = SqliteStore(Database(path, SCHEMA, options, rows.counters), rows, _DEFAULT_LIMITS)
    await store._database.open(0.0)
    return store


def _rows(limits: StoreLimits, report: Report) -> EntryTable:
    loop = asyncio.get_running_loop()
    return EntryTable(limits, lambda error: loop.call_soon_threadsafe(report, error))
