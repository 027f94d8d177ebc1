"""socketmap_table(5): requests ``NAME SPACE KEY`` and replies ``CODE SPACE TEXT``, as netstrings.

Limits are those of Postfix's client: it sends keys of at most 10000 bytes (3.12; older versions have no limit) and
reads replies of at most 100000 bytes. Frames are separated before they are parsed, so that a reply can be cached for
the bytes of a frame.
"""

from ..errors import FrameError
from .reply import Reply, ReplyKind

__all__ = ["FRAME_ENDING", "MAX_REQUEST", "REPLY_LIMIT", "TEXT_LIMIT", "encode", "frame_end", "parse"]

FRAME_ENDING = b","
"""The last byte of a frame; it may also occur inside."""

MAX_REQUEST = 10_256
"""Maximum size of a request's payload: the longest key and a map name."""

REPLY_LIMIT = 100_000
"""Maximum size of a reply's payload that Postfix reads (dict_sockmap.c)."""

TEXT_LIMIT = REPLY_LIMIT - len("OK ")
"""Maximum size of a policy-table entry in a reply."""

_MAX_DIGITS = 9
_REASON_LIMIT = 200
_CODES = {ReplyKind.FOUND: b"OK ", ReplyKind.NOT_FOUND: b"NOTFOUND ", ReplyKind.TEMPORARY: b"TEMP "}
_NOT_FOUND = b"9:NOTFOUND ,"
"""One object: the reply cache keeps it for every domain without a policy."""


def frame_end(buffer: bytes | bytearray, start: int) -> int:
    """Return the offset after the frame at ``start``, or -1 if it is incomplete.

    Raises FrameError as soon as the bytes cannot become a frame.
    """
    colon = buffer.find(b":", start, start + _MAX_DIGITS + 1)
    if colon < 0:
        digits = buffer[start : start + _MAX_DIGITS + 1]
        if len(digits) > _MAX_DIGITS or (digits and not digits.isdigit()):
            raise FrameError("a netstring starts with its length and a colon")
        return -1
    digits = buffer[start:colon]
    if not digits.isdigit():
        raise FrameError("a netstring starts with its length and a colon")
    length = int(digits)
    if length > MAX_REQUEST:
        raise FrameError(f"a request of {length} bytes is over the limit of {MAX_REQUEST}")
    end = colon + length + 2
    if len(buffer) < end:
        return -1
    if buffer[end - 1] != 0x2C:
        raise FrameError("a netstring ends with a comma")
    return end


def parse(frame: bytes) -> tuple[bytes, bytes]:
    """Return map name and key of a whole frame. The key is empty if the blank is missing."""
    name, _, key = frame[frame.index(b":") + 1 : -1].partition(b" ")
    return name, key


def encode(reply: Reply) -> bytes:
    """Return the reply as a netstring. Its text must be ASCII, as ``policy_table`` makes it."""
    if reply.kind is ReplyKind.NOT_FOUND and not reply.text:
        return _NOT_FOUND
    text = reply.text if reply.kind is ReplyKind.FOUND else reply.text[:_REASON_LIMIT]
    payload = _CODES[reply.kind] + text.encode("ascii", "replace")
    return b"%d:%b," % (len(payload), payload)
