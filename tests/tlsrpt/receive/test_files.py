"""Importing files: every kind, resuming, limits."""

import mailbox
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mtasts_daemon.errors import StoreError
from mtasts_daemon.tlsrpt.receive.database import ReportsDatabase
from mtasts_daemon.tlsrpt.receive.file_import import FileImport, ImportCounts
from mtasts_daemon.tlsrpt.receive.intake import Intake, IntakeSettings
from mtasts_daemon.tlsrpt.receive.sqlite_backend import open_sqlite

from .corpus import FILE_NAME, NOW, dumps, key_record, mail, packed, report, signed, zipped


class Importing:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.database: ReportsDatabase = open_sqlite(str(path), lambda: NOW, lambda problem: None)

    async def run(self, *paths: Path, trusted: bool = True) -> ImportCounts:
        async def lookup(name: str) -> Sequence[bytes]:
            return (key_record(),) if name == "sel._domainkey.reporter.example" else ()

        intake = Intake(self.database, IntakeSettings(frozenset({"example.com"})), lookup, lambda: NOW)
        return await FileImport(intake, self.database, lambda: NOW, trusted=trusted).run(paths)

    def ids(self) -> list[str]:
        def job(connection: Any) -> list[str]:
            rows = connection.execute("SELECT report_id FROM report ORDER BY report_id").fetchall()
            return [row[0] for row in rows]

        return self.database.read(job)


@pytest.fixture
def importing(tmp_path: Path) -> Importing:
    return Importing(tmp_path / "received.sqlite")


def content(name: str) -> dict[str, Any]:
    return report(**{"report-id": name})


async def test_directory_of_all_kinds_is_imported(importing: Importing, tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    (folder / "below").mkdir(parents=True)
    (folder / "a.json").write_bytes(dumps(content("json")))
    (folder / "b.json.gz").write_bytes(packed(content("gz")))
    (folder / "below" / "c.zip").write_bytes(zipped(dumps(content("zip"))))
    (folder / FILE_NAME).write_bytes(packed(report(**{"report-id": "named", "date-range": ...})))
    (folder / "d.eml").write_bytes(mail(packed(content("eml"))))
    (folder / "notes.txt").write_text("not a report")
    (folder / ".hidden.json").write_bytes(dumps(content("hidden")))
    counts = await importing.run(folder)
    assert (counts.new, counts.rejected) == (5, {})
    assert importing.ids() == ["eml", "gz", "json", "named", "zip"]


async def test_mbox_is_imported_and_resumed_where_it_grew(importing: Importing, tmp_path: Path) -> None:
    path = tmp_path / "mail.mbox"

    def append(*names: str) -> None:
        box = mailbox.mbox(path)
        for name in names:
            box.add(mail(packed(content(name))))
        box.flush()
        box.close()

    append("1", "2", "3")
    assert (await importing.run(path)).new == 3
    assert (await importing.run(path)).skipped_files == 1
    append("4")
    counts = await importing.run(path)
    assert (counts.new, counts.duplicates) == (1, 0)
    assert importing.ids() == ["1", "2", "3", "4"]


async def test_mbox_that_was_emptied_and_grew_beyond_is_read_from_its_start(
    importing: Importing, tmp_path: Path
) -> None:
    path = tmp_path / "mail.mbox"

    def written(day: int, *names: str) -> bytes:
        start = f"From reporter@example Sun Nov {day} 10:00:00 2026\n".encode()
        return b"".join(start + mail(packed(content(name))) + b"\n" for name in names)

    path.write_bytes(written(1, "1", "2"))
    assert (await importing.run(path)).new == 2
    path.write_bytes(written(8, "3", "4", "5"))
    assert (await importing.run(path)).new == 3
    assert importing.ids() == ["1", "2", "3", "4", "5"]


async def test_maildir_is_imported_once(importing: Importing, tmp_path: Path) -> None:
    box = mailbox.Maildir(tmp_path / "Maildir")
    for name in ("1", "2"):
        box.add(mail(packed(content(name))))
    box.add(b"Subject: hello\n\nno report\n")
    counts = await importing.run(tmp_path / "Maildir")
    assert (counts.new, counts.rejected) == (2, {"report-missing": 1})
    assert (await importing.run(tmp_path / "Maildir")).skipped_files == 3


async def test_signatures_decide_unless_the_operator_vouches(importing: Importing, tmp_path: Path) -> None:
    (tmp_path / "signed.eml").write_bytes(signed(mail(packed(content("signed")))))
    (tmp_path / "unsigned.eml").write_bytes(mail(packed(content("unsigned"))))
    await importing.run(tmp_path / "signed.eml", tmp_path / "unsigned.eml", trusted=False)

    def job(connection: Any) -> list[Any]:
        return [tuple(row) for row in connection.execute("SELECT report_id, trusted FROM report ORDER BY 1").fetchall()]

    assert importing.database.read(job) == [("signed", 1), ("unsigned", 0)]


async def test_named_file_of_no_kind_is_rejected_with_a_reason(importing: Importing, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"\x00" * 100)
    assert (await importing.run(tmp_path / "x.bin")).rejected == {"report-missing": 1}


async def test_missing_file_is_an_error(importing: Importing, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        await importing.run(tmp_path / "missing.json")


async def test_interrupted_import_resumes_and_counts_nothing_twice(tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    folder.mkdir()
    for number in range(400):
        (folder / f"{number:03}.json").write_bytes(dumps(content(f"{number:03}")))
    importing = Importing(tmp_path / "received.sqlite")
    seen = 0

    def fail_once(counts: ImportCounts) -> None:
        nonlocal seen
        seen += 1
        if seen == 500:
            raise StoreError("the disk is full")

    async def nothing(_name: str) -> Sequence[bytes]:
        return ()

    async def take() -> None:
        intake = Intake(importing.database, IntakeSettings(frozenset({"example.com"})), nothing, lambda: NOW)
        await FileImport(intake, importing.database, lambda: NOW, trusted=True, progress=fail_once).run([folder])

    with pytest.raises(StoreError):
        await take()
    counts = await importing.run(folder)
    assert counts.skipped_files + counts.new + counts.duplicates == 400
    assert counts.skipped_files > 0
    assert importing.ids() == [f"{number:03}" for number in range(400)]
