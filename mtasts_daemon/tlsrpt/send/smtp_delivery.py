"""Report mails to the mail server that carries them on, over SMTP. Everything here blocks, so it runs on a thread."""

import smtplib
import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...text import sanitize
from ..model.delivery_result import Attempt, Result

__all__ = ["SmtpServer", "submit"]

_FAREWELL_WITHIN = 3.0
"""Seconds for the answer to QUIT."""


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """Where report mails are handed in. ``starttls`` insists on TLS and on a certificate valid for ``host``.

    ``ca_file`` replaces the system's trust anchors. ``within`` is how long any one answer may take, in seconds. An
    empty ``user`` does not log in.
    """

    host: str = "127.0.0.1"
    port: int = 25
    starttls: bool = False
    user: str = ""
    password: str = ""
    ca_file: Path | None = None
    within: float = 60.0


def submit(server: SmtpServer, sender: str, to: str, message: bytes) -> Attempt:
    """Hand the message in, from the envelope's ``sender``; never raises.

    Only what is said of the recipient or of the message is about the report. All else (no connection, no TLS, no
    login, the sender refused) is for the operator to hint, and the report waits for it.
    """
    try:
        client = smtplib.SMTP(server.host, server.port, timeout=server.within)
        try:
            _begin(client, server)
            client.sendmail(sender, [to], message)
        finally:
            _end(client)
    except smtplib.SMTPRecipientsRefused as error:
        code, said = next(iter(error.recipients.values()))
        return _answered(code, said)
    except smtplib.SMTPDataError as error:
        return _answered(error.smtp_code, error.smtp_error)
    except smtplib.SMTPResponseException as error:
        return Attempt(Result.DEFERRED, _said(error.smtp_code, error.smtp_error), host=True)
    except (OSError, smtplib.SMTPException, ValueError) as error:
        told = "no answer in time" if isinstance(error, TimeoutError) else sanitize(str(error) or type(error).__name__)
        return Attempt(Result.DEFERRED, told, host=True)
    return Attempt(Result.DELIVERED)


def _begin(client: smtplib.SMTP, server: SmtpServer) -> None:
    client.ehlo_or_helo_if_needed()
    if server.starttls:
        client.starttls(context=ssl.create_default_context(cafile=server.ca_file))
        client.ehlo_or_helo_if_needed()
    if server.user:
        client.login(server.user, server.password)


def _end(client: smtplib.SMTP) -> None:
    # The message has been taken or not by now, whatever becomes of the farewell.
    with suppress(OSError, smtplib.SMTPException, ValueError):
        if client.sock is not None:
            client.sock.settimeout(_FAREWELL_WITHIN)
            client.quit()
    client.close()


def _answered(code: int, said: bytes | str) -> Attempt:
    """RFC 5321 section 4.2.1; 421 says that the whole server goes."""
    if code >= 500:
        return Attempt(Result.REFUSED, _said(code, said))
    return Attempt(Result.DEFERRED, _said(code, said), host=code == 421)


def _said(code: int, said: bytes | str) -> str:
    text = said.decode("ascii", "backslashreplace") if isinstance(said, bytes) else str(said)
    return sanitize(f"{code} {' '.join(text.split())}")
