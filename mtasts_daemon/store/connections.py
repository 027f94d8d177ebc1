"""The two connections of a database, and how they are opened, recovered and closed. Runs on the database's threads."""

import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from ..errors import StoreDamaged, StoreError, StoreSchemaNewer
from .lock import StoreLock
from .sqlite_file import MEMORY, DatabaseFile, Schema, open_reading, open_writing, set_aside

__all__ = ["Connections", "Fallback"]

_LOCK_EVERY = 0.1
"""Seconds between tries to take the lock."""


class Fallback(Protocol):
    """How to go on in memory while the file cannot be written."""

    def load(self, path: str, memory: sqlite3.Connection) -> int:
        """Copy what can be read of the file into memory. Return the number of rows; raises ``StoreError``."""

    def write_back(self, memory: sqlite3.Connection, file: sqlite3.Connection) -> int:
        """Copy rows that are newer than the file's into it. Return the number of rows; raises ``sqlite3.Error``."""


class Connections:
    """The connections of the file ``path``. Both are the same one if the database is in memory."""

    def __init__(
        self, path: str, schema: Schema, *, lock_seconds: float | None, keep_damaged: bool, fallback: Fallback | None
    ) -> None:
        self.writing: sqlite3.Connection | None = None
        self.reading: sqlite3.Connection | None = None
        self.memory_reason: StoreError | None = None
        """Why the database is in memory instead of its file; None if it is not."""
        self.generation = 0
        """Incremented at every reopen."""
        self._path = path
        self._schema = schema
        self._lock_seconds = lock_seconds
        self._keep_damaged = keep_damaged
        self._fallback = fallback
        self._lock = StoreLock()
        self._place: DatabaseFile | None = None

    def is_lost(self) -> bool:
        """Return True if the file was deleted or replaced. Callable from any thread; raises ``StoreError``."""
        return self._place is not None and self._place.is_lost()

    def open_read_only(self) -> Sequence[StoreError]:
        """Open for reading only."""
        self.reading = open_reading(self._path, self._schema, one_thread=False)
        return ()

    def open(self, now: float) -> Sequence[StoreError]:
        """Open the file, or go on in memory if there is a fallback. Return the problems found."""
        if self._path == MEMORY:
            self._open_memory()
            return ()
        try:
            return self._open_file(now)
        except StoreError as error:
            self._lock.release()
            if self._fallback is None:
                raise
            memory = self._open_memory()
            self.memory_reason = error
            loaded = 0
            # A newer version's file is not read: its rows may mean something else.
            if not isinstance(error, StoreSchemaNewer):
                with suppress(StoreError):
                    loaded = self._fallback.load(self._path, memory)
            return (type(error)(f"{error.detail}; kept in memory, with {loaded} entries read from the file"),)

    def _open_memory(self) -> sqlite3.Connection:
        self._place = None
        self.reading = self.writing = open_writing(MEMORY, self._schema, one_thread=False)
        return self.writing

    def _open_file(self, now: float) -> Sequence[StoreError]:
        """Open both connections or none. Return the problems found."""
        problems: list[StoreError] = []
        self._take_lock()
        try:
            writing = open_writing(self._path, self._schema, one_thread=False)
        except StoreDamaged as damage:
            if self._keep_damaged:
                raise
            aside = set_aside(self._path, now)
            problems.append(StoreDamaged(f"{damage.detail}; set aside as {aside.name!a}"))
            writing = open_writing(self._path, self._schema, one_thread=False)
        try:
            reading = open_reading(self._path, self._schema, one_thread=False)
            self._place = DatabaseFile(self._path)
        except StoreError:
            writing.close()
            raise
        self.writing, self.reading = writing, reading
        return tuple(problems)

    def _take_lock(self) -> None:
        if self._lock_seconds is None:
            return
        deadline = time.monotonic() + self._lock_seconds
        while not self._lock.take(self._path):
            if time.monotonic() >= deadline:
                raise StoreError("another process writes it")
            time.sleep(_LOCK_EVERY)

    def recover(self, now: float) -> Sequence[StoreError]:
        """Reopen the file if it was deleted or replaced, or can be written again. Return the problems found.

        What was in a deleted file is lost. Raises ``StoreError`` if the file cannot be opened and there is no fallback;
        the next call tries again.
        """
        if self.memory_reason is not None:
            return self._leave_memory(now)
        if self.reading is not None and not self.is_lost():
            return ()
        self.generation += 1
        old_logs = () if self._place is None else self._place.old_logs()
        self.close()
        for path in old_logs:
            with suppress(OSError):
                path.unlink()
        return (StoreError("it was deleted or replaced"), *self.open(now))

    def _leave_memory(self, now: float) -> Sequence[StoreError]:
        memory, fallback = self.writing, self._fallback
        if memory is None or fallback is None:
            return ()
        try:
            problems = self._open_file(now)
        except StoreError as error:
            self._lock.release()
            self.memory_reason = error
            return ()
        self.generation += 1
        self.memory_reason = None
        try:
            written = fallback.write_back(memory, self.writing or memory)
        except sqlite3.Error as error:
            return (StoreError(f"it can be written again, but not what memory holds: {error}"), *problems)
        finally:
            memory.close()
        return (StoreError(f"it can be written again; {written} newer entries were copied from memory"), *problems)

    def close(self) -> None:
        """Close the connections and release the lock."""
        # The last connection to close moves the log into the file and removes it.
        if self.reading is not None:
            self.reading.close()
        if self.writing is not None and self.writing is not self.reading:
            self.writing.close()
        self.reading = self.writing = self._place = None
        self._lock.release()
