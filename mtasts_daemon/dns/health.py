"""Tells of resolvers that answer nothing: without them no policy is learnt, and the lookups alone would not say why.

One question without an answer says little, since the name servers of its domain may be what is silent. So the resolvers
are then asked for what they know without them.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence

from ..errors import DnsError, DnsTimeout, DnsUnreachable
from ..log import log_event
from ..ports import Spawn

__all__ = ["ResolverHealth"]

_EVERY = 5.0
"""Seconds between two looks while they are silent."""


class ResolverHealth:
    """Looks when it is told to, and then until there is an answer.

    ``ask`` asks what any resolver answers by itself, and raises ``DnsError``; ``addresses`` gives those that are asked.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[object]],
        addresses: Callable[[], Sequence[str]],
        spawn: Spawn,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._ask = ask
        self._addresses = addresses
        self._spawn = spawn
        self._sleep = sleep
        self._looking = False

    def suspect(self) -> None:
        """Find out whether it is the resolvers that had no answer to a question."""
        if not self._looking:
            self._looking = True
            self._spawn(self._look(), "look at resolvers")

    async def _look(self) -> None:
        told = False
        try:
            while (error := await self._silence()) is not None:
                told |= log_event(
                    "resolver-unreachable", level=logging.WARNING, once_a_minute="", ask=self._asked(), error=error
                )
                await self._sleep(_EVERY)
        finally:
            self._looking = False
        if told:
            log_event("resolver-recovered", ask=self._asked())

    async def _silence(self) -> DnsError | None:
        try:
            await self._ask()
        except (DnsTimeout, DnsUnreachable) as error:
            return error
        except DnsError:  # also that is an answer
            return None
        return None

    def _asked(self) -> str:
        return ",".join(self._addresses())
