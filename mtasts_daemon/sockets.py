"""Bind and connect Unix sockets."""

import contextlib
import errno
import os
import shutil
import socket
import stat
from pathlib import Path

__all__ = ["bind_unix", "connect_unix"]


def bind_unix(path: str, kind: socket.SocketKind, mode: int, owner: str = "", group: str = "") -> socket.socket:
    """Return a socket bound to the path, with mode, owner and group. A stale socket is replaced.

    Raises ``OSError``, also if another file is in the way or another process listens; ``LookupError`` for an unknown
    owner or group.
    """
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        _remove_stale(path, kind)
        # No client may connect before permissions and owner are set.
        before = os.umask(0o777)
        try:
            sock.bind(path)
        finally:
            os.umask(before)
        if owner:
            shutil.chown(path, owner)
        if group:
            shutil.chown(path, group=group)
        Path(path).chmod(mode)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: str, kind: socket.SocketKind) -> None:
    """Remove a socket on which no process listens."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "a file that is not a socket is in the way")
        try:
            connect_unix(path, 1.0, kind).close()
        except ConnectionRefusedError:
            Path(path).unlink()
            return
        raise OSError(errno.EADDRINUSE, "another process listens on this socket")


def connect_unix(path: str, timeout: float, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """Return a socket connected to ``path``. ``timeout`` in seconds applies to each call. Raises ``OSError``."""
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        sock.settimeout(timeout)
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock
