"""Parts of the daemon that lookups do not depend on: started, reconfigured and stopped without stopping lookups."""

import logging
from collections.abc import Mapping
from typing import Protocol

from ..config import Config
from ..counters import Counters
from ..errors import MtaStsError
from ..log import log_event

__all__ = ["OptionalParts", "Part"]


class Part(Protocol):
    """A part that may fail to start, for example because its port is in use."""

    @property
    def name(self) -> str:
        """The name in log events and in the readiness check."""

    async def configure(self, config: Config) -> None:
        """Start, or take over a new configuration. Raises OSError or MtaStsError if that is not possible now.

        After an error the part keeps what it had, and is called again later.
        """

    async def stop(self) -> None:
        """Stop, also if it never started."""


class OptionalParts:
    """All optional parts. ``retry`` is a background task's body: it configures again the parts that failed."""

    def __init__(self, counters: Counters) -> None:
        self._parts: list[Part] = []
        self._counters = counters
        self._failures: dict[str, str] = {}

    @property
    def failures(self) -> Mapping[str, str]:
        """The parts that are not in the state that the configuration asks for: name to reason."""
        return self._failures

    def add(self, part: Part) -> None:
        """Add a part, to be stopped before those that were added earlier."""
        self._parts.append(part)

    async def configure(self, config: Config) -> None:
        """Configure every part, even if others fail."""
        for part in self._parts:
            await self._configure(part, config)

    async def retry(self, config: Config) -> None:
        """Configure again the parts that failed."""
        for part in self._parts:
            if part.name in self._failures:
                await self._configure(part, config)

    async def _configure(self, part: Part, config: Config) -> None:
        failed_before = part.name in self._failures
        try:
            await part.configure(config)
        except (OSError, MtaStsError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        except Exception as error:
            self._counters.unhandled += 1
            logging.getLogger(__name__).exception("part-internal-error", extra={"fields": {"part": part.name}})
            reason = f"internal error: {type(error).__name__}"
        else:
            if self._failures.pop(part.name, None) is not None:
                log_event("part-recovered", part=part.name)
            return
        self._failures[part.name] = reason
        level = logging.DEBUG if failed_before else logging.ERROR
        log_event("part-failed", level=level, part=part.name, error=reason, effect="lookups go on; retried")

    async def stop(self) -> None:
        """Stop every part, the last one first."""
        for part in reversed(self._parts):
            try:
                await part.stop()
            except Exception:
                self._counters.unhandled += 1
                logging.getLogger(__name__).exception("part-internal-error", extra={"fields": {"part": part.name}})
