"""The reply to each outcome of an intake in LMTP, HTTP and sysexits(3)."""

import os
from dataclasses import dataclass

from ...errors import (
    MtaStsError,
    ReceivedReportDeferred,
    ReceivedReportError,
    ReceivedReportQuota,
    ReceivedReportTooLarge,
    SignatureKeyUnavailable,
    StoreError,
)
from .writes import Accepted

__all__ = ["IntakeReply", "reply_to_accepted", "reply_to_error"]


@dataclass(frozen=True, slots=True)
class IntakeReply:
    """``lmtp`` is one reply line, ``http`` a status, ``exit_code`` one of sysexits(3), ``text`` is for people."""

    lmtp: str
    http: int
    exit_code: int
    text: str


def reply_to_accepted(accepted: Accepted) -> IntakeReply:
    """Return the reply for a report that was committed."""
    parts = [
        f"{name} {', '.join(domains[:5])}"
        for name, domains in (
            ("new:", accepted.new),
            ("revised:", accepted.revisions),
            ("duplicate:", accepted.duplicates),
        )
        if domains
    ]
    if accepted.foreign:
        parts.append(f"not about our domains: {accepted.foreign}")
    text = "report accepted; " + ("; ".join(parts) or "it has no policies")
    return IntakeReply(f"250 2.0.0 {_ascii(text)}", 201, os.EX_OK, text)


def reply_to_error(error: MtaStsError) -> IntakeReply:
    """Return the reply for a report that was not accepted: 4xx, 429 and 503 if it may be sent again."""
    text = error.sentence
    code, status, exit_code = _codes(error)
    return IntakeReply(f"{code} {_ascii(text)}", status, exit_code, text)


def _codes(error: MtaStsError) -> tuple[str, int, int]:
    match error:
        case ReceivedReportTooLarge():
            return "552 5.3.4", 413, os.EX_DATAERR
        case ReceivedReportError():
            return "554 5.6.0", 400, os.EX_DATAERR
        case ReceivedReportQuota():
            return "452 4.2.2", 429, os.EX_TEMPFAIL
        case SignatureKeyUnavailable():
            return "451 4.4.3", 503, os.EX_TEMPFAIL
        case StoreError():
            return "452 4.3.1", 503, os.EX_TEMPFAIL
        case ReceivedReportDeferred() | _:
            return "451 4.3.0", 503, os.EX_TEMPFAIL


def _ascii(text: str) -> str:
    return "".join(char if " " <= char <= "~" else "?" for char in text)[:400]
