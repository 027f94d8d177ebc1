"""Parts of the daemon that lookups do not depend on: started, reconfigured and stopped without stopping lookups."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from ..config import Config
from ..counters import Counters
from ..errors import MtaStsError
from ..log import log_event

__all__ = ["OptionalParts", "Part"]

_WITHIN = 10.0
"""Seconds to wait for all parts: a disk or a database server that hangs must not hold up the start or a reload."""
_AT_LEAST = 1.0
"""Seconds for each part, however long earlier ones took."""
_STOP_WITHIN = 2.0


class Part(Protocol):
    """A part that may fail to start, for example because its port is in use."""

    @property
    def name(self) -> str:
        """The name in log events and in the readiness check."""

    async def configure(self, config: Config) -> None:
        """Start, or take over a new configuration. Raises OSError or MtaStsError if that is not possible now.

        After an error the part keeps its earlier state, and is called again later. It is not called while a call is
        under way; one that takes long continues in the background.
        """

    async def stop(self) -> None:
        """Stop, also if it never started."""


class OptionalParts:
    """All optional parts. ``retry`` is a background task's body: it configures again the parts that failed."""

    def __init__(self, counters: Counters, within: float = _WITHIN) -> None:
        self._parts: list[Part] = []
        self._counters = counters
        self._within = within
        self._config: Config | None = None
        self._failures: dict[str, str] = {}
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._stopping = False

    @property
    def failures(self) -> Mapping[str, str]:
        """The parts that are not in the state that the configuration asks for: name to reason."""
        return self._failures

    def add(self, part: Part) -> None:
        """Add a part, to be stopped before those that were added earlier."""
        self._parts.append(part)

    async def configure(self, config: Config) -> None:
        """Configure every part, even if others fail or hang."""
        self._config = config
        loop = asyncio.get_running_loop()
        until = loop.time() + self._within
        for part in self._parts:
            await self._bring_up(part, max(until - loop.time(), min(_AT_LEAST, self._within)))

    async def retry(self, config: Config) -> None:
        """Configure again the parts that failed."""
        self._config = config
        for part in self._parts:
            if part.name in self._failures:
                await self._bring_up(part, self._within)

    async def _bring_up(self, part: Part, within: float) -> None:
        """Wait until the part has the newest configuration, or for a while."""
        task = self._under_way.get(part.name)
        if task is None or task.done():
            task = self._under_way[part.name] = asyncio.create_task(self._configure(part), name=f"part {part.name}")
        done, _ = await asyncio.wait([task], timeout=within)
        if done and task.cancelled() and not self._stopping:  # by something that the part waits for
            self._failed(part, "it was interrupted")
        elif not done:
            self._failed(part, f"it is not ready after {within:.1f} s, and still starting")

    async def _configure(self, part: Part) -> None:
        config = None
        while config is not self._config:  # a reload may come while the part takes over an older configuration
            config = self._config
            assert config is not None
            try:
                await part.configure(config)
            except (OSError, MtaStsError) as error:
                self._failed(part, (error.strerror if isinstance(error, OSError) else None) or str(error))
            except Exception as error:
                self._counters.unhandled += 1
                logging.getLogger(__name__).exception("part-internal-error", extra={"fields": {"part": part.name}})
                self._failed(part, f"internal error: {type(error).__name__}")
            else:
                if self._failures.pop(part.name, None) is not None:
                    log_event("part-recovered", part=part.name)

    def _failed(self, part: Part, reason: str) -> None:
        level = logging.DEBUG if part.name in self._failures else logging.ERROR
        self._failures[part.name] = reason
        log_event("part-failed", level=level, part=part.name, error=reason, effect="lookups go on; retried")

    async def stop(self) -> None:
        """Stop every part, the last one first."""
        self._stopping = True
        tasks = [task for task in self._under_way.values() if not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_WITHIN)
        for part in reversed(self._parts):
            try:
                await part.stop()
            except Exception:
                self._counters.unhandled += 1
                logging.getLogger(__name__).exception("part-internal-error", extra={"fields": {"part": part.name}})
