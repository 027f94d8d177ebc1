"""Open and read the Unix datagram socket that libtlsrpt sends to; systemd may open it instead."""

import ctypes
import errno
import os
import socket
from dataclasses import dataclass

from ...sockets import bind_unix
from ..model.event import MAX_DATAGRAM

__all__ = ["Datagrams", "SocketSettings", "check_socket", "open_socket"]

# Call recv(2) with the interpreter's lock held. socket.recv releases the lock for each datagram; a busy thread then
# acquires it each time, and the kernel's queue is full before ten datagrams have been received.
_recv = ctypes.PyDLL(None, use_errno=True).recv
_recv.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_recv.restype = ctypes.c_ssize_t


@dataclass(frozen=True, slots=True)
class SocketSettings:
    """Path and permissions of the socket. If empty, ``owner`` and ``group`` are those of this process."""

    path: str
    owner: str = ""
    group: str = ""
    mode: int = 0o660


def open_socket(settings: SocketSettings) -> socket.socket:
    """Return the bound socket. Raises ``OSError`` with the path in its text."""
    path = settings.path
    try:
        return bind_unix(path, socket.SOCK_DGRAM, settings.mode, settings.owner, settings.group)
    except (OSError, LookupError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise OSError(number, f"cannot receive on {path!a}: {reason}") from None


def check_socket(sock: socket.socket) -> socket.socket:
    """Return the inherited socket. Raises ``OSError`` if it is not a Unix datagram socket."""
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_DGRAM:
        raise OSError(None, "cannot receive on the inherited socket: it is not a Unix datagram socket")
    return sock


class Datagrams:
    """Reader of the datagrams of a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        # One byte more than the maximum shows that a datagram is too large, even if it was truncated.
        self._buffer = bytearray(MAX_DATAGRAM + 1)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))

    def fileno(self) -> int:
        """Return the descriptor, for poll."""
        return self._sock.fileno()

    def take(self, most: int) -> list[bytes]:
        """Return up to ``most`` datagrams without waiting; fewer means the socket is empty. Raises ``OSError``."""
        taken: list[bytes] = []
        fd, size, view = self._sock.fileno(), len(self._buffer), memoryview(self._buffer)
        while len(taken) < most:
            length = _recv(fd, self._address, size, socket.MSG_DONTWAIT)
            if length < 0:
                if taken or (number := ctypes.get_errno()) in (errno.EAGAIN, errno.EINTR):
                    break
                raise OSError(number, os.strerror(number))
            taken.append(bytes(view[:length]))
        return taken
