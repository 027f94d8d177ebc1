"""Whether the resolver validates DNSSEC: asked at the start and every hour, since DANE stands and falls with it."""

import logging
from collections.abc import Awaitable, Callable

from .config.values import Question
from .errors import DnsError, DnsServerFailure
from .observe import tell
from .policy.answers import Answer
from .ports.api import Resolver

__all__ = ["DnssecWatch", "validates"]

_EVERY = 3600.0
_EVERY_WHEN_UNKNOWN = 60.0


async def validates(resolver: Resolver, signed: Question, bogus: Question | None = None) -> bool | None:
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


def _ask(resolver: Resolver, question: Question) -> Awaitable[Answer[object]]:
    ask: Callable[[str], Awaitable[Answer[object]]] = getattr(resolver, question.rrtype.lower())
    return ask(question.name)


class DnssecWatch:
    """Keeps ``state`` and tells of its changes, loudly: without validation DANE is off, rather than mail deferred."""

    def __init__(self, changed: Callable[[bool], None], sleep: Callable[[float], Awaitable[None]]) -> None:
        self.state: bool | None = None
        """None until the first answer."""
        self._changed = changed
        self._sleep = sleep

    async def run(self, look: Callable[[], Awaitable[bool | None]]) -> None:
        """Look for ever."""
        while True:
            found = await look()
            # No answer keeps the last state.
            if found is not None and found is not self.state:
                self.state = found
                self._tell(found)
                self._changed(found)
            await self._sleep(_EVERY_WHEN_UNKNOWN if found is None else _EVERY)

    def _tell(self, found: bool) -> None:
        if found:
            tell("dnssec-validated", meaning="the resolver validates DNSSEC; DANE is on where it is configured")
        else:
            tell(
                "dnssec-not-validated",
                level=logging.WARNING,
                meaning="the resolver does not validate DNSSEC, or is not believed (dns.trust_ad): DANE is off",
            )
