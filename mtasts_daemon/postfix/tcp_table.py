"""tcp_table(5): ``get SPACE key NEWLINE`` and ``code SPACE text NEWLINE``, with %XX quoting.

Postfix reads replies of at most 4096 bytes including the newline, and drops the connection on a 4xx reply or
anything it cannot read. There is no map name.
"""

import re

from ..errors import FrameError
from .reply import Reply, ReplyKind

__all__ = ["FRAME_ENDING", "MAX_REQUEST", "TEXT_LIMIT", "encode", "frame_end", "parse"]

FRAME_ENDING = b"\n"
"""What every frame ends with."""

MAX_REQUEST = 30_768
"""Bytes of a request line: the longest socketmap request with every byte quoted."""

TEXT_LIMIT = 4096 - len("200 \n")
"""Bytes of a policy-table entry that fit into a reply."""

_REASON_LIMIT = 200
_CODES = {ReplyKind.FOUND: b"200 ", ReplyKind.NOT_FOUND: b"500 ", ReplyKind.TEMPORARY: b"400 "}
_QUOTED = re.compile(rb"%([0-9A-Fa-f]{2})?")


def frame_end(buffer: bytes | bytearray, start: int) -> int:
    """The offset behind the line that begins at ``start``, or -1 while it is incomplete.

    Raises FrameError once it is longer than a request may be.
    """
    newline = buffer.find(b"\n", start, start + MAX_REQUEST)
    if newline < 0:
        if len(buffer) - start >= MAX_REQUEST:
            raise FrameError(f"a request line is over the limit of {MAX_REQUEST} bytes")
        return -1
    return newline + 1


def parse(frame: bytes) -> tuple[bytes, bytes]:
    """An empty map name, and the key of a whole line. Raises FrameError where it is no ``get`` request."""
    verb, _, quoted = frame.rstrip(b"\r\n").partition(b" ")
    if verb != b"get":
        raise FrameError("a request is get, a blank and a key")
    return b"", _QUOTED.sub(_unquote, quoted)


def _unquote(match: re.Match[bytes]) -> bytes:
    if match[1] is None:
        raise FrameError("a % is followed by two hexadecimal digits")
    return bytes([int(match[1], 16)])


def encode(reply: Reply) -> bytes:
    """The reply as a line. Not-found and failures carry text, since Postfix wants a blank and more."""
    text = reply.text if reply.kind is ReplyKind.FOUND else (reply.text or "not found")[:_REASON_LIMIT]
    quoted = text.encode("ascii", "replace").replace(b"%", b"%25").replace(b"\n", b"%0A").replace(b"\r", b"%0D")
    return b"%b%b\n" % (_CODES[reply.kind], quoted)
