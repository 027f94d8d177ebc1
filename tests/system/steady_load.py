"""A steady load on a Unix socket by clients like Postfix: one lookup at a time, repeated once on EOF."""

import errno
import select
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

__all__ = ["SteadyLoad"]

_CLIENTS = 100
"""As many as Postfix runs smtp(8) processes (default_process_limit)."""

_STALLED = 20.0
_PAUSE = 0.05


@dataclass(slots=True)
class _Client:
    request: bytes = b""
    received: bytes = b""
    since: float = 0.0
    retried: bool = False
    sock: socket.socket | None = None


@dataclass(slots=True)
class SteadyLoad:
    """A context manager that sends ``rate`` lookups per second in a thread.

    ``expected`` has the reply to each request. Afterwards: ``answered``, ``lost`` (EOF or refused twice), ``wrong``
    (another reply), ``longest`` (seconds for one lookup, retries included), ``paused`` (seconds without a reply, in
    pauses longer than 50 ms, as at a restart).
    """

    path: Path
    expected: Mapping[bytes, bytes]
    rate: float
    answered: int = 0
    lost: int = 0
    wrong: list[bytes] = field(default_factory=list)
    longest: float = 0.0
    paused: float = 0.0
    seconds: float = 0.0
    _last: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="steady load")
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join()

    def _run(self) -> None:
        idle = [_Client() for _ in range(_CLIENTS)]
        busy: dict[int, _Client] = {}
        poller = select.epoll()
        requests = list(self.expected)
        begun, started = time.monotonic(), 0
        check_at = self._last = begun
        while not self._stop.is_set() or busy:
            now = time.monotonic()
            if not self._stop.is_set():
                # What this thread sends late, on a busy machine, is made up for; the lookups of a pause are not.
                due = int((now - begun - self.paused) * self.rate) - started
                for client in [idle.pop() for _ in range(min(due, len(idle)))]:
                    client.request, client.since, client.retried = requests[started % len(requests)], now, False
                    started += 1
                    self._send(client, idle, busy, poller)
            for descriptor, _ in poller.poll(0.001):
                # An event of this round may have closed the connection of a later one.
                if (waiting := busy.get(descriptor)) is not None:
                    self._receive(waiting, idle, busy, poller)
            if now >= check_at:
                check_at = now + 1
                for client in [client for client in busy.values() if now - client.since > _STALLED]:
                    self._fail(client, idle, busy, poller)
        self.seconds = time.monotonic() - begun
        for client in idle:
            if client.sock is not None:
                client.sock.close()
        poller.close()

    def _send(self, client: _Client, idle: list[_Client], busy: dict[int, _Client], poller: select.epoll) -> None:
        client.received = b""
        try:
            if client.sock is None:
                client.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                client.sock.settimeout(_STALLED)  # with a full backlog connect waits, as for Postfix
                client.sock.connect(str(self.path))
                poller.register(client.sock, select.EPOLLIN)
            busy[client.sock.fileno()] = client
            client.sock.sendall(client.request)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ECONNREFUSED, errno.ENOENT):
                raise
            self._ended(client, idle, busy, poller)

    def _receive(self, client: _Client, idle: list[_Client], busy: dict[int, _Client], poller: select.epoll) -> None:
        assert client.sock is not None
        try:
            piece = client.sock.recv(65536, socket.MSG_DONTWAIT)
        except ConnectionResetError:
            piece = b""
        except BlockingIOError:
            return
        if not piece:
            self._ended(client, idle, busy, poller)
            return
        client.received += piece
        wanted = self.expected[client.request]
        if len(client.received) < len(wanted) and wanted.startswith(client.received):
            return
        if client.received == wanted:
            self.answered += 1
        else:
            self.wrong.append(client.received)
        self._done(client, idle, busy)

    def _ended(self, client: _Client, idle: list[_Client], busy: dict[int, _Client], poller: select.epoll) -> None:
        """Handle the end of the connection: once is normal in a restart, twice for one lookup is a lost lookup."""
        if client.retried:
            self._fail(client, idle, busy, poller)
            return
        client.retried = True
        self._disconnect(client, busy)
        self._send(client, idle, busy, poller)

    def _fail(self, client: _Client, idle: list[_Client], busy: dict[int, _Client], _poller: select.epoll) -> None:
        self.lost += 1
        self._disconnect(client, busy)
        self._done(client, idle, busy)

    def _done(self, client: _Client, idle: list[_Client], busy: dict[int, _Client]) -> None:
        now = time.monotonic()
        self.longest = max(self.longest, now - client.since)
        if now - self._last > _PAUSE:
            self.paused += now - self._last
        self._last = now
        if client.sock is not None:
            busy.pop(client.sock.fileno(), None)
        idle.append(client)

    @staticmethod
    def _disconnect(client: _Client, busy: dict[int, _Client]) -> None:
        if client.sock is not None:
            busy.pop(client.sock.fileno(), None)
            client.sock.close()
            client.sock = None
