"""tcp_table lines, as Postfix's client speaks them."""

import pytest

from mtasts_daemon.errors import FrameError
from mtasts_daemon.postfix import tcp_table
from mtasts_daemon.postfix.reply import NOT_FOUND, Reply, ReplyKind


def test_a_request_is_get_and_a_key() -> None:
    assert tcp_table.frame_end(b"get example.com\n", 0) == 16
    assert tcp_table.parse(b"get example.com\n") == (b"", b"example.com")


def test_every_prefix_of_a_request_is_incomplete() -> None:
    for end in range(16):
        assert tcp_table.frame_end(b"get example.com\n"[:end], 0) == -1


def test_lines_follow_one_another_in_one_buffer() -> None:
    buffer = bytearray(b"get a.b\nget c.d\nge")
    assert tcp_table.frame_end(buffer, 0) == 8
    assert tcp_table.frame_end(buffer, 8) == 16
    assert tcp_table.frame_end(buffer, 16) == -1


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (b"get b%C3%BCcher.example\n", "bücher.example".encode()),
        (b"get b%c3%bccher.example\n", "bücher.example".encode()),
        (b"get 100%25%0A\n", b"100%\n"),
        (b"get a b\tc\n", b"a b\tc"),
        (b"get example.com\r\n", b"example.com"),
        (b"get \n", b""),
        (b"get\n", b""),
    ],
)
def test_a_key_is_unquoted(line: bytes, key: bytes) -> None:
    assert tcp_table.parse(line) == (b"", key)


@pytest.mark.parametrize(
    "line", [b"\n", b"put a b\n", b"GET a\n", b" get a\n", b"getx\n", b"19:postfix example.com,\n"]
)
def test_request_other_than_get_is_rejected(line: bytes) -> None:
    with pytest.raises(FrameError):
        tcp_table.parse(line)


@pytest.mark.parametrize("key", [b"%", b"%4", b"%zz", b"a%", b"%%41", b"% 41"])
def test_bad_quoting_is_refused(key: bytes) -> None:
    with pytest.raises(FrameError):
        tcp_table.parse(b"get " + key + b"\n")


def test_length_of_a_line_is_bounded() -> None:
    longest = b"x" * (tcp_table.MAX_REQUEST - 1)
    assert tcp_table.frame_end(longest, 0) == -1
    assert tcp_table.frame_end(longest + b"\n", 0) == tcp_table.MAX_REQUEST
    with pytest.raises(FrameError):
        tcp_table.frame_end(longest + b"x", 0)
    with pytest.raises(FrameError):
        tcp_table.frame_end(longest + b"x\n", 0)


@pytest.mark.parametrize(
    ("reply", "line"),
    [
        (NOT_FOUND, b"500 not found\n"),
        (Reply(ReplyKind.FOUND, "dane-only"), b"200 dane-only\n"),
        (Reply(ReplyKind.FOUND, "a%b"), b"200 a%25b\n"),
        (Reply(ReplyKind.TEMPORARY, "why\r\nnot"), b"400 why%0D%0Anot\n"),
        (Reply(ReplyKind.TEMPORARY, "ü"), b"400 ?\n"),
        (Reply(ReplyKind.TEMPORARY, "x" * 500), b"400 " + b"x" * 200 + b"\n"),
    ],
)
def test_a_reply_is_a_code_a_blank_and_text(reply: Reply, line: bytes) -> None:
    assert tcp_table.encode(reply) == line


def test_the_longest_entry_makes_the_longest_line_that_postfix_reads() -> None:
    assert len(tcp_table.encode(Reply(ReplyKind.FOUND, "x" * tcp_table.TEXT_LIMIT))) == 4096
