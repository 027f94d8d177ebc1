"""Apply a new configuration while the daemon runs, or keep the old one."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from ..config import Config, ConfigProblems, Loaded, ReloadResult
from ..config.values import Listen
from ..counters import Counters
from ..log import log_event
from ..lookup.listeners import Listeners
from ..ports import Clock
from .parts import OptionalParts
from .systemd import Notifier

__all__ = ["Reloader", "wanted_listeners"]

_RESTART_ONLY = ("store",)


def wanted_listeners(config: Config, socket_activated: bool) -> list[Listen]:
    """Return the lookup listeners to open: with socket activation only those written in the configuration."""
    if socket_activated and "listen" not in config.model_fields_set:
        return []
    return list(config.listen)


class Reloader:
    """Holds the configuration in force. Lookup listeners are verified first; then every part is configured."""

    def __init__(
        self,
        loaded: Loaded,
        load: Callable[[], Loaded],
        notifier: Notifier,
        clock: Clock,
        counters: Counters,
        status: Callable[[], str],
    ) -> None:
        self.loaded = loaded
        """The configuration in force."""
        self.result = ReloadResult(clock.wall(), (), clock.wall())
        """The result of the last reload."""
        self._load = load
        self._notifier = notifier
        self._clock = clock
        self._counters = counters
        self._status = status
        self._busy = asyncio.Lock()

    async def reload(
        self,
        listeners: Listeners,
        socket_activated: bool,
        configure: Callable[[Config, Config], None],
        optional: OptionalParts,
    ) -> ReloadResult:
        """Read the configuration and put it in force. A configuration with a problem changes nothing.

        ``configure`` takes the old and the new configuration and must not fail for a configuration that was loaded.
        Optional parts that cannot follow are logged and retried; they do not fail the reload.
        """
        async with self._busy:
            self._notifier.reloading()
            problems = await self._take_over(listeners, socket_activated, configure)
            now = self._clock.wall()
            self.result = ReloadResult(now, problems, self.result.succeeded_at if problems else now)
            if problems:
                reason = problems[0] if len(problems) == 1 else f"the new one has {len(problems)} problems, see the log"
                self._notifier.ready(f"the old configuration is in force: {reason}")
                return self.result
            await optional.configure(self.loaded.config)
            log_event("reloaded")
            self._notifier.ready(self._status())
            return self.result

    async def _take_over(
        self, listeners: Listeners, socket_activated: bool, configure: Callable[[Config, Config], None]
    ) -> Sequence[str]:
        """Return the problems of the new configuration; if there are none it is in force."""
        try:
            loaded = await asyncio.to_thread(self._load)
            new, old = loaded.config, self.loaded.config
            await listeners.change(wanted_listeners(new, socket_activated), new.unix_mode)
            self.loaded = loaded
            for section in _RESTART_ONLY:
                if getattr(old, section) != getattr(new, section):
                    log_event("restart-needed", level=logging.WARNING, section=section)
            configure(old, new)
        except ConfigProblems as error:
            for problem in error.problems:
                log_event("reload-refused", level=logging.ERROR, problem=problem)
            return [str(problem) for problem in error.problems]
        except OSError as error:
            log_event("reload-refused", level=logging.ERROR, problem=error.strerror or error)
            return [error.strerror or str(error)]
        except Exception:
            # The service manager must not wait for this reload until its timeout.
            self._counters.unhandled += 1
            logging.getLogger(__name__).exception("reload-failed")
            return ["internal error during the reload, see the log"]
        return ()
