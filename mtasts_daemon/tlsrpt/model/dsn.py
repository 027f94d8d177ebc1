"""Parse delivery status notifications (RFC 3464) about report mails.

The report is identified by the tag in the recipient address of the notification (the envelope sender of the report),
or by the Message-ID of the returned report. Anyone can send a notification, but only the receiver knows the tag.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.errors import MessageError
from email.message import Message
from email.parser import BytesParser, HeaderParser

from ...errors import DsnError
from ...text import sanitize
from .mail import TAG

__all__ = ["MAX_DSN", "Bounce", "parse_dsn"]

MAX_DSN = 1 << 20
"""Maximum number of bytes parsed; the relevant fields are at the beginning."""

_MAX_PARTS = 100
_MAX_TEXT = 200
_TO = re.compile(rf"\+({TAG})@")
_MESSAGE_ID = re.compile(rf"<({TAG})@")
_OUTER = ("delivered-to", "x-original-to", "envelope-to", "to")
_STATUS = re.compile(r"\s*([245]\.[0-9]{1,3}\.[0-9]{1,3})\b")


@dataclass(frozen=True, slots=True)
class Bounce:
    """Delivery status of one report mail.

    ``failed`` is True if the mail will not be delivered, ``permanent`` if later mail to the address will fail as well.
    ``status`` is the enhanced status code (RFC 3463), or empty. ``detail`` is the short printable diagnostic code.
    """

    tag: str
    failed: bool
    permanent: bool
    status: str
    detail: str


def parse_dsn(octets: bytes) -> Bounce:
    """Parse a mail, header and body, as a bounce. Accepts any bytes; raises ``DsnError`` if it is not a bounce."""
    try:
        mail = BytesParser().parsebytes(octets[:MAX_DSN])
        parts = list(_parts(mail))
    except (MessageError, ValueError, TypeError, LookupError, RecursionError):
        raise DsnError("it cannot be read") from None
    recipients = [fields for part in parts if part.get_content_type() == "message/delivery-status"
                  for fields in _recipients(part)]  # fmt: skip
    if not recipients:
        raise DsnError("it has no part of type message/delivery-status (RFC 3464)")
    tag = _tag(mail, parts)
    if tag is None:
        raise DsnError("it names no report of ours")
    # A report mail has one recipient. If a mailing list expanded it, the most severe status counts.
    return max((_bounce(tag, fields) for fields in recipients), key=lambda bounce: (bounce.permanent, bounce.failed))


def _parts(mail: Message) -> Iterator[Message]:
    for count, part in enumerate(mail.walk()):
        if count == _MAX_PARTS:
            return
        yield part


def _recipients(part: Message) -> list[Message]:
    """Return the field groups of the recipients; the first group is about the message (RFC 3464 section 2.1)."""
    groups = part.get_payload()
    return (
        [group for group in groups[1:] if isinstance(group, Message) and "action" in group]
        if isinstance(groups, list)
        else []
    )


def _bounce(tag: str, fields: Message) -> Bounce:
    failed = _text(fields, "action").lower() == "failed"
    match = _STATUS.match(_text(fields, "status"))
    status = match[1] if match else ""
    return Bounce(tag, failed, failed and status.startswith("5"), status, _text(fields, "diagnostic-code"))


def _tag(mail: Message, parts: list[Message]) -> str | None:
    for name in _OUTER:
        for value in mail.get_all(name, [])[:10]:
            if match := _TO.search(str(value)[:1000]):
                return match[1]
    for part in parts:
        if part is not mail and (match := _MESSAGE_ID.search(_text(part, "message-id"))):
            return match[1]
        if part.get_content_type() == "text/rfc822-headers":
            payload = part.get_payload()
            headers = HeaderParser().parsestr(payload if isinstance(payload, str) else "")
            if match := _MESSAGE_ID.search(_text(headers, "message-id")):
                return match[1]
    return None


def _text(fields: Message, name: str) -> str:
    """Return the value of a field as one line of printable ASCII, truncated."""
    return sanitize(" ".join(str(fields.get(name, "")).split()), _MAX_TEXT)
