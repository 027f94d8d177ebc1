"""The reports database: transactions over SQLite or PostgreSQL, for threads and for event loops.

Writes run on one thread and are committed in groups; a write's future is done after the commit that holds it. Reads
take turns on a second connection. Every failure is a ``StoreError``; later calls work when the cause has gone.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from ...errors import StoreError

__all__ = ["Backend", "Job", "ReopeningConnection", "ReportsDatabase", "Rows", "SqlConnection"]

T = TypeVar("T")

_GROUP = 64
"""Writes that are committed together."""

_QUEUE = 2000
"""Writes that may wait; when more do, the disk hangs and calls fail at once."""

_QUICK_SECONDS = 1.0
"""A group that failed sooner is written again one by one. A database that blocks would take this time for each."""

_CLOSE_SECONDS = 5.0


class Rows(Protocol):
    """The result of a statement."""

    @property
    def rowcount(self) -> int:
        """Rows that were changed."""

    def fetchone(self) -> Any:
        """Return the next row or None."""

    def fetchall(self) -> Any:
        """Return all rows."""


class SqlConnection(Protocol):
    """A connection. Parameters are written ``?`` with either database."""

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Rows:
        """Run one statement."""

    def begin(self) -> None:
        """Begin a transaction."""

    def commit(self) -> None:
        """Commit the transaction."""

    def rollback(self) -> None:
        """Roll back the transaction, if there is one."""

    def close(self) -> None:
        """Close the connection."""

    def lost(self) -> bool:
        """Return True if the connection no longer reaches the database."""


Job = Callable[[SqlConnection], T]


class Backend(Protocol):
    """Opens connections to one database."""

    def open_writer(self) -> SqlConnection:
        """Open a connection that writes, at the newest schema."""

    def open_reader(self) -> SqlConnection:
        """Open a connection that reads."""

    def translate(self, error: Exception) -> StoreError | None:
        """Return the ``StoreError`` for an error of the database; None for other errors."""


class ReopeningConnection:
    """A connection that is opened on first use and again after it was lost. For one thread at a time."""

    def __init__(self, backend: Backend, connect: Callable[[], SqlConnection]) -> None:
        self._backend = backend
        self._connect = connect
        self._connection: SqlConnection | None = None

    def run(self, jobs: Sequence[Job[Any]]) -> list[Any]:
        """Run the jobs in one transaction; each result is a value or the exception that the job raised.

        A job that raises is undone alone. Raises ``StoreError`` if the transaction as a whole failed.
        """
        try:
            if self._connection is not None and self._connection.lost():
                self.close()
            if self._connection is None:
                self._connection = self._connect()
            self._connection.begin()
            results = [self._one(self._connection, job) for job in jobs]
            self._connection.commit()
        except Exception as error:
            # The connection may be in any state. The next call opens another one.
            self.close()
            translated = self._backend.translate(error)
            if translated is None:
                raise
            raise translated from None
        return results

    def _one(self, connection: SqlConnection, job: Job[Any]) -> Any:
        connection.execute("SAVEPOINT one")
        try:
            result = job(connection)
        except Exception as error:
            if self._backend.translate(error) is not None:
                raise
            connection.execute("ROLLBACK TO SAVEPOINT one")
            result = error
        connection.execute("RELEASE SAVEPOINT one")
        return result

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.rollback()
            with suppress(Exception):
                connection.close()


class ReportsDatabase:
    """An open reports database. ``close`` it at the end."""

    def __init__(self, backend: Backend, *, read_only: bool = False) -> None:
        self._writes: queue.Queue[tuple[Job[Any], Future[Any]] | None] = queue.Queue(_QUEUE)
        self._writer = ReopeningConnection(backend, backend.open_writer)
        self._reader = ReopeningConnection(backend, backend.open_reader)
        self._read_turn = threading.Lock()
        self._closed = False
        self._read_only = read_only
        # Opened here, so that an unusable database is reported at once.
        (self._reader if read_only else self._writer).run([lambda _connection: None])
        self._thread = threading.Thread(target=self._run, name="reports-database", daemon=True)
        self._thread.start()

    def submit(self, job: Job[T]) -> "Future[T]":
        """Queue a write; from any thread. The future holds the job's result after the commit.

        A write that is cancelled before it begins is not made.
        """
        future: Future[T] = Future()
        if self._closed or self._read_only:
            raise StoreError("it is closed" if self._closed else "it is open for reading only")
        try:
            self._writes.put_nowait((job, future))
        except queue.Full:
            raise StoreError("too many calls are waiting for the disk") from None
        return future

    def write(self, job: Job[T]) -> T:
        """Run a write and wait for its commit."""
        return self.submit(job).result()

    def read(self, job: Job[T]) -> T:
        """Run a read in a snapshot of its own, on this thread."""
        with self._read_turn:
            if self._closed:
                raise StoreError("it is closed")
            result = self._reader.run([job])[0]
        if isinstance(result, Exception):
            raise result
        found: T = result
        return found

    def close(self) -> None:
        """Commit the queued writes and close. Waits for a few seconds."""
        if self._closed:
            return
        self._closed = True
        with suppress(queue.Full):
            self._writes.put_nowait(None)
        self._thread.join(_CLOSE_SECONDS)
        if self._read_turn.acquire(timeout=_CLOSE_SECONDS):
            self._reader.close()
            self._read_turn.release()

    def _run(self) -> None:
        ended = False
        while not ended:
            batch: list[tuple[Job[Any], Future[Any]]] = []
            item = self._writes.get()
            while item is not None:
                batch.append(item)
                if len(batch) >= _GROUP:
                    break
                try:
                    item = self._writes.get_nowait()
                except queue.Empty:
                    break
            ended = item is None
            if batch:
                self._commit(batch)
        self._writer.close()

    def _results(self, jobs: Sequence[Job[Any]]) -> Sequence[Any]:
        try:
            return self._writer.run(jobs)
        except Exception as error:  # no caller may be left waiting
            return [error] * len(jobs)

    def _commit(self, queued: Sequence[tuple[Job[Any], Future[Any]]]) -> None:
        # From here on a caller that stops waiting cannot cancel its future: a result for a cancelled one would raise.
        batch = [(job, future) for job, future in queued if future.set_running_or_notify_cancel()]
        if not batch:
            return
        began = time.monotonic()
        results = self._results([job for job, _ in batch])
        if len(batch) > 1 and isinstance(results[0], StoreError) and time.monotonic() - began < _QUICK_SECONDS:
            # One of them may be at fault; the others must not fail with it.
            results = [self._results([job])[0] for job, _ in batch]
        for (_, future), result in zip(batch, results, strict=True):
            if isinstance(result, StoreError):
                # A new instance for each, so that no two callers share a traceback.
                future.set_exception(type(result)(result.detail))
            elif isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
