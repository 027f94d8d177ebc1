"""Checks for the daemon: on a thread with a standard asyncio event loop, so that no stranger can slow lookups.

The thread is not that of policy fetches: many checks at once must not delay the refresh of a policy.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from ...config import Config
from ...errors import MtaStsError
from ...https.untrusted_loop import UntrustedLoop, UntrustedLoopClosed
from .evidence import CheckEvidence

if TYPE_CHECKING:  # its imports take a good part of a second, and few daemons check anything
    from .checker import DomainChecker
    from .gather import CheckStep

__all__ = ["CheckBusy", "CheckService"]

_AT_ONCE = 64
_PER_ADDRESS = 100
"""Sessions per hour with one address, to limit what strangers can make this host do to other servers."""
_REMEMBERED = 500
_CLOSE_WITHIN = 5.0
_WITHIN = 85.0
"""Seconds of a check, less than the admin API gives a request."""

OnStep = Callable[["CheckStep"], None]


class CheckBusy(MtaStsError):
    """Too many checks are under way."""

    slug = "check-busy"


class CheckService:
    """Checks domains on a thread of its own, which starts with the first check; a part of the daemon."""

    name = "check-service"

    def __init__(self, make: "Callable[[Config], DomainChecker] | None" = None) -> None:
        self._make = make or _make_checker
        self._config = Config()
        self._changed = True
        self._loop = UntrustedLoop("check")
        self._checker: DomainChecker | None = None
        self._known: OrderedDict[str, tuple[float, CheckEvidence]] = OrderedDict()
        self._running: dict[str, asyncio.Task[CheckEvidence]] = {}
        self._listeners: dict[str, list[OnStep]] = {}
        self.checks = 0
        """Checks since the start."""

    async def configure(self, config: Config) -> None:
        """Use this configuration for checks that begin from now on. For the main loop."""
        old, self._config = self._config, config
        before = (old.dns, old.https, old.check.port25)
        self._changed = self._changed or before != (config.dns, config.https, config.check.port25)

    async def evidence(
        self, domain: str, *, max_age: float = 0.0, on_step: OnStep = lambda _step: None
    ) -> CheckEvidence:
        """Check the domain (A-labels), or return evidence that is at most ``max_age`` seconds old.

        Call it on any event loop. ``on_step`` is called on the check thread. Raises ``CheckBusy``, ``ConfigError`` or
        ``TimeoutError``.
        """
        return await self._loop.run(lambda: self._evidence(domain, max_age, on_step))

    async def stop(self) -> None:
        """Cancel checks and end the thread; wait for a few seconds at most."""
        if self._checker is not None:
            with suppress(UntrustedLoopClosed, TimeoutError):
                async with asyncio.timeout(_CLOSE_WITHIN):
                    await self._loop.run(self._checker.close)
        await self._loop.close()

    # -- on the thread ---------------------------------------------------------------------------------------

    async def _evidence(self, domain: str, max_age: float, on_step: OnStep) -> CheckEvidence:
        now = asyncio.get_running_loop().time()
        known = self._known.get(domain)
        if known is not None and now - known[0] < max_age:
            return known[1]
        task = self._running.get(domain)
        if task is None:
            if len(self._running) >= _AT_ONCE:
                raise CheckBusy
            task = self._running[domain] = asyncio.get_running_loop().create_task(self._check(domain))
            self._listeners[domain] = []
            task.add_done_callback(lambda done: self._finish(domain, done))
        self._listeners[domain].append(on_step)
        return await asyncio.shield(task)

    async def _check(self, domain: str) -> CheckEvidence:
        self.checks += 1
        checker = await self._current()
        async with asyncio.timeout(_WITHIN):
            return await checker.gather(domain, lambda step: self._tell_listeners(domain, step))

    async def _current(self) -> "DomainChecker":
        """Return the checker for the configuration in force; the old one is closed when its checks have ended."""
        if self._changed or self._checker is None:
            self._changed = False
            old, self._checker = self._checker, self._make(self._config)
            if old is not None:
                asyncio.get_running_loop().call_later(2 * _WITHIN, _close_later, old)
        return self._checker

    def _tell_listeners(self, domain: str, step: "CheckStep") -> None:
        for listener in self._listeners.get(domain, ()):
            listener(step)

    def _finish(self, domain: str, task: "asyncio.Task[CheckEvidence]") -> None:
        self._running.pop(domain, None)
        self._listeners.pop(domain, None)
        if task.cancelled() or task.exception() is not None:
            return
        self._known.pop(domain, None)
        while len(self._known) >= _REMEMBERED:
            self._known.popitem(last=False)
        self._known[domain] = asyncio.get_running_loop().time(), task.result()


def _make_checker(config: Config) -> "DomainChecker":
    from .checker import DomainChecker

    return DomainChecker(config, port25=config.check.port25, per_address=_PER_ADDRESS)


_closing: set["asyncio.Task[None]"] = set()


def _close_later(checker: "DomainChecker") -> None:
    task = asyncio.get_running_loop().create_task(checker.close())
    _closing.add(task)
    task.add_done_callback(_closing.discard)
