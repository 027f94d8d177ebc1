"""Bytes that a stranger sent to the JSON text of a TLS report.

Nothing is unpacked beyond the bounds of ``IntakeLimits``. Every failure is a leaf of
``ReceivedReportError``.
"""

import base64
import binascii
import email.message
import email.parser
import email.policy
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from ...errors import ReceivedReportArchive, ReceivedReportMissing, ReceivedReportTooLarge
from .model import DEFAULT_LIMITS, Deviation, IntakeLimits

__all__ = ["Attachment", "attachments", "parse_mail", "unpack"]

_GZIP = b"\x1f\x8b"
_ZIP = b"PK\x03\x04"
_ZIP_END = b"PK\x05\x06"
_CHUNK = 64 * 1024

_MAX_NESTING = 40
"""Mentions of multipart and message types. The parser's work grows with lines times open parts."""

_MAX_LINES = 200_000
"""Lines of a mail, each of which becomes an object. The largest mail in lines of 60 characters has fewer."""

_MAX_HEADER = 256 * 1024
"""Bytes of a mail's header section."""

_MAX_CENTRAL = 70_000
"""Bytes of a zip archive's directory: room for one entry with the longest name."""

_MAX_PARTS = 64
_MAX_BLOCKS = 200_000
"""Blocks of damaged base64 that are decoded, each at least one line of text."""

_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/=]+")
_REPORT_TYPES = {"application/tlsrpt+gzip": 0, "application/tlsrpt+json": 0}
_OTHER_TYPES = {
    *("application/gzip", "application/x-gzip", "application/zip", "application/x-zip-compressed"),
    *("application/json", "application/octet-stream", "text/json", "application/x-zip"),
}
_REPORT_NAME = re.compile(r"\.(?:json(?:\.gz|\.zip)?|gz|zip)\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Attachment:
    """A part of a mail that may be a report, still packed. ``name`` is its file name or empty text."""

    data: bytes
    name: str
    rank: int
    """0 for a media type of RFC 8460, 1 for a file name or type seen in real reports, 2 for text."""
    deviations: frozenset[Deviation]


def parse_mail(message: bytes, limits: IntakeLimits = DEFAULT_LIMITS) -> email.message.Message:
    """Parse the message. Raises ``ReceivedReportTooLarge`` if it is too large or nested too deeply."""
    if len(message) > limits.mail:
        raise ReceivedReportTooLarge(f"the mail has {len(message)} bytes")
    if message.count(b"\n") > _MAX_LINES or message.count(b"\r") > _MAX_LINES:
        raise ReceivedReportTooLarge(f"the mail has more than {_MAX_LINES} lines")
    head = re.search(rb"\r?\n\r?\n", message)
    if (head.start() if head else len(message)) > _MAX_HEADER:
        raise ReceivedReportTooLarge(f"the mail's header has more than {_MAX_HEADER} bytes")
    lowered = message.lower()
    if lowered.count(b"multipart/") + lowered.count(b"message/") > _MAX_NESTING:
        raise ReceivedReportTooLarge("the mail has too many nested parts")
    return email.parser.BytesParser(policy=email.policy.compat32).parsebytes(message)


def attachments(message: email.message.Message, limits: IntakeLimits = DEFAULT_LIMITS) -> list[Attachment]:
    """Return the parts that may be a report, the most likely one first.

    Raises ``ReceivedReportMissing`` if there is none and ``ReceivedReportTooLarge`` if all are too large.
    """
    found: list[Attachment] = []
    oversized = 0
    for count, part in enumerate(_leaves(message)):
        if count >= _MAX_PARTS:
            break
        rank = _rank(part)
        payload = None if rank is None else _payload(part)
        if rank is None or payload is None:
            continue
        if len(payload) > limits.compressed * 3 // 2 and not payload.lstrip().startswith("{"):
            oversized += 1
            continue
        data, deviations = _decoded(part, payload)
        if rank == 2 and data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"{" and data[:2] != _GZIP:
            continue
        if rank != 0:
            deviations |= {Deviation.ATTACHMENT_TYPE}
        found.append(Attachment(data, _file_name(part), rank, deviations))
    if not found:
        raise ReceivedReportTooLarge("the attachment is too large") if oversized else ReceivedReportMissing
    return sorted(found, key=lambda one: one.rank)


def _leaves(message: email.message.Message) -> Iterator[email.message.Message]:
    return (part for part in message.walk() if not part.is_multipart())


def _payload(part: email.message.Message) -> str | None:
    """Return the text of the part, still encoded; None if it has none or the library cannot read it."""
    try:
        payload = part.get_payload()
    except (ValueError, TypeError, LookupError):  # a hostile charset, such as an RFC 2231 parameter
        return None
    return payload if isinstance(payload, str) else None


def _rank(part: email.message.Message) -> int | None:
    media_type = part.get_content_type()
    if media_type in _REPORT_TYPES:
        return 0
    if media_type in _OTHER_TYPES or _REPORT_NAME.search(_file_name(part)):
        return 1
    return 2 if part.get_content_maintype() in ("text", "application") else None


def _file_name(part: email.message.Message) -> str:
    try:
        name = part.get_filename() or ""
    except (ValueError, TypeError, LookupError):  # a hostile RFC 2231 parameter
        return ""
    return name[:1024]


def _decoded(part: email.message.Message, payload: str) -> tuple[bytes, frozenset[Deviation]]:
    encoding = str(part.get("Content-Transfer-Encoding", "")).strip().lower()
    if encoding == "base64":
        return _base64(payload.encode("utf-8", "surrogateescape"))
    try:
        data = part.get_payload(decode=True)
    except (ValueError, TypeError, LookupError):
        return b"", frozenset()
    return data if isinstance(data, bytes) else b"", frozenset()


def _base64(raw: bytes) -> tuple[bytes, frozenset[Deviation]]:
    """Decode base64 with foreign characters, padding in the middle or none at the end."""
    plain = b"".join(raw.split())
    try:
        return base64.b64decode(plain, validate=True), frozenset()
    except binascii.Error:
        pass
    usable = _NOT_BASE64.sub(b"", plain)
    parts = []
    # Encoders that work line by line or block by block leave padding between the blocks.
    for block in re.findall(rb"[A-Za-z0-9+/]+", usable)[:_MAX_BLOCKS]:
        trimmed = block[: len(block) - 1] if len(block) % 4 == 1 else block
        parts.append(base64.b64decode(trimmed + b"=" * (-len(trimmed) % 4)))
    return b"".join(parts), frozenset({Deviation.BASE64_INVALID})


# -- compression -------------------------------------------------------------------------------------------


def unpack(data: bytes, limits: IntakeLimits = DEFAULT_LIMITS) -> tuple[bytes, frozenset[Deviation]]:
    """Return the JSON text in gzip, zip or plain ``data``. The content decides, not the declared type.

    Raises ``ReceivedReportTooLarge`` or ``ReceivedReportArchive``.
    """
    if data[:2] == _GZIP:
        text, deviations = _gunzip(data, limits)
    elif data[:4] == _ZIP:
        text, deviations = _unzip(data, limits), frozenset({Deviation.ZIP_ARCHIVE})
    else:
        text, deviations = data, frozenset()
        if len(text) > limits.unpacked:
            raise ReceivedReportTooLarge(f"it has {len(text)} bytes")
    if text is not data and (text[:2] == _GZIP or text[:4] == _ZIP):
        raise ReceivedReportArchive("it is compressed twice")
    return text, deviations


def _gunzip(data: bytes, limits: IntakeLimits) -> tuple[bytes, frozenset[Deviation]]:
    if len(data) > limits.compressed:
        raise ReceivedReportTooLarge(f"it has {len(data)} compressed bytes")
    stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
    most = _most(len(data), limits)
    parts, size, left = [], 0, data
    try:
        while not stream.eof:
            part = stream.decompress(left, _CHUNK)
            size += len(part)
            if size > most:
                raise ReceivedReportTooLarge(f"it unpacks to more than {most} bytes")
            parts.append(part)
            left = stream.unconsumed_tail
            if not part and not left:
                break
    except zlib.error as error:
        raise ReceivedReportArchive(ascii(str(error))[1:-1]) from None
    deviations = frozenset({Deviation.GZIP_TRAILING_DATA} if stream.eof and stream.unused_data else ()) | frozenset(
        () if stream.eof else {Deviation.GZIP_TRUNCATED}
    )
    return b"".join(parts), deviations


def _most(packed: int, limits: IntakeLimits) -> int:
    return min(limits.unpacked, max(limits.ratio_from, packed * limits.ratio))


def _unzip(data: bytes, limits: IntakeLimits) -> bytes:
    if len(data) > limits.compressed:
        raise ReceivedReportTooLarge(f"it has {len(data)} compressed bytes")
    end = data.rfind(_ZIP_END)
    # zipfile reads the whole directory into objects, however many entries it has.
    if end < 0 or int.from_bytes(data[end + 12 : end + 16], "little") > _MAX_CENTRAL:
        raise ReceivedReportArchive("the zip archive's directory is missing or too long")
    most = _most(len(data), limits)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) != 1:
                raise ReceivedReportArchive(f"the zip archive has {len(entries)} entries instead of one")
            entry = entries[0]
            if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ReceivedReportArchive("the zip archive is encrypted or compressed by an unknown method")
            with archive.open(entry) as file:
                text = file.read(most + 1)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise ReceivedReportArchive(ascii(str(error))[1:200]) from None
    if len(text) > most:
        raise ReceivedReportTooLarge(f"it unpacks to more than {most} bytes")
    return text
