"""The bytes of a request: the same limits however they arrive, and for each request of a connection."""

import pytest

from mtasts_daemon.public.request_bytes import HEAD_LIMIT, RequestBytes

HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def _head(size: int) -> bytes:
    """Return a head of ``size`` bytes before its empty line."""
    return HEAD[:-4] + b"\r\nX:" + b"y" * (size - len(HEAD)) + b"\r\n\r\n"


@pytest.mark.parametrize("piece", [1, 7, 1000, 100_000])
def test_head_is_limited_however_it_arrives(piece: int) -> None:
    for size, fits in ((HEAD_LIMIT - 3, True), (HEAD_LIMIT + 1, False)):
        head = _head(size)
        assert head.index(b"\r\n\r\n") == size
        counted = RequestBytes()
        assert all(counted.admit(head[at : at + piece]) for at in range(0, len(head), piece)) is fits


def test_head_without_an_end_is_limited() -> None:
    counted = RequestBytes()
    assert counted.admit(b"x" * HEAD_LIMIT)
    assert not counted.admit(b"x")


def test_body_is_limited_by_what_the_request_may_have() -> None:
    counted = RequestBytes()
    assert counted.admit(HEAD)
    counted.begin(1 << 20)
    assert all(counted.admit(bytes(1 << 19)) for _ in range(5))
    assert not counted.admit(b"x")


def test_next_request_has_the_same_limits() -> None:
    counted = RequestBytes()
    for _ in range(3):
        assert counted.admit(_head(HEAD_LIMIT))
        counted.begin(0)
        assert counted.admit(bytes(500_000))
        counted.end()
    assert not counted.admit(_head(HEAD_LIMIT + 1))
