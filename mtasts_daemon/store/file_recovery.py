"""Check SQLite files while the process runs.

A deleted file can still be written through its open descriptor, but its content would be lost at the next start.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from .. import errors
from ..counters import Counters
from ..log import log_event
from ..ports import Clock

__all__ = ["FileRecovery", "Recoverable"]

_EVERY = 60.0


class Recoverable(Protocol):
    """Data in a file that can be recovered."""

    @property
    def path(self) -> str | Path:
        """The file."""

    async def recover(self, now: float) -> Sequence[errors.StoreError]:
        """Recover if the file was deleted or replaced. Return the problems found. Raises ``StoreError``."""


class FileRecovery:
    """Checks files once a minute. ``run`` is the body of a background task."""

    def __init__(
        self,
        files: Sequence[Recoverable],
        counters: Counters,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._files = files
        self._counters = counters
        self._clock = clock
        self._sleep = sleep

    async def run(self) -> None:
        """Check now and then once a minute."""
        while True:
            await self.check()
            await self._sleep(_EVERY)

    async def check(self) -> None:
        """Recover the files that were deleted or replaced; log what cannot be recovered."""
        for file in self._files:
            await self.guarded(file, partial(self.recover, file))

    async def guarded(self, kept: Recoverable, check: Callable[[], Awaitable[object]]) -> None:
        """Run a check of a file and log its failure."""
        try:
            await check()
        except errors.StoreError as error:
            log_event("store-file-changed", level=logging.ERROR, path=kept.path, error=error)
        except Exception:
            # A bug; the next check may succeed.
            self._counters.unhandled += 1
            logging.getLogger(__name__).exception("store-watch-failed")

    async def recover(self, kept: Recoverable) -> bool:
        """Return True if the file was deleted or replaced. Raises ``StoreError`` if it cannot be recovered."""
        found = await kept.recover(self._clock.wall())
        for problem in found:
            log_event("store-file-changed", level=logging.ERROR, path=kept.path, what=problem.detail)
        return bool(found)
