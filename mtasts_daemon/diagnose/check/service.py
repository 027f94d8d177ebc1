"""Checks for the daemon: on a thread with a standard asyncio event loop, so that no stranger can slow lookups.

``evidence`` may be called from any thread; everything else happens on the check thread.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from ...config import Config
from ...errors import MtaStsError
from ...log import log_event
from .evidence import CheckEvidence

if TYPE_CHECKING:  # its imports take a good part of a second, and few daemons check anything
    from .checker import DomainChecker
    from .gather import CheckStep

__all__ = ["CheckBusy", "CheckService"]

_AT_ONCE = 64
_REMEMBERED = 500
_WITHIN = 85.0
"""Seconds of a check, less than the admin API gives a request."""
_CLOSE_WITHIN = 5.0

OnStep = Callable[["CheckStep"], None]


class CheckBusy(MtaStsError):
    """Too many checks are under way."""

    slug = "check-busy"


class CheckService:
    """Checks domains on a thread of its own, which starts with the first check."""

    def __init__(self, make: "Callable[[Config, bool], DomainChecker] | None" = None) -> None:
        self._make = make or _make_checker
        self._config = Config()
        self._port25 = True
        self._changed = True
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._checker: DomainChecker | None = None
        self._known: OrderedDict[str, tuple[float, CheckEvidence]] = OrderedDict()
        self._running: dict[str, asyncio.Task[CheckEvidence]] = {}
        self._listeners: dict[str, list[OnStep]] = {}
        self.checks = 0
        """Checks since the start."""

    def configure(self, config: Config, *, port25: bool = True) -> None:
        """Use this configuration for checks that begin from now on. For the main loop."""
        before = (self._config.dns, self._config.https, self._port25)
        self._config, self._port25 = config, port25
        self._changed = self._changed or before != (config.dns, config.https, port25)

    def evidence(
        self, domain: str, *, max_age: float = 0.0, on_step: OnStep = lambda _step: None
    ) -> "Future[CheckEvidence]":
        """Check the domain (A-labels), or return evidence that is at most ``max_age`` seconds old.

        ``on_step`` is called on the check thread. The future raises ``CheckBusy``, ``ConfigError`` or ``TimeoutError``.
        """
        return asyncio.run_coroutine_threadsafe(self._evidence(domain, max_age, on_step), self._started())

    def stop(self) -> None:
        """Cancel checks and end the thread. Blocks for a few seconds at most."""
        with self._lock:
            thread, loop, self._thread = self._thread, self._loop, None
        if thread is None or loop is None:
            return
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_CLOSE_WITHIN)

    # -- the thread ------------------------------------------------------------------------------------------

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._thread is None or self._loop is None or not self._thread.is_alive():
                self._loop = asyncio.SelectorEventLoop()
                self._known.clear()
                self._running.clear()
                self._checker, self._changed = None, True
                self._thread = threading.Thread(target=self._run, args=(self._loop,), name="check", daemon=True)
                self._thread.start()
            return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            loop.run_until_complete(self._close())
        except Exception as error:  # a bug; the next check starts another thread
            log_event("check-thread-failed", error=error)
        finally:
            loop.close()

    async def _close(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._checker is not None:
            await self._checker.close()

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
            old, self._checker = self._checker, self._make(self._config, self._port25)
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


def _make_checker(config: Config, port25: bool) -> "DomainChecker":
    from .checker import DomainChecker

    return DomainChecker(config, port25=port25)


_closing: set["asyncio.Task[None]"] = set()


def _close_later(checker: "DomainChecker") -> None:
    task = asyncio.get_running_loop().create_task(checker.close())
    _closing.add(task)
    task.add_done_callback(_closing.discard)
