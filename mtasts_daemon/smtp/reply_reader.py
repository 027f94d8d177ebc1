"""SMTP replies from bytes (RFC 5321 section 4.2). Pure: bytes in, replies out."""

import re
from dataclasses import dataclass

from ..text import sanitize

__all__ = ["ReplySyntax", "SmtpReply", "SmtpReplyReader", "keywords"]

_MAX_LINE = 2048
"""Bytes of a line, four times what RFC 5321 section 4.5.3.1.5 allows."""
_MAX_LINES = 100
_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?\Z", re.DOTALL)
_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}\Z")


class ReplySyntax(ValueError):
    """The peer does not speak SMTP."""


@dataclass(frozen=True, slots=True)
class SmtpReply:
    """A complete reply; ``lines`` are its texts, as printable ASCII."""

    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The reply on one line, as for a log."""
        return " ".join((str(self.code), *self.lines))[:200]


class SmtpReplyReader:
    """Collects bytes until a reply is complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._code: int | None = None
        self._lines: list[str] = []

    @property
    def pending(self) -> bool:
        """True if bytes came after the last complete reply."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> SmtpReply | None:
        """Take ``data``; return the reply if it is complete. Raises ``ReplySyntax``.

        Call with no data to read a reply that came together with the one before.
        """
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end]).removesuffix(b"\r")
            del self._buffer[: end + 1]
            reply = self._take(line)
            if reply is not None:
                return reply
        if len(self._buffer) > _MAX_LINE:
            raise ReplySyntax(f"a line of more than {_MAX_LINE} bytes")
        return None

    def _take(self, line: bytes) -> SmtpReply | None:
        match = _LINE.match(line) if len(line) <= _MAX_LINE else None
        if match is None:
            raise ReplySyntax(f"not a reply: {sanitize(line[:80].decode('ascii', 'replace'))}")
        code = int(match[1])
        if self._code not in (None, code):
            raise ReplySyntax(f"a reply with the codes {self._code} and {code}")
        self._code = code
        self._lines.append(sanitize((match[3] or b"").decode("ascii", "replace"), None))
        if match[2] == b"-":
            if len(self._lines) >= _MAX_LINES:
                raise ReplySyntax(f"a reply of more than {_MAX_LINES} lines")
            return None
        reply = SmtpReply(code, tuple(self._lines))
        self._code, self._lines = None, []
        return reply


def keywords(reply: SmtpReply) -> tuple[str, ...]:
    """Return the keywords of an EHLO reply in upper case (RFC 5321 section 4.1.1.1), without the greeting line."""
    words = (line.partition(" ")[0] for line in reply.lines[1:])
    return tuple(dict.fromkeys(word.upper() for word in words if _KEYWORD.match(word)))
