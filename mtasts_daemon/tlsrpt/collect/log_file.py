"""Read the lines of a mail log, and store the position, so that no line is counted twice.

A file is identified by its first bytes, which do not change when it grows, is renamed or copied. The position is stored
in the same transaction as the results of its lines.
"""

import os
import select
import sqlite3
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from ..database.connection import TlsrptDatabase
from ..model.mail_log import MAX_LINE

__all__ = ["LogFile", "Mark", "find_mark", "save_mark"]

_CHUNK = 64 * 1024
_PAUSE = 0.5
"""Seconds between reads of a followed file that has not grown."""

_HEAD = 1024
"""Bytes that identify a file; a shorter file is identified by all its bytes."""

_RECALLED = 256 * 1024
_KEPT_FOR = 400 * 86400.0
"""Seconds that a mark is kept; days are kept for at most 366 days."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Position up to which a file has been read, in bytes. ``digest`` covers its first ``length`` bytes."""

    path: str
    length: int
    digest: str
    offset: int


class LogFile:
    """Open file, or standard input; only files have marks. A context manager. Methods raise ``OSError``."""

    def __init__(self, path: Path | None) -> None:
        self.name = "" if path is None else str(path.absolute())
        self._path = path
        self._fd = 0 if path is None else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        # A pipe cannot be resumed.
        self._is_file = path is not None and stat.S_ISREG(os.fstat(self._fd).st_mode)
        self._rest = b""
        """Incomplete last line, truncated."""
        self._read = self._whole = 0
        """Bytes read, and bytes in complete lines."""
        self._idle = False
        """True if the last read found nothing, but more may come."""

    def __enter__(self) -> "LogFile":
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._path is not None:
            os.close(self._fd)

    # -- where to begin ------------------------------------------------------------------------------------

    def mark(self) -> Mark | None:
        """Return the current position, or None if the input cannot be resumed."""
        if not self._is_file or not self._whole:
            return None
        length = min(_HEAD, self._whole)
        return Mark(self.name, length, _digest(os.pread(self._fd, length, 0)), self._whole)

    def begins_as(self, mark: Mark) -> bool:
        """Return True if the mark belongs to this file."""
        if not self._is_file:
            return False
        head, size = os.pread(self._fd, mark.length, 0), os.fstat(self._fd).st_size
        return len(head) == mark.length and _digest(head) == mark.digest and mark.offset <= size

    def begin_at(self, mark: Mark) -> list[str]:
        """Seek to the mark. Return the last lines before it, because their sessions may end after it."""
        begin = max(0, mark.offset - _RECALLED)
        self._read = self._whole = mark.offset
        os.lseek(self._fd, mark.offset, os.SEEK_SET)
        return _lines(os.pread(self._fd, mark.offset - begin, begin).split(b"\n"))

    def begin_at_end(self) -> None:
        """Skip the existing content."""
        if self._is_file:
            self._read = self._whole = os.lseek(self._fd, 0, os.SEEK_END)

    # -- reading -------------------------------------------------------------------------------------------

    def batches(self, *, follow: bool) -> Iterator[list[str]]:
        """Yield lines in batches; yield an empty batch after a second without input. Long lines are truncated.

        With ``follow`` the iteration does not end, and after a rotation it continues with the new file.
        """
        while True:
            octets = self._more()
            yield self._completed(octets)
            if octets or self._idle:
                continue
            if not follow or self._path is None:
                # An incomplete line of a file may be completed later; it is left for the next run.
                if not self._is_file:
                    yield self._last()
                return
            if self._rotated():
                yield self._last()
                self._reopen(self._path)
            else:
                time.sleep(_PAUSE)

    def _more(self) -> bytes:
        # A silent pipe must not delay the commit of what was read.
        self._idle = not select.select([self._fd], [], [], 1.0)[0]
        octets = b"" if self._idle else os.read(self._fd, _CHUNK)
        self._read += len(octets)
        return octets

    def _completed(self, octets: bytes) -> list[str]:
        """Return the lines that ``octets`` complete."""
        *whole, rest = (self._rest + octets).split(b"\n")
        if whole:
            self._whole = self._read - len(rest)
        self._rest = rest[: MAX_LINE * 4]
        return _lines(whole)

    def _last(self) -> list[str]:
        """Return the incomplete last line of a file that will not grow."""
        rest, self._rest, self._whole = self._rest, b"", self._read
        return _lines([rest])

    def _rotated(self) -> bool:
        """Return True if the name now belongs to another file, or if the file was truncated."""
        assert self._path is not None
        mine = os.fstat(self._fd)
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return False  # the new file does not exist yet
        return (named.st_dev, named.st_ino) != (mine.st_dev, mine.st_ino) or named.st_size < self._read

    def _reopen(self, path: Path) -> None:
        os.close(self._fd)
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._is_file = stat.S_ISREG(os.fstat(self._fd).st_mode)
        self._read = self._whole = 0


def _lines(octets: list[bytes]) -> list[str]:
    return [line.decode("utf-8", "replace") for line in octets if line]


def _digest(head: bytes) -> str:
    return blake2b(head, digest_size=16).hexdigest()


# -- stored marks ------------------------------------------------------------------------------------------

_FIND = "SELECT path, length, digest, position FROM log_mark ORDER BY length DESC, seen_at DESC"
_SAVE = "INSERT OR REPLACE INTO log_mark (length, digest, path, position, seen_at) VALUES (?, ?, ?, ?, ?)"
_TIDY = "DELETE FROM log_mark WHERE seen_at < ?"


async def find_mark(database: TlsrptDatabase, file: LogFile) -> tuple[Mark | None, bool]:
    """Return the mark of the file or None, and True if a different file was read under this name before."""
    rows = await database.read(lambda connection: connection.execute(_FIND).fetchall())
    marks = [Mark(*row) for row in rows]
    found = next((mark for mark in marks if file.begins_as(mark)), None)
    return found, found is None and any(mark.path == file.name for mark in marks)


def save_mark(mark: Mark, now: float, connection: sqlite3.Connection) -> None:
    """Store the mark in the open transaction."""
    connection.execute(_SAVE, (mark.length, mark.digest, mark.path, mark.offset, now))
    connection.execute(_TIDY, (now - _KEPT_FOR,))
