"""tcp_table(5): ``get SPACE key NEWLINE`` and ``code SPACE text NEWLINE``, with %XX quoting.

Postfix reads replies of at most 4096 bytes including the newline, and closes the connection after a 4xx reply or a
malformed one. There is no map name.
"""

import re

from ..errors import FrameError
from .reply import Reply, ReplyKind

__all__ = ["FRAME_ENDING", "MAX_REQUEST", "TEXT_LIMIT", "encode", "frame_end", "parse"]

FRAME_ENDING = b"\n"
"""The last byte of a frame."""

MAX_REQUEST = 30_768
"""Maximum size of a request line: the longest socketmap request with every byte quoted."""

TEXT_LIMIT = 4096 - len("200 \n")
"""Maximum size of a policy-table entry in a reply."""

_REASON_LIMIT = 200
_CODES = {ReplyKind.FOUND: b"200 ", ReplyKind.NOT_FOUND: b"500 ", ReplyKind.TEMPORARY: b"400 "}
_QUOTED = re.compile(rb"%([0-9A-Fa-f]{2})?")


def frame_end(buffer: bytes | bytearray, start: int) -> int:
    """Return the offset after the line at ``start``, or -1 if it is incomplete.

    Raises FrameError if the line is too long.
    """
    newline = buffer.find(b"\n", start, start + MAX_REQUEST)
    if newline < 0:
        if len(buffer) - start >= MAX_REQUEST:
            raise FrameError(f"a request line is over the limit of {MAX_REQUEST} bytes")
        return -1
    return newline + 1


def parse(frame: bytes) -> tuple[bytes, bytes]:
    """Return an empty map name and the key of a whole line. Raises FrameError if it is not a ``get`` request."""
    verb, _, quoted = frame.rstrip(b"\r\n").partition(b" ")
    if verb != b"get":
        raise FrameError("a request is get, a blank and a key")
    return b"", _QUOTED.sub(_unquote, quoted)


def _unquote(match: re.Match[bytes]) -> bytes:
    if match[1] is None:
        raise FrameError("a % is followed by two hexadecimal digits")
    return bytes([int(match[1], 16)])


def encode(reply: Reply) -> bytes:
    """Return the reply as a line. Every reply has text, since Postfix requires a blank and more."""
    text = reply.text if reply.kind is ReplyKind.FOUND else (reply.text or "not found")[:_REASON_LIMIT]
    quoted = text.encode("ascii", "replace").replace(b"%", b"%25").replace(b"\n", b"%0A").replace(b"\r", b"%0D")
    return b"%b%b\n" % (_CODES[reply.kind], quoted)
