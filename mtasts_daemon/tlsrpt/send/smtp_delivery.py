"""Submit report mail to the mail server over SMTP. The functions block and must be called on a thread."""

import smtplib
import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...text import sanitize
from ..model.delivery_result import DeliveryResult, Result

__all__ = ["SmtpServer", "submit"]

_QUIT_SECONDS = 3.0
"""Time limit for the reply to QUIT, in seconds."""


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """Mail server for report mail. ``starttls`` requires TLS and a certificate valid for ``host``.

    ``ca_file`` replaces the system's trust anchors. ``timeout`` is the limit for each reply, in seconds. If ``user`` is
    empty, the client does not log in.
    """

    host: str = "127.0.0.1"
    port: int = 25
    starttls: bool = False
    user: str = ""
    password: str = ""
    ca_file: Path | None = None
    timeout: float = 60.0


def submit(server: SmtpServer, sender: str, to: str, message: bytes) -> DeliveryResult:
    """Submit the message with the envelope sender ``sender``; never raises.

    Only replies to the recipient or to the message concern the report. After other failures (no connection, no TLS, no
    login, sender rejected), which the operator has to fix, the report is deferred.
    """
    try:
        client = smtplib.SMTP(server.host, server.port, timeout=server.timeout)
        try:
            _begin(client, server)
            client.sendmail(sender, [to], message)
        finally:
            _end(client)
    except smtplib.SMTPRecipientsRefused as error:
        code, said = next(iter(error.recipients.values()))
        return _result_of(code, said)
    except smtplib.SMTPDataError as error:
        return _result_of(error.smtp_code, error.smtp_error)
    except smtplib.SMTPResponseException as error:
        return DeliveryResult(Result.DEFERRED, _detail(error.smtp_code, error.smtp_error), host=True)
    except (OSError, smtplib.SMTPException, ValueError) as error:
        reason = (
            "no answer in time" if isinstance(error, TimeoutError) else sanitize(str(error) or type(error).__name__)
        )
        return DeliveryResult(Result.DEFERRED, reason, host=True)
    return DeliveryResult(Result.DELIVERED)


def _begin(client: smtplib.SMTP, server: SmtpServer) -> None:
    client.ehlo_or_helo_if_needed()
    if server.starttls:
        client.starttls(context=ssl.create_default_context(cafile=server.ca_file))
        client.ehlo_or_helo_if_needed()
    if server.user:
        client.login(server.user, server.password)


def _end(client: smtplib.SMTP) -> None:
    # The message has already been accepted or rejected; the reply to QUIT does not change that.
    with suppress(OSError, smtplib.SMTPException, ValueError):
        if client.sock is not None:
            client.sock.settimeout(_QUIT_SECONDS)
            client.quit()
    client.close()


def _result_of(code: int, said: bytes | str) -> DeliveryResult:
    """Return the result for a reply code (RFC 5321 section 4.2.1); 421 means that the server shuts down."""
    if code >= 500:
        return DeliveryResult(Result.REFUSED, _detail(code, said))
    return DeliveryResult(Result.DEFERRED, _detail(code, said), host=code == 421)


def _detail(code: int, said: bytes | str) -> str:
    text = said.decode("ascii", "backslashreplace") if isinstance(said, bytes) else str(said)
    return sanitize(f"{code} {' '.join(text.split())}")
