"""One process writes a store: the lock that says which.

Two of them would each write over what the other has learnt with what it had learnt before.
"""

import fcntl
import os
from pathlib import Path

from .database import as_store_error, make_file

__all__ = ["StoreLock"]


class StoreLock:
    """Of the store at a path, as ``PATH.lock``; it ends with the process, however that ends."""

    def __init__(self) -> None:
        self._fd: int | None = None

    def take(self, path: str) -> bool:
        """Whether it is ours now; another process may have it. Raises ``StoreError``."""
        # A file of its own, and left where it is: closing a descriptor of the store's own file would undo SQLite's
        # locks on it, and a file that is removed can be locked twice.
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
        """Let another process have it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
