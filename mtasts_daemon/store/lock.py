"""The lock that lets only one process write a store.

Two writing processes would overwrite each other's newer entries with older ones.
"""

import fcntl
import os
from pathlib import Path

from .sqlite_file import as_store_error, make_file

__all__ = ["StoreLock"]


class StoreLock:
    """The lock file ``PATH.lock``. The kernel releases the lock when the process ends."""

    def __init__(self) -> None:
        self._fd: int | None = None

    def take(self, path: str) -> bool:
        """Return True if this process has the lock now. Raises ``StoreError``."""
        # Not the store's own file: closing a descriptor of that would drop SQLite's locks on it. The lock file is never
        # removed, because a removed file can be locked twice.
        name = Path(f"{path}.lock")
        try:
            if self._fd is None:
                make_file(name)
                self._fd = os.open(name, os.O_RDWR | os.O_CLOEXEC)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except (OSError, ValueError) as error:
            raise as_store_error(error) from None
        return True

    def release(self) -> None:
        """Release the lock."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
