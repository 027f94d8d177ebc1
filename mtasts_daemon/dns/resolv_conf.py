"""Which resolvers resolv.conf(5) names, and whether it has changed.

Its ``nameserver`` lines are read here and not by dnspython, which refuses the whole file for one bad address
where the C library skips the line, and whose ``dns.resolver`` takes a tenth of a second to import.
"""

import ipaddress
from pathlib import Path
from typing import Final

__all__ = ["DEFAULT_PATH", "LOCAL", "ResolvConf"]

DEFAULT_PATH: Final = Path("/etc/resolv.conf")
LOCAL: Final = ("127.0.0.1", 53)
"""The resolver on this host: what the C library asks when the file is absent or names none."""

_RESOLVERS_MAX: Final = 8
_SIZE_MAX: Final = 64 * 1024


class ResolvConf:
    """A resolv.conf that is watched; to read it again costs one stat(2) as long as nothing has changed."""

    def __init__(self, path: Path = DEFAULT_PATH) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None

    def read(self) -> list[tuple[str, int]] | None:
        """The resolvers it names, at most 8; None when it is as it was, or cannot be read."""
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
