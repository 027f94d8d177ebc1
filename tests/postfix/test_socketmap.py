"""socketmap framing, as Postfix's client speaks it."""

import pytest

from mtasts_daemon.errors import FrameError
from mtasts_daemon.postfix import socketmap
from mtasts_daemon.postfix.reply import NOT_FOUND, Reply, ReplyKind

REQUEST = b"19:postfix example.com,"


def test_a_request_is_a_map_name_and_a_key() -> None:
    assert socketmap.frame_end(REQUEST, 0) == len(REQUEST)
    assert socketmap.parse(REQUEST) == (b"postfix", b"example.com")


def test_every_prefix_of_a_request_is_incomplete() -> None:
    for end in range(len(REQUEST)):
        assert socketmap.frame_end(REQUEST[:end], 0) == -1


def test_frames_follow_one_another_in_one_buffer() -> None:
    buffer = bytearray(REQUEST * 3 + b"5:x")
    first = socketmap.frame_end(buffer, 0)
    second = socketmap.frame_end(buffer, first)
    third = socketmap.frame_end(buffer, second)
    assert (first, second, third) == (len(REQUEST), 2 * len(REQUEST), 3 * len(REQUEST))
    assert socketmap.frame_end(buffer, third) == -1


def test_leading_zeros_are_tolerated_as_postfix_does() -> None:
    assert socketmap.parse(b"000019:postfix example.com,") == (b"postfix", b"example.com")
    assert socketmap.frame_end(b"000019:postfix example.com,", 0) == 27


def test_a_key_keeps_its_blanks_colons_and_commas() -> None:
    frame = b"13:QUERY [a:b],,,"
    assert socketmap.frame_end(frame, 0) == len(frame)
    assert socketmap.parse(frame) == (b"QUERY", b"[a:b],,")
    assert socketmap.parse(b"5:q a b,") == (b"q", b"a b")


@pytest.mark.parametrize(
    ("frame", "found"), [(b"5:query,", (b"query", b"")), (b"6:query ,", (b"query", b"")), (b"0:,", (b"", b""))]
)
def test_a_request_without_a_key_has_an_empty_one(frame: bytes, found: tuple[bytes, bytes]) -> None:
    assert socketmap.frame_end(frame, 0) == len(frame)
    assert socketmap.parse(frame) == found


@pytest.mark.parametrize(
    "buffer",
    [
        b":x,",
        b"x",
        b"-1:x,",
        b"+1:x,",
        b" 1:x,",
        b"1 :x,",
        b"1x",
        b"get a\n",
        b"\x00",
        b"1:x;",
        b"1:xx,",
        b"1:x\n",
        b"\xb2:x,",
    ],
)
def test_bytes_that_cannot_become_a_frame_are_rejected_at_once(buffer: bytes) -> None:
    with pytest.raises(FrameError):
        socketmap.frame_end(buffer, 0)


def test_a_request_is_of_bounded_length() -> None:
    frame = b"%d:%b," % (socketmap.MAX_REQUEST, b"x" * socketmap.MAX_REQUEST)
    assert socketmap.frame_end(frame, 0) == len(frame)
    with pytest.raises(FrameError):
        socketmap.frame_end(b"%d:" % (socketmap.MAX_REQUEST + 1), 0)


def test_a_length_is_of_bounded_digits() -> None:
    assert socketmap.frame_end(b"0" * 9, 0) == -1
    for buffer in (b"0" * 10, b"0" * 10 + b":,", b"9" * 5000):
        with pytest.raises(FrameError):
            socketmap.frame_end(buffer, 0)


@pytest.mark.parametrize(
    ("reply", "frame"),
    [
        (NOT_FOUND, b"9:NOTFOUND ,"),
        (Reply(ReplyKind.FOUND, "dane-only"), b"12:OK dane-only,"),
        (Reply(ReplyKind.TEMPORARY, "why"), b"8:TEMP why,"),
        (Reply(ReplyKind.TEMPORARY, "ü"), b"6:TEMP ?,"),
    ],
)
def test_a_reply_is_a_code_a_blank_and_text(reply: Reply, frame: bytes) -> None:
    assert socketmap.encode(reply) == frame


def test_a_reason_is_as_long_as_postfix_logs() -> None:
    assert socketmap.encode(Reply(ReplyKind.TEMPORARY, "x" * 500)) == b"205:TEMP " + b"x" * 200 + b","


def test_the_longest_entry_makes_the_longest_payload_that_postfix_reads() -> None:
    frame = socketmap.encode(Reply(ReplyKind.FOUND, "x" * socketmap.TEXT_LIMIT))
    assert frame.startswith(b"100000:OK x")
    assert len(frame) == len(b"100000:") + 100_000 + 1
