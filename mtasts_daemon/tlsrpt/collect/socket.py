"""The Unix datagram socket that libtlsrpt sends to: made here, or by systemd, and read."""

import ctypes
import errno
import os
import socket
from dataclasses import dataclass

from ...sockets import bound_unix
from ..model.event import MAX_DATAGRAM

__all__ = ["Datagrams", "SocketSettings", "checked", "open_socket"]

# recv(2), called with the interpreter's lock held. Where it is given up for each datagram, as socket.recv does, a
# thread that computes takes it each time, and what the kernel can queue is full before ten have been received.
_recv = ctypes.PyDLL(None, use_errno=True).recv
_recv.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_recv.restype = ctypes.c_ssize_t


@dataclass(frozen=True, slots=True)
class SocketSettings:
    """Where the socket is to be, and who may write to it. Empty ``owner`` and ``group`` leave those of this process."""

    path: str
    owner: str = ""
    group: str = ""
    mode: int = 0o660


def open_socket(settings: SocketSettings) -> socket.socket:
    """The bound socket. Raises ``OSError``, with the path in its text."""
    path = settings.path
    try:
        return bound_unix(path, socket.SOCK_DGRAM, settings.mode, settings.owner, settings.group)
    except (OSError, LookupError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else None
        told = (error.strerror if isinstance(error, OSError) else None) or error
        raise OSError(number, f"cannot receive on {path!a}: {told}") from None


def checked(sock: socket.socket) -> socket.socket:
    """The inherited socket. Raises ``OSError`` where it is of another kind."""
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_DGRAM:
        raise OSError(None, "cannot receive on the inherited socket: it is not a Unix datagram socket")
    return sock


class Datagrams:
    """What has come to a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        # One octet more than is allowed tells a datagram that is too large, whether or not it was cut.
        self._buffer = bytearray(MAX_DATAGRAM + 1)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))

    def fileno(self) -> int:
        """The descriptor, to wait for."""
        return self._sock.fileno()

    def take(self, most: int) -> list[bytes]:
        """Up to so many datagrams, without waiting; fewer are all there were. Raises ``OSError``."""
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
