"""The default store: one SQLite file, read and written on two threads of its own.

The event loop never waits for SQLite. What is asked while a thread is busy goes over in one batch: writes into one
transaction (a group commit), reads into one query.

A ``put`` returns after its COMMIT, which outlives kill -9 of this process. Puts of one domain take effect in the
order in which they were made, also when their caller has gone.

The threads end in ``close``. Where the loop ends without it, the interpreter's exit still ends them, after the
batch in hand.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ..errors import StoreError
from ..policy.cache_entry import CacheEntry
from . import schema as schema
from .database import MEMORY
from .engine import DUE, PAGE, Call, Engine, Opened, Read, Report, StoreCounters, StoreLimits
from .job_queue import Batches
from .listing import browse_file

__all__ = ["MEMORY", "SqliteStore", "StoreCounters", "StoreLimits", "open_store", "open_store_read_only"]

_TOUCHES_AT_ONCE = 1000
"""Domains touched in one transaction, so that no put waits long behind them."""

_CLOSE_WITHIN = 3.0
"""Seconds that ``close`` grants a disk that hangs."""

_LOCKED_WITHIN = 6.0
_LOCK_EVERY = 0.1
"""Seconds; a daemon that is told to end does so within five."""

_DEFAULT_LIMITS = StoreLimits()

T = TypeVar("T")


class SqliteStore:
    """A ``ports.api.Store``, made by ``open_store``; belongs to the event loop that opened it.

    Calls raise ``StoreError``: a disk that fails, is full or hangs, a damaged file (``StoreDamaged``), a closed
    store. Later calls work again when the cause has gone. Within this process only the store's own puts are
    expected: what was not in the file when it was opened is looked for there only after it was put.
    """

    def __init__(
        self, engine: Engine, writer: ThreadPoolExecutor, reader: ThreadPoolExecutor, opened: Opened, path: str | Path
    ) -> None:
        self.path = str(path)
        """The file, or ``MEMORY``."""
        self.counters = engine.counters
        self.problems = opened.problems
        """What opening came across, for the log: a damaged file that was set aside."""
        self.write_failure: StoreError | None = None
        """Why the last write failed; None where it did not."""
        self._engine = engine
        self._writer = writer
        self._reader = reader
        self._writes: Batches[Call[object]] = Batches(writer, engine.write)
        self._reads: Batches[Read] = Batches(reader, engine.read)
        self._names: set[str] = set()
        self._knows_names = opened.empty
        self._closed = False

    def may_hold(self, domain: str) -> bool:
        """Whether ``get`` might find something; always so until ``learn_names`` has ended."""
        return self._closed or not self._knows_names or domain in self._names

    async def learn_names(self) -> None:
        """Find out which domains are in it, so that no lookup of another one waits for the disk. Raises ``StoreError``.

        On a thread, beside everything else; it takes a second for some 200,000.
        """
        if not self._knows_names:
            names = await self.browse(self._engine.names)
            names |= self._names  # what was put meanwhile
            self._names, self._knows_names = names, True

    async def get(self, domain: str) -> CacheEntry | None:
        """The entry as it was put, or None, also where its row is damaged."""
        self.counters.gets += 1
        if not self.may_hold(domain):
            return None
        found: CacheEntry | None = await self._read(domain)
        return found

    async def put(self, entry: CacheEntry, due: float | None) -> None:
        """Keep the entry as it is, ``last_used`` included, and the moment it is due at; it is committed on return."""
        self.counters.puts += 1
        self._names.add(entry.domain)
        mode = None if entry.held is None else entry.held.policy.mode.value
        await self._write(partial(self._engine.put, (*schema.row_of(entry), due, mode)))

    async def touch(self, used: Iterable[tuple[str, float]]) -> None:
        """Move ``last_used`` of the domains forward to the moments given; unknown ones are passed over."""
        moves = iter(used)
        while some := list(itertools.islice(moves, _TOUCHES_AT_ONCE)):
            await self._write(partial(self._engine.touch, some))

    async def delete(self, domain: str) -> bool:
        """Drop the entry; whether there was one."""
        return bool(await self._write(partial(self._engine.delete, domain)))

    async def due(self, now: float, used_since: float, limit: int) -> Sequence[CacheEntry]:
        """Entries due at ``now`` and looked up since ``used_since``, the longest overdue first."""
        return await self._select(DUE, (now, used_since), limit)

    async def page(self, after: str, limit: int) -> Sequence[CacheEntry]:
        """Entries whose domain sorts behind ``after``, in that order; fewer than ``limit`` are the last."""
        return await self._select(PAGE, (after,), limit)

    async def count(self) -> int:
        """How many entries there are, damaged and expired ones included."""
        return int(await self._read(self._engine.count))

    async def browse(self, call: Call[T]) -> T:
        """What ``call`` reads; on a thread and a connection of its own, so that no lookup waits behind a long list."""
        if self.path == MEMORY or self._closed:
            memory: T = await self._read(call)
            return memory
        return await asyncio.to_thread(self._browse, call)

    def _browse(self, call: Call[T]) -> T:
        if self._engine.displaced():
            raise StoreError("its file was removed or replaced")
        return browse_file(self.path, call)

    async def tidy(self, now: float) -> int:
        """Drop what expired more than 30 days ago and what exceeds the limits; how many went.

        Domains looked up on one UTC day only go first, then those not looked up for the longest time.
        """
        return int(await self._write(partial(self._engine.tidy, now)))

    async def recover(self, now: float) -> Sequence[StoreError]:
        """Go on in a new file with all that was in it, where it was removed, and in the new one, where it was replaced.

        What had happened, for the log. Raises ``StoreError`` where that cannot be done, until it can.
        """
        if self._closed or not await _on(self._writer, self._engine.displaced):
            return ()
        opened = await _on(self._reader, self._renew, now)
        self._knows_names = False
        return opened.problems

    def _renew(self, now: float) -> Opened:
        """On both threads, so that what is asked meanwhile waits, and finds what was put."""
        return self._writer.submit(self._engine.renew, now).result()

    async def close(self) -> None:
        """Commit what is queued, empty the log into the file and end the threads.

        Raises ``StoreError`` where the disk hangs for more than 3 s; the threads then end when it answers.
        """
        if self._closed:
            return
        self._closed = True
        hangs = True
        try:
            async with asyncio.timeout(_CLOSE_WITHIN):
                await self._reads.drain()
                await self._writes.drain()
                await _on(self._reader, self._engine.close_reading)
                await _on(self._writer, self._engine.close_writing)
            hangs = False
        except TimeoutError:
            self._reader.submit(self._engine.close_reading)
            self._writer.submit(self._engine.close_writing)
            raise StoreError("it did not finish writing in time") from None
        finally:
            for executor in (self._reader, self._writer):
                executor.shutdown(wait=not hangs)

    async def _select(self, where: str, values: Sequence[object], limit: int) -> Sequence[CacheEntry]:
        found: list[CacheEntry] = await self._read(partial(self._engine.select, where, values, limit))
        return found

    def _read(self, job: Read) -> Awaitable[Any]:
        return self._counted(self._reads, job)

    async def _write(self, job: Call[object]) -> Any:
        try:
            written = await self._counted(self._writes, job)
        except StoreError as error:
            self.write_failure = error
            raise
        self.write_failure = None
        return written

    async def _counted(self, batches: Batches[T], job: T) -> Any:
        try:
            if self._closed:
                raise StoreError("it is closed")
            return await batches.submit(job)
        except StoreError:
            self.counters.failures += 1
            raise


def _ignore(error: StoreError) -> None:
    pass


async def _on(executor: ThreadPoolExecutor, call: Callable[..., T], *values: object) -> T:
    return await asyncio.get_running_loop().run_in_executor(executor, call, *values)


async def open_store(
    path: str | Path,
    *,
    now: float,
    limits: StoreLimits = _DEFAULT_LIMITS,
    report: Report = _ignore,
    wait: float = _LOCKED_WITHIN,
) -> SqliteStore:
    """Open the store for this process, making the file (0600) and its last folder; ``MEMORY`` keeps nothing.

    A damaged file is set aside, which ``problems`` tells, and a new one begun. ``report`` is called, on the loop,
    for a damaged row met later, each time it is met. Raises ``StoreSchemaNewer``, with the file left as it was, or
    another ``StoreError`` where the file cannot be used, which it cannot while another process writes it: that one is
    given ``wait`` seconds to end.
    """
    engine = _engine(limits, report)
    writer = ThreadPoolExecutor(1, "store-writer")
    reader = writer if str(path) == MEMORY else ThreadPoolExecutor(1, "store-reader")
    try:
        await _locked(writer, engine, str(path), wait)
        opened = await _on(writer, engine.open_writing, str(path), now)
        if reader is not writer:
            await _on(reader, engine.open_reading, str(path))
    except BaseException:
        writer.submit(engine.close_writing)
        writer.shutdown(wait=False)
        reader.shutdown(wait=False)
        raise
    return SqliteStore(engine, writer, reader, opened, path)


async def _locked(writer: ThreadPoolExecutor, engine: Engine, path: str, wait: float) -> None:
    deadline = asyncio.get_running_loop().time() + wait
    while not await _on(writer, engine.lock, path):
        if asyncio.get_running_loop().time() >= deadline:
            raise StoreError("another process writes it")
        await asyncio.sleep(_LOCK_EVERY)


async def open_store_read_only(path: str | Path, *, report: Report = _ignore) -> SqliteStore:
    """Open the file for reading, also beside the daemon that writes it; all that writes raises ``StoreError``."""
    engine = _engine(_DEFAULT_LIMITS, report)
    reader = ThreadPoolExecutor(1, "store-reader")
    try:
        opened = await _on(reader, engine.open_reading, str(path))
    except BaseException:
        reader.shutdown(wait=False)
        raise
    return SqliteStore(engine, reader, reader, opened, path)


def _engine(limits: StoreLimits, report: Report) -> Engine:
    loop = asyncio.get_running_loop()
    return Engine(limits, lambda error: loop.call_soon_threadsafe(report, error))
