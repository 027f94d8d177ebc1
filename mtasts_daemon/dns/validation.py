"""Whether the resolver validates DNSSEC: asked at the start, every hour, and whenever it may be another resolver."""

import logging
from collections.abc import Awaitable, Callable

from ..config.values import ProbeQuery
from ..errors import DnsError, DnsServerFailure
from ..log import log_event
from ..policy.dns_answer import DnsAnswer
from ..ports import Resolver

__all__ = ["DnssecMonitor", "validates"]

_EVERY = 3600.0
_EVERY_WHEN_OFF = 60.0


async def validates(resolver: Resolver, signed: ProbeQuery, bogus: ProbeQuery | None = None) -> bool | None:
    """Whether the answer for a signed name carries AD and a bogus name is refused; None without an answer."""
    try:
        answer = await _ask(resolver, signed)
    except DnsError:
        return None
    if not answer.authenticated:
        return False
    if bogus is None:
        return True
    try:
        await _ask(resolver, bogus)
    except DnsServerFailure:
        return True
    except DnsError:
        return None
    return False


def _ask(resolver: Resolver, question: ProbeQuery) -> Awaitable[DnsAnswer[object]]:
    ask: Callable[[str], Awaitable[DnsAnswer[object]]] = getattr(resolver, question.rrtype.lower())
    return ask(question.name)


class DnssecMonitor:
    """Keeps ``state`` and tells of its changes, loudly: without validation DANE is off, rather than mail deferred."""

    def __init__(
        self,
        ask: Callable[[], Awaitable[bool | None]],
        changed: Callable[[bool], None],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.state: bool | None = None
        """None until the first answer."""
        self._ask = ask
        self._changed = changed
        self._sleep = sleep
        self._looks = 0

    async def run(self) -> None:
        """Look for ever: often while DANE is off, so that it comes back soon after the resolver was mended."""
        while True:
            found = await self.look()
            await self._sleep(_EVERY if found else _EVERY_WHEN_OFF)

    async def look(self) -> bool | None:
        """Look now; what was found. Of several looks under way the last one counts."""
        self._looks += 1
        this = self._looks
        found = await self._ask()
        # No answer keeps the last state.
        if this == self._looks and found is not None and found is not self.state:
            self.state = found
            self._tell(found)
            self._changed(found)
        return found

    def _tell(self, found: bool) -> None:
        if found:
            log_event("dnssec-validated", meaning="the resolver validates DNSSEC; DANE is on where it is configured")
        else:
            log_event(
                "dnssec-not-validated",
                level=logging.WARNING,
                meaning="the resolver does not validate DNSSEC, or is not believed (dns.trust_ad): DANE is off",
            )
