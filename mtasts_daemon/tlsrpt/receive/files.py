"""Reports from files: mbox, Maildir, .json, .json.gz, .eml and directories of them.

Reading is resumable: a file is recorded as read, by path, size and time of change, after all its reports were
committed; for an mbox, the position of the first mail that was not committed is recorded.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .database import Job, SqlConnection
from .model import DEFAULT_LIMITS

__all__ = ["FileItem", "ImportUnit", "find_units", "items", "load_progress", "save_progress"]

_MAIL_SUFFIXES = (".eml", ".msg", ".mail")
_REPORT_SUFFIXES = (".json", ".gz", ".zip")
_MBOX_START = re.compile(rb"From [^\r\n]+ [^\r\n]*\r?\n\Z")


@dataclass(frozen=True, slots=True)
class ImportUnit:
    """A file to import. ``kind`` is report, mail or mbox.

    ``identity`` changes when the file does; that of an mbox does not when mails are appended.
    """

    path: Path
    kind: str
    size: int
    identity: str

    @property
    def source(self) -> str:
        """The key of its progress; ``path`` is absolute."""
        return f"file:{self.path}"


@dataclass(frozen=True, slots=True)
class FileItem:
    """One report or mail; ``end`` is the position behind it. ``too_large`` items have no data."""

    data: bytes
    end: int
    is_mail: bool
    name: str = ""
    too_large: bool = False


def find_units(paths: Iterator[Path] | list[Path]) -> Iterator[ImportUnit]:
    """Yield the files below the paths, in order of name. Raises ``OSError`` if a named path is missing.

    A directory with ``cur`` and ``new`` is a Maildir. Hidden files, links to directories and files of unknown kinds
    in directories are skipped; a named file of unknown kind is examined.
    """
    for named in paths:
        path = named.resolve()
        if path.is_dir():
            yield from _in_directory(path)
        else:
            yield _unit(path, named=True) or _made(path, "mail")


def _in_directory(path: Path) -> Iterator[ImportUnit]:
    maildir = (path / "cur").is_dir() and (path / "new").is_dir()
    for walked, folders, names in os.walk(path):
        folder = Path(walked)
        folders[:] = sorted(name for name in folders if not name.startswith(".") or maildir)
        in_maildir = folder.name in ("cur", "new") and (folder.parent / "tmp").is_dir()
        if folder.name == "tmp" and maildir:
            continue
        for name in sorted(names):
            if name.startswith("."):
                continue
            file = folder / name
            unit = _made(file, "mail") if in_maildir else _unit(file)
            if unit is not None:
                yield unit


def _made(path: Path, kind: str, first: bytes = b"") -> ImportUnit:
    found = path.stat()
    # The first line of an mbox has the sender and the time of its first mail.
    identity = hashlib.sha256(first).hexdigest()[:32] if kind == "mbox" else f"{found.st_size}:{found.st_mtime_ns}"
    return ImportUnit(path, kind, found.st_size, identity)


def _unit(path: Path, *, named: bool = False) -> ImportUnit | None:
    suffix = path.suffix.lower()
    kind = "report" if suffix in _REPORT_SUFFIXES else "mail" if suffix in _MAIL_SUFFIXES else ""
    first = b""
    if not kind and (named or suffix in ("", ".mbox")):
        with path.open("rb") as file:
            first = file.readline(1000)
        if _MBOX_START.match(first):
            kind = "mbox"
        elif named and first.lstrip()[:1] == b"{":
            kind = "report"
    return _made(path, kind, first) if kind else None


def items(unit: ImportUnit, start: int = 0) -> Iterator[FileItem]:
    """Yield the reports or mails of the file from the position ``start`` on. Raises ``OSError``."""
    if unit.kind == "mbox":
        yield from _mbox_items(unit.path, start)
        return
    is_mail = unit.kind == "mail"
    limit = DEFAULT_LIMITS.mail if is_mail else DEFAULT_LIMITS.unpacked
    with unit.path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        yield FileItem(b"", unit.size, is_mail, unit.path.name, too_large=True)
    else:
        yield FileItem(data, unit.size, is_mail, unit.path.name)


def _mbox_items(path: Path, start: int) -> Iterator[FileItem]:
    """Split at lines that begin with ``From`` after an empty line; ``>From`` is restored (mboxrd)."""
    with path.open("rb") as file:
        file.seek(start)
        held: list[bytes] = []
        size, empty_before, position = 0, True, start
        while True:
            line = file.readline(1 << 20)
            if not line or (empty_before and _MBOX_START.match(line)):
                if held or size > DEFAULT_LIMITS.mail:
                    large = size > DEFAULT_LIMITS.mail
                    yield FileItem(b"" if large else b"".join(held), position, True, too_large=large)
                held, size, empty_before = [], 0, False
                position += len(line)
                if not line:
                    return
                continue
            empty_before = line in (b"\n", b"\r\n")
            position += len(line)
            size += len(line)
            if size <= DEFAULT_LIMITS.mail:
                held.append(line[1:] if re.match(rb">+From ", line) else line)
            else:
                held = []


def load_progress(units: Sequence[ImportUnit]) -> Job[list[int]]:
    """Return how far each file has been read: 0 if not at all, or if it was changed before that position."""

    def job(connection: SqlConnection) -> list[int]:
        return [_position(connection, unit) for unit in units]

    return job


def _position(connection: SqlConnection, unit: ImportUnit) -> int:
    row = connection.execute("SELECT state FROM progress WHERE source = ?", (unit.source,)).fetchone()
    if row is None:
        return 0
    identity, _, position = row[0].rpartition("@")
    # An mbox that was emptied may have grown beyond the position since.
    return int(position) if identity == unit.identity and int(position) <= unit.size else 0


def save_progress(unit: ImportUnit, position: int, now: float) -> Job[None]:
    """Record how far the file has been read."""

    def job(connection: SqlConnection) -> None:
        connection.execute(
            "INSERT INTO progress (source, state, seen_at) VALUES (?, ?, ?)"
            " ON CONFLICT (source) DO UPDATE SET state = excluded.state, seen_at = excluded.seen_at",
            (unit.source, f"{unit.identity}@{position}", int(now)),
        )

    return job
