"""Unix sockets: bound where a killed process may have left one, and connected to."""

import contextlib
import errno
import os
import shutil
import socket
import stat
from pathlib import Path

__all__ = ["bound_unix", "connected_unix"]


def bound_unix(path: str, kind: socket.SocketKind, mode: int, owner: str = "", group: str = "") -> socket.socket:
    """A socket bound to the path, with that mode, and that owner and group where they are given.

    Raises ``OSError``, also where something else is there or another process answers; ``LookupError`` for an owner or a
    group that this host does not know.
    """
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        _remove_stale(path, kind)
        # Nobody may connect before all of that is as wanted.
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
    """Remove a socket that nobody answers at."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "something that is not a socket is in the way")
        try:
            connected_unix(path, 1.0, kind).close()
        except ConnectionRefusedError:
            Path(path).unlink()
            return
        raise OSError(errno.EADDRINUSE, "another process listens on it")


def connected_unix(path: str, timeout: float, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """A socket connected to the one at the path; ``timeout`` in seconds is for each call. Raises ``OSError``."""
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        sock.settimeout(timeout)
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock
