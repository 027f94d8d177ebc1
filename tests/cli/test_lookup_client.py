"""Lookups as Postfix makes them, in servers that may reply anything."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pytest

from mtasts_daemon.cli.lookup_client import LookupReply, ask
from mtasts_daemon.config.values import Listen
from mtasts_daemon.errors import FrameError


class Server:
    """Reply to one connection with these pieces; ``request`` is what it received."""

    def __init__(self, *pieces: bytes, hang: bool = False) -> None:
        self.request = b""
        self._pieces = pieces
        self._hang = hang
        self._end = threading.Event()

    @contextmanager
    def serving(self, protocol: Literal["socketmap", "tcp_table"] = "socketmap") -> Iterator[Listen]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=self._serve, args=(listener,))
            thread.start()
            try:
                yield Listen(protocol, "127.0.0.1", listener.getsockname()[1])
            finally:
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
                self._end.wait(120)


def asked(server: Server, key: str = "example.com", timeout: float = 30.0) -> LookupReply:
    with server.serving() as listen:
        return ask(listen, "postfix", key, timeout)


def test_request_is_a_netstring_and_reply_has_code_and_text() -> None:
    server = Server(b"17:OK secure match=a,")
    assert asked(server) == LookupReply("OK", "secure match=a")
    assert server.request == b"19:postfix example.com,"


def test_reply_may_arrive_in_pieces() -> None:
    assert asked(Server(b"9", b":NOTF", b"OUND ", b",")) == LookupReply("NOTFOUND", "")


def test_undecodable_bytes_of_a_key_are_sent_unchanged() -> None:
    server = Server(b"9:NOTFOUND ,")
    asked(server, "b\xfc\udcff")
    assert server.request == b"12:postfix b\xc3\xbc\xff,"


def test_reply_that_is_not_ascii_is_escaped() -> None:
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
def test_malformed_reply_raises_frame_error(reply: bytes) -> None:
    with pytest.raises(FrameError):
        asked(Server(reply))


def test_silent_server_times_out() -> None:
    with pytest.raises(TimeoutError):
        asked(Server(b"9:NOT", hang=True), timeout=0.05)


def test_closed_port_raises_connection_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        listen = Listen("socketmap", "127.0.0.1", server.getsockname()[1])
    with pytest.raises(ConnectionRefusedError):
        ask(listen, "postfix", "example.com", 30.0)


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"200 secure%20match=a\n", LookupReply("OK", "secure match=a")),
        (b"500 not found\n", LookupReply("NOTFOUND", "not found")),
        (b"400 try later\n", LookupReply("TEMP", "try later")),
    ],
)
def test_tcp_table_is_asked_by_its_own_protocol(line: bytes, reply: LookupReply) -> None:
    server = Server(line)
    with server.serving("tcp_table") as listen:
        assert ask(listen, "", "a b.example", 30.0) == reply
    assert server.request == b"get a%20b.example\n"


@pytest.mark.parametrize("line", [b"", b"200 no end", b"300 x\n", b"x" * 5000])
def test_malformed_tcp_table_reply_raises_frame_error(line: bytes) -> None:
    with Server(line).serving("tcp_table") as listen, pytest.raises(FrameError):
        ask(listen, "", "a.example", 30.0)
