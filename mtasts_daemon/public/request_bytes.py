"""The bytes of one HTTP request, counted before aiohttp parses them: aiohttp 3.11 does not limit the header fields."""

__all__ = ["HEAD_LIMIT", "RequestBytes"]

HEAD_LIMIT = 16384
"""Bytes of one request's head, and so a limit on the number of its fields."""

_EARLY_LIMIT = 512 * 1024
"""Bytes behind a head that may arrive before the request's handler runs; asyncio reads up to 256 KiB at once."""


class RequestBytes:
    """Counts what one connection receives."""

    __slots__ = ("_body", "_body_limit", "_head", "_head_complete", "_tail")

    def __init__(self) -> None:
        self._head = 0
        self._tail = b""
        self._head_complete = False
        self._body = 0
        self._body_limit = _EARLY_LIMIT

    def admit(self, data: bytes) -> bool:
        """Count received bytes. Return False if the client sent more than it may."""
        if self._head_complete:
            self._body += len(data)
            return self._body <= self._body_limit
        joined = self._tail + data
        end = joined.find(b"\r\n\r\n")
        before = self._head - len(self._tail)
        if end < 0:
            self._head += len(data)
            self._tail = joined[-3:]
            return self._head <= HEAD_LIMIT
        self._head_complete = True
        self._body = len(joined) - end - 4
        return before + end <= HEAD_LIMIT and self._body <= self._body_limit

    def begin(self, max_body: int) -> None:
        """Note that a request is being answered, whose body may have ``max_body`` bytes."""
        # Chunked coding needs more bytes than the body itself; this stops a client that sends chunks of one byte.
        self._body_limit = _EARLY_LIMIT + 2 * max_body

    def end(self) -> None:
        """Note that the request has been answered and all of its body was read."""
        self._head = self._body = 0
        self._tail, self._head_complete, self._body_limit = b"", False, _EARLY_LIMIT
