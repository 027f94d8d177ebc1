"""The Unix datagram socket that libtlsrpt sends to: made here, or checked when systemd made it."""

import contextlib
import os
import shutil
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SocketSettings", "checked", "open_socket"]


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
