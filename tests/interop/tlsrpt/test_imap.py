"""Report mails in a mailbox of a real Dovecot, read over TLS by a real daemon."""

import imaplib
import os
import sqlite3
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mtasts_daemon.tlsrpt.receive.imap import quoted_mailbox
from tests.fakes.dns import FakeDns
from tests.interop.daemon import Daemon
from tests.interop.machine import Machine
from tests.interop.network import Network, Unavailable
from tests.interop.postfix import eventually
from tests.interop.prepare import IMAP_SERVER, ensure
from tests.interop.world import NAMESERVER, World
from tests.tlsrpt.receive import corpus
from tests.tlsrpt.receive.site import dated, txt

pytestmark = [pytest.mark.interop, pytest.mark.timeout(180, func_only=True)]

T = TypeVar("T")
HOST, USER, PASSWORD = "imap.example.com", "tls-reports@example.com", "geheim & mehr ü"
ADDRESS = "127.0.4.1"
MAILBOX = 'Prüfberichte & "mehr"'
_DOVECOT = """
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
protocols = imap
listen = 127.0.4.1
log_path = /var/log/dovecot.log
ssl = required
ssl_server_cert_file = /etc/dovecot/imap.pem
ssl_server_key_file = /etc/dovecot/imap.pem
first_valid_uid = 1
mail_uid = nobody
mail_gid = nogroup
mail_home = /srv/mail/%{user}
mail_driver = maildir
mail_path = ~/Maildir
namespace inbox {
  inbox = yes
  separator = /
}
passdb static {
  password = geheim & mehr ü
}
userdb static {
  fields {
    home = /srv/mail/%{user}
  }
}
"""
# It keeps the descriptors that it inherits.
_START = "dovecot >/var/log/start.log 2>&1 || { cat /var/log/start.log >&2; exit 1; }"


@dataclass
class Mailbox:
    """The mail server, its mailbox, and the daemon that polls it."""

    machine: Machine
    daemon: Daemon
    world: World
    folder: Path
    polls: Iterator[int] = field(default_factory=lambda: iter(range(61, 10**6)))
    settings: dict[str, Any] = field(default_factory=dict)

    def poll(self, **changes: Any) -> None:
        """Let the daemon poll at once: changed settings start its inputs again."""
        self.settings |= {"every": f"{next(self.polls)}s"} | changes
        lmtp = {"own_domains": ["example.com"], "imap": self.settings}
        self.daemon.reload(receive=lmtp)

    def session(self, act: Callable[[imaplib.IMAP4_SSL], T]) -> T:
        """What ``act`` returns, with the mailbox selected by the mailbox's owner."""

        def run() -> T:
            context = ssl.create_default_context(cafile=str(self.world.ca.pem))
            context.check_hostname = False
            with imaplib.IMAP4_SSL(ADDRESS, 993, ssl_context=context, timeout=20) as client:
                client.authenticate("PLAIN", lambda _: f"\0{USER}\0{PASSWORD}".encode())
                client.create(quoted_mailbox(MAILBOX))
                assert client.select(quoted_mailbox(MAILBOX))[0] == "OK"
                return act(client)

        return self.machine.network.call(run)

    def append(self, *messages: bytes) -> None:
        """Put mails into the mailbox."""

        def act(client: imaplib.IMAP4_SSL) -> None:
            for message in messages:
                assert client.append(quoted_mailbox(MAILBOX), None, None, message)[0] == "OK"

        self.session(act)

    def flags(self) -> list[str]:
        """The flags of the mails, as the server shows them."""
        found = self.session(lambda client: client.uid("FETCH", "1:*", "(FLAGS)")[1])
        return [line.decode() for line in found if isinstance(line, bytes)]

    def reports(self) -> list[tuple[str, str]]:
        """The stored reports: id and authentication."""
        with closing(sqlite3.connect(self.folder / "received.sqlite")) as connection:
            return connection.execute(
                "SELECT r.report_id, d.method FROM report r JOIN document d ON d.id = r.document ORDER BY r.id"
            ).fetchall()

    def comes_to_hold(self, *expected: str) -> None:
        """Wait until these reports are stored, each of them once."""
        eventually(lambda: sorted(name for name, _ in self.reports()) == sorted(expected), f"{expected} stored")


def report(name: str) -> bytes:
    return corpus.signed(corpus.mail(corpus.packed(corpus.report(**{"report-id": name, "date-range": dated(1)}))))


@pytest.fixture
def mailbox(tmp_path: Path) -> Iterator[Mailbox]:
    try:
        ensure(IMAP_SERVER)
        dns = FakeDns(address=NAMESERVER, port=53)
        with Network() as network, Machine(IMAP_SERVER, network) as machine, World(network, tmp_path, dns) as world:
            world.records("sel._domainkey.reporter.example", txt(corpus.key_record()))
            etc = machine.root / "etc/dovecot"
            (etc / "dovecot.conf").write_text(_DOVECOT)
            (etc / "imap.pem").write_bytes(world.ca.issue(HOST).read_bytes())
            machine.run("install", "-d", "-o", "nobody", "-g", "nogroup", "/srv/mail")
            machine.run("sh", "-c", _START)
            password = tmp_path / "password"
            password.write_text(f"{PASSWORD}\n")
            password.chmod(0o600)
            hosts = {"hosts": f"127.0.0.1 localhost\n{ADDRESS} {HOST}\n"}
            with Daemon(world, tmp_path, {}, etc=hosts) as daemon:
                settings = {"user": USER, "password_file": str(password), "mailbox": MAILBOX, "server": f"{HOST}:993"}
                made = Mailbox(machine, daemon, world, tmp_path, settings=settings)
                made.append()
                yield made
    except Unavailable as error:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"no machine with Dovecot: {error}")


def test_reports_are_taken_once_and_stay_unread(mailbox: Mailbox) -> None:
    mailbox.append(report("one"), report("two"))
    mailbox.poll()
    mailbox.comes_to_hold("one", "two")
    assert {method for _, method in mailbox.reports()} == {"dkim"}
    mailbox.append(report("three"))
    mailbox.poll()
    mailbox.comes_to_hold("one", "two", "three")
    assert len(mailbox.flags()) == 3
    assert not any("\\Seen" in line or "\\Deleted" in line for line in mailbox.flags())
    assert PASSWORD not in mailbox.daemon.log


def test_reports_that_came_while_the_server_was_down_are_taken(mailbox: Mailbox) -> None:
    mailbox.append(report("one"))
    mailbox.poll()
    mailbox.comes_to_hold("one")
    mailbox.append(report("two"))
    mailbox.machine.run("doveadm", "stop")
    mailbox.poll()
    mailbox.daemon.logs("tlsrpt-imap-poll-failed")
    mailbox.machine.run("sh", "-c", _START)
    mailbox.poll()
    mailbox.comes_to_hold("one", "two")


def test_mailbox_that_was_made_again_is_read_from_its_beginning(mailbox: Mailbox) -> None:
    mailbox.append(report("one"), report("two"))
    mailbox.poll()
    mailbox.comes_to_hold("one", "two")

    def again(client: imaplib.IMAP4_SSL) -> None:
        client.close()
        assert client.delete(quoted_mailbox(MAILBOX))[0] == "OK"

    mailbox.session(again)
    mailbox.append(report("two"), report("three"))
    mailbox.poll()
    mailbox.comes_to_hold("one", "two", "three")


def test_hostile_and_expunged_mails_do_not_stop_the_poll(mailbox: Mailbox) -> None:
    huge = b"Subject: huge\r\n\r\n" + (b"x" * 998 + b"\r\n") * 11_000
    rubbish = [b"\x00" * 64 + b"\r\n", b"Subject: {9999999}\r\n\r\n* 1 FETCH (UID 1)\r\n)\r\n", b"\r\n"]
    bomb = corpus.signed(corpus.mail(corpus.packed({"x": "0" * (21 << 20)})))
    mailbox.append(report("before"), huge, *rubbish, bomb, report("removed"), report("after"))

    def expunge(client: imaplib.IMAP4_SSL) -> None:
        uid = client.uid("SEARCH", "UID 7")[1][0].decode()
        client.uid("STORE", uid, "+FLAGS", "(\\Deleted)")
        client.expunge()

    mailbox.session(expunge)
    mailbox.poll()
    mailbox.comes_to_hold("before", "after")
    mailbox.daemon.logs("report-too-large")


def test_server_that_is_not_trusted_gets_no_password(mailbox: Mailbox) -> None:
    mailbox.append(report("one"))
    mailbox.poll(server=f"{ADDRESS}:993")
    mailbox.daemon.logs("CERTIFICATE_VERIFY_FAILED")
    log = mailbox.machine.root / "var/log/dovecot.log"
    assert "Logged in" not in log.read_text().rpartition("tlsv1 alert")[0].rpartition("Disconnected")[2]
    assert mailbox.reports() == []


def test_wrong_password_is_logged_without_the_password(mailbox: Mailbox) -> None:
    wrong = mailbox.folder / "wrong"
    wrong.write_text("not the one\n")
    wrong.chmod(0o600)
    mailbox.poll(password_file=str(wrong))
    mailbox.daemon.logs("AUTHENTICATIONFAILED")
    assert "not the one" not in mailbox.daemon.log
