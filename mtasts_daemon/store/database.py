"""The storage engine: one SQLite file, one writing and one reading thread, group commits, one recovery.

Policies, TLS results and other parts of the program keep their files with it. A job is a function that takes the
connection. Jobs that wait for the writing thread are committed together; a job's result is returned after its COMMIT,
which outlives kill -9 of this process.

If the file was deleted or replaced, ``recover`` opens the file at its path. If it cannot be written and the owner
has a ``Fallback``, the database is kept in memory until it can.
"""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..errors import StoreError
from .connections import Connections, Fallback
from .job_queue import JobQueue
from .sqlite_file import (
    MEMORY,
    DatabaseFile,
    Schema,
    as_store_error,
    make_file,
    open_reading,
    open_writing,
    set_aside,
)

__all__ = [
    "MEMORY",
    "Database",
    "DatabaseCounters",
    "DatabaseFile",
    "Fallback",
    "Job",
    "Options",
    "Schema",
    "as_store_error",
    "attempt",
    "make_file",
    "open_reading",
    "open_writing",
    "set_aside",
]

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]
Run = Callable[[Sequence[Any]], list[object]]

_CLOSE_SECONDS = 3.0
"""Seconds that ``close`` waits for a disk that hangs."""


@dataclass(slots=True)
class DatabaseCounters:
    """Counts since the database was opened; read from any thread."""

    failures: int = 0
    """Calls that raised a ``StoreError``."""
    commits: int = 0
    commit_seconds: float = 0.0
    """Time spent in transactions, from BEGIN to the end of COMMIT."""


def attempt(job: Job[Any], connection: sqlite3.Connection) -> object:
    """Return the result of the job, or the exception that it raised."""
    try:
        return job(connection)
    except (sqlite3.Error, OverflowError, UnicodeError) as error:
        return as_store_error(error)
    except Exception as error:
        return error


def _run_each(jobs: Sequence[Job[Any]], connection: sqlite3.Connection) -> list[object]:
    """Run the reads one after another in one snapshot."""
    connection.execute("BEGIN")
    try:
        return [attempt(job, connection) for job in jobs]
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


class Options(NamedTuple):
    """How to open a database. ``name`` names the threads.

    With ``lock_seconds`` only one process may write; that is how long to wait for another one to end.
    ``keep_damaged`` raises ``StoreDamaged`` instead of renaming the file and starting a new one. The deadlines are the
    seconds after which callers on an event loop get a ``StoreError`` from a disk that hangs. ``run_reads`` runs a batch
    of up to ``read_batch`` reads and returns a result or an exception for each.
    """

    name: str
    read_only: bool = False
    lock_seconds: float | None = None
    keep_damaged: bool = False
    fallback: Fallback | None = None
    read_deadline: float = 60.0
    write_deadline: float = 60.0
    read_batch: int = 32
    run_reads: Callable[[Sequence[Any], sqlite3.Connection], list[object]] = _run_each


class Database:
    """A database, to be opened with ``open`` or ``open_now``.

    Calls raise ``StoreError``; later calls work again when the cause is gone.
    """

    def __init__(self, path: str | Path, schema: Schema, options: Options, counters: DatabaseCounters) -> None:
        self.file = str(path)
        """The configured path."""
        self.counters = counters
        self.write_failure: StoreError | None = None
        """Why the last write failed; None if it succeeded."""
        self.closed = False
        self._options = options
        self._connections = Connections(
            self.file,
            schema,
            lock_seconds=options.lock_seconds,
            keep_damaged=options.keep_damaged,
            fallback=options.fallback,
        )
        # Both threads use the one connection of a database in memory, in turns.
        self._turn = threading.Lock()
        self._writer = ThreadPoolExecutor(1, f"{options.name}-writer")
        self._reader = ThreadPoolExecutor(1, f"{options.name}-reader")
        self._reads: JobQueue[Any] | None = None
        self._writes: JobQueue[Job[Any]] | None = None

    @property
    def generation(self) -> int:
        """Incremented at every reopen. Row ids from an earlier generation are invalid."""
        return self._connections.generation

    @property
    def memory_reason(self) -> StoreError | None:
        """Why the database is in memory instead of its file; None if it is not."""
        return self._connections.memory_reason

    @property
    def path(self) -> str:
        """The file in use, or ``MEMORY``."""
        return self.file if self.memory_reason is None else MEMORY

    # -- jobs from an event loop -------------------------------------------------------------------------------

    async def read(self, job: Any) -> Any:
        """Run a read on the reading thread."""
        try:
            self._check_open()
            return await self._queues()[0].submit(job)
        except StoreError:
            self.counters.failures += 1
            raise

    async def write(self, job: Job[T]) -> T:
        """Run a write and return its result after the commit. It is undone if it raises."""
        _, writes = self._queues()
        try:
            self._check_open()
            written: T = await writes.submit(job)
        except StoreError as error:
            self.counters.failures += 1
            if writes.hangs:
                self.write_failure = error
            raise
        return written

    def _check_open(self) -> None:
        if self.closed:
            raise StoreError("it is closed")

    def _queues(self) -> tuple[JobQueue[Any], JobQueue[Job[Any]]]:
        reads, writes, options = self._reads, self._writes, self._options
        if reads is None or writes is None or reads.loop is not asyncio.get_running_loop():
            reads = JobQueue(
                self._reader, self._run_reads, deadline=options.read_deadline, batch_limit=options.read_batch
            )
            writes = JobQueue(self._writer, self._run_writes, deadline=options.write_deadline)
            self._reads, self._writes = reads, writes
        return reads, writes

    # -- jobs from other threads -------------------------------------------------------------------------------

    def read_now(self, job: Job[T]) -> T:
        """Run a read and wait for it. Blocks, so it is not for the thread of an event loop."""
        found: T = self._wait(self._reader, self._run_reads, job)
        return found

    def write_now(self, job: Job[T]) -> T:
        """Run a write and wait for its commit. Blocks, so it is not for the thread of an event loop."""
        written: T = self._wait(self._writer, self._run_writes, job)
        return written

    def _wait(self, executor: ThreadPoolExecutor, run: Run, job: Any) -> Any:
        self._check_open()
        try:
            (result,) = executor.submit(run, [job]).result()
        except RuntimeError as error:  # the executor is shutting down
            raise StoreError(str(error)) from None
        if isinstance(result, StoreError):
            self.counters.failures += 1
        if isinstance(result, Exception):
            raise result
        return result

    # -- on the threads ----------------------------------------------------------------------------------------

    def _run_reads(self, jobs: Sequence[Any]) -> list[object]:
        connection = self._connections.reading
        if connection is None:
            return [self._not_open()] * len(jobs)
        with self._its_turn():
            try:
                return self._options.run_reads(jobs, connection)
            except sqlite3.Error as error:
                return [as_store_error(error)] * len(jobs)

    def _run_writes(self, jobs: Sequence[Job[Any]]) -> list[object]:
        """Run all jobs in one transaction. If one of them fails, run each in a transaction of its own."""
        connection = self._connections.writing
        if connection is None:
            unwritable = StoreError("it is open for reading only") if self._options.read_only else self._not_open()
            return [unwritable] * len(jobs)
        with self._its_turn():
            results, alone = self._transaction(jobs, connection)
            if alone and len(jobs) > 1:
                results = [result for job in jobs for result in self._transaction([job], connection)[0]]
        failed = [result for result in results if isinstance(result, StoreError)]
        # A job that cannot be stored fails alone, which says nothing about the disk.
        self.write_failure = failed[-1] if len(failed) == len(jobs) else None
        return results

    def _transaction(self, jobs: Sequence[Job[Any]], connection: sqlite3.Connection) -> tuple[list[object], bool]:
        """Return the results and False; or errors if nothing was committed, and True if one job is the cause."""
        begun = time.perf_counter()
        results: list[object] = []
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                results.append(attempt(job, connection))
                if isinstance(results[-1], Exception):
                    # SQLite itself ends the transaction if the disk is full or fails.
                    return results[-1:] * len(jobs), connection.in_transaction
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            return [as_store_error(error)] * len(jobs), False
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        self.counters.commits += 1
        self.counters.commit_seconds += time.perf_counter() - begun
        return results, False

    def _its_turn(self) -> AbstractContextManager[object]:
        connections = self._connections
        return self._turn if connections.reading is connections.writing else nullcontext()

    def _not_open(self) -> StoreError:
        return StoreError("it is closed" if self.closed else "its file cannot be opened")

    # -- opening and recovery ----------------------------------------------------------------------------------

    async def open(self, now: float) -> Sequence[StoreError]:
        """Open the database. Return the problems found, for the log; raises ``StoreError``."""
        try:
            return await _on(self._writer, self._open, now)
        except BaseException:
            self._abandon()
            raise

    def open_now(self, now: float) -> Sequence[StoreError]:
        """Do what ``open`` does, and wait for it."""
        try:
            return self._writer.submit(self._open, now).result()
        except BaseException:
            self._abandon()
            raise

    def _open(self, now: float) -> Sequence[StoreError]:
        return self._connections.open_read_only() if self._options.read_only else self._connections.open(now)

    def _abandon(self) -> None:
        self.closed = True
        self._writer.submit(self._connections.close)
        for executor in (self._writer, self._reader):
            executor.shutdown(wait=False)

    def is_lost(self) -> bool:
        """Return True if the file was deleted or replaced. Callable from any thread; raises ``StoreError``."""
        return self._connections.is_lost()

    async def recover(self, now: float) -> Sequence[StoreError]:
        """Reopen the file if it was deleted or replaced, or can be written again. Return the problems found.

        What was in a deleted file is lost; the owner writes back what it has in memory. Raises ``StoreError`` if the
        file cannot be opened; the next call tries again.
        """
        if self.closed or self._options.read_only or self.file == MEMORY:
            return ()
        # On both threads, so that jobs submitted meanwhile wait.
        return await _on(self._reader, lambda: self._writer.submit(self._connections.recover, now).result())

    # -- the end -----------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Commit queued writes and close the file. Raises ``StoreError`` if the disk hangs for 3 s."""
        if self.closed:
            return
        self.closed = True
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                for queue in self._queues():
                    await queue.drain()
                await _on(self._reader, self._close)
        except TimeoutError:
            self._reader.submit(self._close)
            raise StoreError("it did not finish writing in time") from None
        finally:
            self._reader.shutdown(wait=False)

    def close_now(self) -> None:
        """Do what ``close`` does, and wait for the disk."""
        if not self.closed:
            self.closed = True
            self._reader.submit(self._close).result()
            self._reader.shutdown()

    def _close(self) -> None:
        self._writer.submit(self._connections.close).result()
        self._writer.shutdown()


async def _on(executor: ThreadPoolExecutor, call: Callable[..., T], *values: object) -> T:
    return await asyncio.get_running_loop().run_in_executor(executor, call, *values)
