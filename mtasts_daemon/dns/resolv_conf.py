"""Read the resolvers in resolv.conf(5), and read them again when the file changes.

dnspython rejects the whole file for one bad address, where the C library skips the line, and its ``dns.resolver`` takes
a tenth of a second to import.
"""

import ipaddress
from pathlib import Path
from typing import Final

__all__ = ["DEFAULT_PATH", "LOCAL", "ResolvConf"]

DEFAULT_PATH: Final = Path("/etc/resolv.conf")
LOCAL: Final = ("127.0.0.1", 53)
"""The resolver on this host, which the C library asks if the file is missing or has no nameserver line."""

_RESOLVERS_MAX: Final = 8
_SIZE_MAX: Final = 64 * 1024


class ResolvConf:
    """A resolv.conf that is read again when it changes; checking costs one stat(2)."""

    def __init__(self, path: Path = DEFAULT_PATH) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None

    def read(self) -> list[tuple[str, int]] | None:
        """Return its resolvers, at most 8, or None if it has not changed or cannot be read."""
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_ino, status.st_size)
            if seen == self._seen:
                return None
            with self._path.open("rb") as file:
                text = file.read(_SIZE_MAX).decode("ascii", "replace")
        except OSError:
            return None
        self._seen = seen
        return _parse(text)[:_RESOLVERS_MAX] or [LOCAL]


def _parse(text: str) -> list[tuple[str, int]]:
    resolvers: list[tuple[str, int]] = []
    for line in text.splitlines():
        match line.split():
            case ["nameserver", address, *_] if _is_address(address):
                resolvers.append((address, 53))
    return resolvers


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
