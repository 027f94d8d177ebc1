"""The Unix datagram socket that libtlsrpt sends to: made here, or by systemd, and read."""

import contextlib
import ctypes
import errno
import os
import shutil
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from .event import MAX_DATAGRAM

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
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        _remove_stale(path)
        # Nobody may send before owner and mode are as wanted.
        before = os.umask(0o777)
        try:
            sock.bind(path)
        finally:
            os.umask(before)
        if settings.owner:
            shutil.chown(path, settings.owner)
        if settings.group:
            shutil.chown(path, group=settings.group)
        Path(path).chmod(settings.mode)
    except (OSError, LookupError, ValueError) as error:
        sock.close()
        number = error.errno if isinstance(error, OSError) else None
        told = (error.strerror if isinstance(error, OSError) else None) or error
        raise OSError(number, f"cannot receive on {path!a}: {told}") from None
    return sock


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


def _remove_stale(path: str) -> None:
    """Remove a socket that a killed daemon left; one that still takes datagrams is somebody's."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            raise FileExistsError(17, "something that is not a socket is in the way")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                Path(path).unlink()
                return
        raise OSError(98, "another process receives on it")
