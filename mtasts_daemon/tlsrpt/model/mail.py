"""Format report mails (RFC 8460 section 5.3).

The message is formatted here and not by a library, so that the same report always gives the same bytes. A receiver can
then recognize a repeat after a crash by its Message-ID or its content. The message is US-ASCII.
"""

import base64
from datetime import UTC, datetime
from email.utils import format_datetime

from .report import Report

__all__ = ["TAG", "envelope_sender", "message"]

TAG = r"[0-9a-f]{20}"
"""Pattern of the tag of a delivery in Message-ID and envelope sender: random, so that bounces cannot be forged."""

_MAX_LOCAL = 64
"""Maximum length of a local part in characters (RFC 5321 section 4.5.3.1.1)."""

_TEXT = """\
This is an aggregate TLS report for {domain}, about mail that was
sent to it on {day} (UTC), from {submitter}.

The report is attached, as RFC 8460 describes it: compressed JSON.
It is sent to the addresses that the TXT record of
_smtp._tls.{domain} names.
"""


def message(report: Report, body: bytes, *, tag: str, sender: str, to: str, created_at: float) -> bytes:
    """Return the unsigned mail with the compressed report ``body``; lines end with CR LF."""
    head = [
        f"Date: {format_datetime(datetime.fromtimestamp(int(created_at), UTC))}",
        f"From: {sender}",
        f"To: {to}",
        # Form, order and folding as in RFC 8460 section 5.3.
        f"Subject: Report Domain: {report.domain}\r\n Submitter: {report.submitter}\r\n"
        f" Report-ID: <{report.report_id}>",
        f"Message-ID: <{tag}@{report.submitter}>",
        f"TLS-Report-Domain: {report.domain}",
        f"TLS-Report-Submitter: {report.submitter}",
        # RFC 8689 section 5, because reports are delivered despite TLS failures (RFC 8460 section 5.3.1).
        # Postfix 3.10.4 and later also excludes such messages from TLS reports, which prevents a loop of reports.
        "TLS-Required: No",
        # RFC 3834: prevents automatic replies, such as vacation notices.
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type="tlsrpt";\r\n boundary="=_{tag}"',
    ]
    text = _TEXT.format(domain=report.domain, day=report.day, submitter=report.submitter).splitlines()
    lines = [
        *head,
        "",
        f"--=_{tag}",
        "Content-Type: text/plain; charset=us-ascii",
        "Content-Transfer-Encoding: 7bit",
        "",
        *text,
        "",
        f"--=_{tag}",
        "Content-Type: application/tlsrpt+gzip",
        "Content-Transfer-Encoding: base64",
        f'Content-Disposition: attachment;\r\n filename="{report.file_name}"',
        "",
        *base64.encodebytes(body).decode("ascii").splitlines(),
        "",
        f"--=_{tag}--",
        "",
    ]
    return "\r\n".join(lines).encode("ascii")


def envelope_sender(sender: str, tag: str) -> str:
    """Return ``local+tag@domain``, which identifies the report of a bounce, or ``sender`` if that would be too long."""
    local, _, domain = sender.rpartition("@")
    extended = f"{local}+{tag}"
    return f"{extended}@{domain}" if len(extended) <= _MAX_LOCAL else sender
