"""SMTP replies: whole, byte by byte, with trailing bytes, and anything at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtasts_daemon.smtp.reply_reader import ReplySyntax, SmtpReply, SmtpReplyReader, keywords

EHLO = b"250-mx.example.com greets you\r\n250-PIPELINING\r\n250-size 1000\r\n250 STARTTLS\r\n"


def test_reply_is_read_whole() -> None:
    reply = SmtpReplyReader().feed(EHLO)
    assert reply == SmtpReply(250, ("mx.example.com greets you", "PIPELINING", "size 1000", "STARTTLS"))
    assert keywords(reply) == ("PIPELINING", "SIZE", "STARTTLS")


def test_reply_is_read_byte_by_byte() -> None:
    reader = SmtpReplyReader()
    replies = [reader.feed(EHLO[at : at + 1]) for at in range(len(EHLO))]
    assert replies[:-1] == [None] * (len(EHLO) - 1)
    assert replies[-1] is not None
    assert not reader.pending


def test_trailing_bytes_stay_for_next_reply() -> None:
    reader = SmtpReplyReader()
    assert reader.feed(b"220 go\r\n250 more\r\n") == SmtpReply(220, ("go",))
    assert reader.pending
    assert reader.feed(b"") == SmtpReply(250, ("more",))


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"\r\n",
        b"2500 OK\r\n",
        b"199 no\r\n",
        b"250-a\r\n251 b\r\n",
        b"250-" + b"x" * 3000,
        b"250-x\r\n" * 101,
    ],
)
def test_other_protocols_and_endless_replies_are_refused(raw: bytes) -> None:
    with pytest.raises(ReplySyntax):
        SmtpReplyReader().feed(raw)


@given(st.binary(max_size=300), st.integers(1, 20))
def test_any_bytes_give_printable_replies_or_syntax_errors(raw: bytes, size: int) -> None:
    reader = SmtpReplyReader()
    try:
        for at in range(0, len(raw), size):
            reply = reader.feed(raw[at : at + size])
            if reply is not None:
                assert reply.text.isprintable()
                assert all(word.isascii() and word.isprintable() for word in keywords(reply))
    except ReplySyntax as error:
        assert str(error).isprintable()


@given(st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=50), min_size=1, max_size=20))
def test_well_formed_replies_are_read_in_pieces(lines: list[str]) -> None:
    raw = b"".join(b"250-" + line.encode() + b"\r\n" for line in lines[:-1]) + b"250 " + lines[-1].encode() + b"\r\n"
    reader = SmtpReplyReader()
    found = [reply for at in range(0, len(raw), 7) if (reply := reader.feed(raw[at : at + 7])) is not None]
    assert found == [SmtpReply(250, tuple(lines))]
