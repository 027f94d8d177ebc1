"""Asking as Postfix does, of a server that may answer anything."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mtasts_daemon.cli.lookup_client import LookupReply, ask
from mtasts_daemon.config.values import Listen
from mtasts_daemon.errors import FrameError


class Server:
    """Answers one connection with these octets, one piece after the other; ``request`` is what it was asked."""

    def __init__(self, *pieces: bytes, hang: bool = False) -> None:
        self.request = b""
        self._pieces = pieces
        self._hang = hang
        self._end = threading.Event()

    @contextmanager
    def serving(self) -> Iterator[Listen]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=self._serve, args=(listener,))
            thread.start()
            yield Listen("socketmap", "127.0.0.1", listener.getsockname()[1])
            self._end.set()
            thread.join()

    def _serve(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            self.request = connection.recv(4096)
            try:
                for piece in self._pieces:
                    connection.sendall(piece)
            except OSError:
                return
            if self._hang:
                self._end.wait(30)


def asked(server: Server, key: str = "example.com", timeout: float = 30.0) -> LookupReply:
    with server.serving() as listen:
        return ask(listen, "postfix", key, timeout)


def test_the_request_is_a_netstring_and_the_reply_its_code_and_text() -> None:
    server = Server(b"17:OK secure match=a,")
    assert asked(server) == LookupReply("OK", "secure match=a")
    assert server.request == b"19:postfix example.com,"


def test_a_reply_may_come_in_pieces() -> None:
    assert asked(Server(b"9", b":NOTF", b"OUND ", b",")) == LookupReply("NOTFOUND", "")


def test_octets_of_a_key_that_are_not_text_are_sent_as_they_are() -> None:
    server = Server(b"9:NOTFOUND ,")
    asked(server, "b\xfc\udcff")
    assert server.request == b"12:postfix b\xc3\xbc\xff,"


def test_a_reply_that_is_not_ascii_is_shown_escaped() -> None:
    assert asked(Server(b"7:PERM \xff\n,")) == LookupReply("PERM", "\\xff\n")


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"9:NOTFOUND",
        b"9:NOTFOUND ;",
        b":,",
        b"x:y,",
        b"-1:,",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"100001:" + b"x" * 100_001 + b",",
        b"9" * 100_000,
        b"\xb2:ab,",
    ],
    ids=lambda reply: ascii(reply[:12]),
)
def test_what_is_no_reply_is_said_to_be_none(reply: bytes) -> None:
    with pytest.raises(FrameError):
        asked(Server(reply))


def test_a_server_that_does_not_answer_is_waited_for_no_longer_than_the_timeout() -> None:
    with pytest.raises(TimeoutError):
        asked(Server(b"9:NOT", hang=True), timeout=0.05)


def test_nobody_there_is_an_error_of_the_system() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        listen = Listen("socketmap", "127.0.0.1", server.getsockname()[1])
    with pytest.raises(ConnectionRefusedError):
        ask(listen, "postfix", "example.com", 30.0)
