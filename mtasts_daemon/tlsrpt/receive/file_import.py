"""Importing files into the reports database, with progress and resumable."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import ReceivedReportDeferred, ReceivedReportError, ReceivedReportTooLarge
from .authentication import Authentication, AuthMethod
from .database import Job, ReportsDatabase, SqlConnection
from .files import FileItem, ImportUnit, find_units, items, load_progress, save_progress
from .intake import Intake
from .model import ReportSource
from .writes import Accepted

__all__ = ["FileImport", "ImportCounts"]

_AT_ONCE = 200
"""Reports that are written in one transaction. Parsing and writing take turns; otherwise each waits for the other."""

_PAGE = 500
"""Files whose progress is read together."""


@dataclass(slots=True)
class ImportCounts:
    """Results of the items so far. ``bytes`` of ``total_bytes`` are done."""

    files: int = 0
    skipped_files: int = 0
    new: int = 0
    revisions: int = 0
    duplicates: int = 0
    foreign: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    deferred: int = 0
    bytes: int = 0
    total_bytes: int = 0

    def add(self, accepted: Accepted) -> None:
        """Count an item that was committed."""
        self.new += bool(accepted.new)
        self.revisions += bool(accepted.revisions)
        self.duplicates += bool(accepted.duplicates and not accepted.new and not accepted.revisions)
        self.foreign += bool(accepted.foreign and not (accepted.new or accepted.revisions or accepted.duplicates))


class FileImport:
    """Imports files. ``trusted``: the operator vouches for them, so that they count without a signature."""

    def __init__(
        self,
        intake: Intake,
        database: ReportsDatabase,
        now: Callable[[], float],
        *,
        trusted: bool = False,
        progress: Callable[[ImportCounts], object] = lambda _counts: None,
    ) -> None:
        self.counts = ImportCounts()
        self._intake = intake
        self._database = database
        self._now = now
        self._progress = progress
        self._trusted = trusted
        detail = "imported from a file by the operator" if trusted else "imported from a file"
        self._waiting: list[tuple[Job[Accepted] | None, Job[None] | None]] = []
        self._verdict = Authentication(AuthMethod.LOCAL if trusted else AuthMethod.NONE, detail=detail)

    async def run(self, paths: Sequence[Path]) -> ImportCounts:
        """Import all files. Raises ``StoreError`` or ``OSError``; a later run resumes."""
        units = list(find_units(list(paths)))
        self.counts.total_bytes = sum(unit.size for unit in units)
        done = 0
        for at in range(0, len(units), _PAGE):
            page = units[at : at + _PAGE]
            for unit, start in zip(page, self._database.read(load_progress(page)), strict=True):
                if start >= unit.size > 0:
                    self.counts.skipped_files += 1
                else:
                    self.counts.files += 1
                    await self._file(unit, start, done)
                done += unit.size
                self.counts.bytes = done
                self._progress(self.counts)
        self._flush()
        return self.counts

    async def _file(self, unit: ImportUnit, start: int, done: int) -> None:
        position, saved = start, True
        for item in items(unit, start):
            position = item.end if unit.kind == "mbox" else unit.size
            # After a mail that must be tried again, nothing behind it may be recorded as read.
            saved = await self._item(item, save_progress(unit, position, self._now()) if saved else None) and saved
            self.counts.bytes = done + position
            self._progress(self.counts)
        if saved and position < unit.size:
            self._submit(None, save_progress(unit, unit.size, self._now()))

    async def _item(self, item: FileItem, save: Job[None] | None) -> bool:
        """Import one item and record the progress in the same transaction. False if it must be tried again."""
        job: Job[Accepted] | None = None
        try:
            if item.too_large:
                raise ReceivedReportTooLarge
            if not item.is_mail:
                job = self._intake.body_job(item.data, ReportSource.FILE, self._verdict, name=item.name)
            elif self._trusted:
                job = self._intake.mail_job(item.data, ReportSource.FILE, self._verdict)
            else:
                self.counts.add(await self._intake.take_mail(item.data, ReportSource.FILE))
        except ReceivedReportError as error:
            self.counts.rejected[error.slug] = self.counts.rejected.get(error.slug, 0) + 1
        except ReceivedReportDeferred:
            self.counts.deferred += 1
            return False
        self._submit(job, save)
        return True

    def _submit(self, job: Job[Accepted] | None, save: Job[None] | None) -> None:
        self._waiting.append((job, save))
        if len(self._waiting) >= _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        """Write what was parsed in one transaction. Raises ``StoreError``."""
        waiting, self._waiting = self._waiting, []

        def write(connection: SqlConnection) -> list[Accepted]:
            accepted = []
            for job, save in waiting:
                if job is not None:
                    accepted.append(job(connection))
                if save is not None:
                    save(connection)
            return accepted

        for accepted in self._database.write(write):
            self.counts.add(accepted)
