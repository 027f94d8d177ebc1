"""Polling a mailbox: by UID, resumable, not blocked by one mail."""

import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mtasts_daemon.errors import DnsTimeout, StoreError
from mtasts_daemon.tlsrpt.receive import intake as intake_module
from mtasts_daemon.tlsrpt.receive.imap import ImapAccount, ImapPoller, quoted_mailbox
from mtasts_daemon.tlsrpt.receive.intake import Intake, IntakeSettings
from mtasts_daemon.tlsrpt.receive.sqlite_backend import open_sqlite
from tests.fakes.ca import Ca
from tests.fakes.imap import FakeImap

from .corpus import NOW, key_record, mail, packed, report, signed


class Polling:
    def __init__(self, server: FakeImap, ca: Ca, path: Path) -> None:
        self.server = server
        self.now = NOW
        self.key: bytes | None = key_record()
        self.password = "secret"
        self.database = open_sqlite(str(path), lambda: NOW, lambda problem: None)
        self._ca = ca

    async def poll(self) -> Any:
        async def lookup(name: str) -> Sequence[bytes]:
            if self.key is None:
                raise DnsTimeout
            return (self.key,)

        account = ImapAccount(
            "localhost", self.server.port, "reports", "INBOX", lambda: self.password, 60.0, self.context
        )
        intake = Intake(self.database, IntakeSettings(frozenset({"example.com"})), lookup, lambda: self.now)
        poller = ImapPoller(account, intake, self.database, lambda: self.now)
        while await poller.poll():
            pass
        return poller.counters

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self._ca.pem))

    def reports(self) -> list[tuple[str, int]]:
        def job(connection: Any) -> list[tuple[str, int]]:
            rows = connection.execute("SELECT report_id, trusted FROM report ORDER BY id").fetchall()
            return [tuple(row) for row in rows]

        return self.database.read(job)


def of(name: str) -> bytes:
    return signed(mail(packed(report(**{"report-id": name}))))


@pytest.fixture
def polling(tmp_path: Path, ca: Ca) -> Iterator[Polling]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca.issue("localhost"))
    with FakeImap(context) as server:
        made = Polling(server, ca, tmp_path / "received.sqlite")
        yield made
        made.database.close()


async def test_new_mails_are_taken_once(polling: Polling) -> None:
    polling.server.mails = {3: of("three"), 5: of("five")}
    await polling.poll()
    polling.server.mails[9] = of("nine")
    await polling.poll()
    assert polling.reports() == [("three", 1), ("five", 1), ("nine", 1)]
    assert polling.server.fetched == [3, 5, 9]


async def test_another_validity_begins_again_and_counts_nothing_twice(polling: Polling) -> None:
    polling.server.mails = {3: of("three")}
    await polling.poll()
    polling.server.validity = 8
    polling.server.mails = {1: of("three"), 2: of("new")}
    await polling.poll()
    assert polling.reports() == [("three", 1), ("new", 1)]


async def test_mail_whose_key_is_unavailable_is_tried_again_and_others_do_not_wait(polling: Polling) -> None:
    polling.server.mails = {1: of("one"), 2: mail(packed(report(**{"report-id": "two"})))}
    polling.key = None
    await polling.poll()
    assert polling.reports() == [("two", 0)]
    polling.key = key_record()
    await polling.poll()
    assert polling.reports() == [("two", 0), ("one", 1)]


async def test_mail_whose_key_stays_unavailable_is_taken_after_a_day(polling: Polling) -> None:
    polling.server.mails = {1: of("one")}
    polling.key = None
    await polling.poll()
    polling.now = NOW + 90_000
    await polling.poll()
    assert polling.reports() == [("one", 0)]
    await polling.poll()
    assert polling.server.fetched == [1, 1]


async def test_mail_that_shows_a_bug_does_not_stop_the_others(
    polling: Polling, monkeypatch: pytest.MonkeyPatch
) -> None:
    polling.server.mails = {1: of("one"), 2: of("two")}
    read = intake_module.read_mail

    def broken(message: bytes, *args: Any, **more: Any) -> Any:
        if message == polling.server.mails[1]:
            raise ZeroDivisionError
        return read(message, *args, **more)

    monkeypatch.setattr(intake_module, "read_mail", broken)
    await polling.poll()
    assert polling.reports() == [("two", 1)]
    polling.now = NOW + 90_000
    await polling.poll()
    await polling.poll()
    assert polling.server.fetched == [1, 2, 1]


async def test_other_mails_and_huge_ones_are_passed_over(polling: Polling) -> None:
    polling.server.mails = {1: b"Subject: hi\r\n\r\nhello\r\n", 2: b"x" * (11 << 20), 3: of("three")}
    await polling.poll()
    assert polling.reports() == [("three", 1)]
    assert polling.server.fetched == [1, 3]


async def test_wrong_password_and_unknown_authority_raise(polling: Polling, tmp_path: Path) -> None:
    polling.password = "wrong"
    with pytest.raises(Exception, match="wrong password"):
        await polling.poll()
    polling.context = ssl.create_default_context  # type: ignore[method-assign]
    with pytest.raises(ssl.SSLCertVerificationError):
        await polling.poll()


async def test_database_failure_keeps_the_mail_for_the_next_poll(
    polling: Polling, monkeypatch: pytest.MonkeyPatch
) -> None:
    polling.server.mails = {1: of("one")}
    submit = polling.database.submit

    def failing(_job: Any) -> Any:
        raise StoreError("the disk is full")

    monkeypatch.setattr(polling.database, "submit", failing)
    with pytest.raises(StoreError):
        await polling.poll()
    monkeypatch.setattr(polling.database, "submit", submit)
    await polling.poll()
    assert polling.reports() == [("one", 1)]


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("INBOX", '"INBOX"'),
        ("TLS reports", '"TLS reports"'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("R&D", '"R&-D"'),
        ("Prüfberichte", '"Pr&APw-fberichte"'),
        # The examples of RFC 3501 section 5.1.3.
        ("~peter/mail/台北/日本語", '"~peter/mail/&U,BTFw-/&ZeVnLIqe-"'),
        ("a\r\nb", '"a&AA0ACg-b"'),
    ],
)
def test_mailbox_name_is_sent_in_modified_utf7(name: str, sent: str) -> None:
    assert quoted_mailbox(name) == sent
