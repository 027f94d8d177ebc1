"""Text from files, the network and command lines, made safe to print, to log and to store; and UTC days as text."""

from datetime import UTC, datetime

__all__ = ["quoted", "sanitize", "utc_day"]

_LIMIT = 80


def sanitize(text: object, limit: int | None = _LIMIT) -> str:
    """Return ``text`` on one line of printable characters, cut to ``limit`` characters (None: no limit).

    Control characters, line ends, bidirectional overrides and lone surrogates are escaped, so that no text can forge
    a log line or control a terminal.
    """
    found = str(text)
    if limit is not None and len(found) > limit:
        found = f"{found[: limit - 3]}..."
    return found if found.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in found)


def quoted(text: object, limit: int = _LIMIT) -> str:
    """Return ``text`` as ``sanitize`` does, in quotes and in ASCII, to be quoted in a message."""
    return ascii(sanitize(text, limit))


def utc_day(moment: float) -> str:
    """Return the UTC day of a time (seconds since the epoch) as YYYY-MM-DD."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")
