"""A report to the mail that carries it, RFC 8460 section 5.3.

The message is written out here octet by octet, rather than by a library, so that it is the same whenever it is made
again: a repeat after a crash can then be told from its Message-ID or its octets. Everything in it is US-ASCII.
"""

import base64
from datetime import UTC, datetime
from email.utils import format_datetime

from .report import Report

__all__ = ["TAG", "envelope_sender", "message"]

TAG = r"[0-9a-f]{20}"
"""What names one report to one address in Message-ID and envelope sender: random, so that no bounce can be made up."""

_MAX_LOCAL = 64
"""Characters of a local part, RFC 5321 section 4.5.3.1.1."""

_TEXT = """\
This is an aggregate TLS report for {domain}, about mail that was
sent to it on {day} (UTC), from {submitter}.

The report is attached, as RFC 8460 describes it: compressed JSON.
It is sent to the addresses that the TXT record of
_smtp._tls.{domain} names.
"""


def message(report: Report, body: bytes, *, tag: str, sender: str, to: str, created_at: float) -> bytes:
    """The mail with the packed report ``body`` from ``sender`` to ``to``, unsigned, with CR LF at each line's end."""
    head = [
        f"Date: {format_datetime(datetime.fromtimestamp(int(created_at), UTC))}",
        f"From: {sender}",
        f"To: {to}",
        # In this form and order, and folded as there: section 5.3.
        f"Subject: Report Domain: {report.domain}\r\n Submitter: {report.submitter}\r\n"
        f" Report-ID: <{report.report_id}>",
        f"Message-ID: <{tag}@{report.submitter}>",
        f"TLS-Report-Domain: {report.domain}",
        f"TLS-Report-Submitter: {report.submitter}",
        # RFC 8689 section 5, because reports are delivered despite TLS failures (RFC 8460 section 5.3.1).
        # Postfix 3.10.4 and later reports no session of such a message either, which would go on for ever.
        "TLS-Required: No",
        # RFC 3834: no vacation is to answer.
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
    """Where a bounce goes: ``local+tag@domain``, so that it tells of itself whose it is; else the plain address."""
    local, _, domain = sender.rpartition("@")
    extended = f"{local}+{tag}"
    return f"{extended}@{domain}" if len(extended) <= _MAX_LOCAL else sender
