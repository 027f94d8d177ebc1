"""The load: many connections, each with one request or batch in flight; every reply is compared.

Plain sockets and epoll, so that the load uses less CPU than the server.
"""

import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Question", "Run", "Wrong", "ask", "drive", "netstring"]

_STALLED = 30.0


class Wrong(Exception):
    """An unexpected reply, or none."""


@dataclass(frozen=True, slots=True)
class Question:
    """Requests to send in one piece, their replies, and their number."""

    sent: bytes
    expected: bytes
    count: int = 1


@dataclass(frozen=True, slots=True)
class Run:
    """The number of answered requests and the time in seconds."""

    answered: int
    seconds: float

    @property
    def rate(self) -> float:
        """Return requests per second."""
        return self.answered / self.seconds


class _Client:
    __slots__ = ("expected", "question", "received", "socket")

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""

    def ask(self, question: Question) -> None:
        self.question = question
        self.expected = question.expected
        self.socket.sendall(question.sent)


def netstring(map_name: str, key: str) -> bytes:
    """Return a socketmap request."""
    payload = f"{map_name} {key}".encode()
    return b"%d:%b," % (len(payload), payload)


def ask(address: tuple[str, int], request: bytes) -> bytes:
    """Return the reply to one request."""
    with socket.create_connection(address, timeout=_STALLED) as connection:
        connection.sendall(request)
        reply = b""
        while not reply.endswith(b","):  # no reply of a policy server contains a comma
            piece = connection.recv(65536)
            if not piece:
                raise Wrong(f"the connection was closed instead of an answer to {request!r}")
            reply += piece
    return reply


def drive(
    address: tuple[str, int], connections: int, questions: Iterator[Question], seconds: float = float("inf")
) -> Run:
    """Send the requests over ``connections`` connections until none is left or the time is over.

    Raises ``Wrong`` for a reply that differs, or if none comes for 30 s.
    """
    clients = [_Client(address) for _ in range(connections)]
    by_fd = {client.socket.fileno(): client for client in clients}
    poller = select.epoll()
    answered = 0
    begun = time.monotonic()
    ending = begun + seconds
    try:
        under_way = 0
        for (fd, client), question in zip(by_fd.items(), questions, strict=False):
            poller.register(fd, select.EPOLLIN)
            client.ask(question)
            under_way += 1
        while under_way:
            ready = poller.poll(_STALLED)
            if not ready:
                raise Wrong(f"{under_way} questions got no answer in {_STALLED:g} s")
            go_on = time.monotonic() < ending
            for fd, _ in ready:
                client = by_fd[fd]
                received = client.received + client.socket.recv(262_144)
                if received != client.expected:
                    _refuse_wrong(client, received)
                    client.received = received
                    continue
                client.received = b""
                answered += client.question.count
                following = next(questions, None) if go_on else None
                if following is None:
                    under_way -= 1
                else:
                    client.ask(following)
        return Run(answered, time.monotonic() - begun)
    finally:
        poller.close()
        for client in clients:
            client.socket.close()


def _refuse_wrong(client: _Client, received: bytes) -> None:
    """Check that the received bytes are the start of the expected ones."""
    if len(received) == len(client.received):
        raise Wrong(f"the connection was closed instead of an answer to {client.question.sent[:80]!r}")
    if not client.expected.startswith(received):
        raise Wrong(f"{client.question.sent[:80]!r} got {received[:200]!r}, not {client.expected[:200]!r}")
