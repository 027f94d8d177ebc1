"""A real daemon that receives reports, and functions to send them."""

import smtplib
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from tests.fakes.admin import Admin
from tests.fakes.process import Internet, Process

from . import corpus

__all__ = ["ReceivingSite", "dated", "deliver", "receiving_site", "sent_without_reading_the_reply", "soon", "txt"]

T = TypeVar("T")


def txt(record: bytes) -> str:
    """Return the record as zone text: strings of at most 255 bytes."""
    parts = [record[at : at + 250].decode() for at in range(0, len(record), 250)]
    return "TXT " + " ".join(f'"{part}"' for part in parts)


def deliver(path: Path, message: bytes, recipients: int = 1) -> dict[str, tuple[int, bytes]]:
    """Submit one mail by LMTP. Return the refused recipients with their replies."""
    with smtplib.LMTP(str(path), 0, local_hostname="mx.example.com") as client:
        names = [f"tlsrpt{number}@example.com" for number in range(recipients)]
        try:
            return client.sendmail("sender@reporter.example", names, message)
        except smtplib.SMTPRecipientsRefused as error:
            return dict(error.recipients)
        except smtplib.SMTPDataError as error:
            return {"": (error.smtp_code, error.smtp_error if isinstance(error.smtp_error, bytes) else b"")}


@contextmanager
def sent_without_reading_the_reply(path: Path, message: bytes) -> Iterator[None]:
    """Hand over all of one mail by LMTP; at the end close the connection without having read the reply."""
    with closing(smtplib.LMTP(str(path), 0, local_hostname="mx.example.com")) as client:
        client.ehlo_or_helo_if_needed()
        client.mail("sender@reporter.example")
        client.rcpt("tlsrpt@example.com")
        assert client.docmd("DATA")[0] == 354
        client.send(message.replace(b"\r\n.", b"\r\n..") + b"\r\n.\r\n")
        yield


def dated(days_ago: int) -> dict[str, str]:
    """Return the date-range of a whole UTC day before today."""
    day = (datetime.now(UTC) - timedelta(days=days_ago)).strftime("%Y-%m-%d")
    return {"start-datetime": f"{day}T00:00:00Z", "end-datetime": f"{day}T23:59:59Z"}


@dataclass
class ReceivingSite:
    """The daemon, DNS and the LMTP socket."""

    internet: Internet
    daemon: Process
    lmtp: Path
    database: Path

    def send(self, content: Any, **mail: Any) -> dict[str, tuple[int, bytes]]:
        """Send a signed report mail."""
        return deliver(self.lmtp, corpus.signed(corpus.mail(corpus.packed(content), **mail)))

    def api(self) -> Admin:
        """GET from the admin API on the Unix socket."""
        return Admin(str(self.daemon.settings["admin"]["socket"]))

    def wait_for_api(self) -> Admin:
        """GET as soon as it answers."""
        self.daemon.logged("admin-listening")
        return self.api()


@contextmanager
def receiving_site(folder: Path, **settings: Any) -> Iterator[ReceivingSite]:
    """Start a daemon that receives by LMTP; reporter.example signs its reports."""
    lmtp = folder / "lmtp.sock"
    with Internet(folder / "internet") as internet:
        internet.records("sel._domainkey.reporter.example", txt(corpus.key_record()))
        receive = {"own_domains": ["example.com"], "lmtp_socket": str(lmtp)} | settings.pop("receive", {})
        admin = {"socket": str(folder / "admin.sock")}
        with Process(folder / "daemon", internet, {"receive": receive, "admin": admin} | settings) as daemon:
            daemon.logged("tlsrpt-receiver-listening")
            yield ReceivingSite(internet, daemon, lmtp, daemon.store.parent / "received.sqlite")


def soon(what: Callable[[], T]) -> T:
    """Wait until ``what()`` is true. Only the limit of the test ends the wait."""
    while not (found := what()):
        time.sleep(0.02)
    return found
