"""Whether the resolvers answer, and whether they validate DNSSEC."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from ..config.values import ProbeQuery
from ..errors import DnsError, DnsServerFailure, DnsTimeout, DnsUnreachable
from ..log import log_event
from ..policy.dns_answer import DnsAnswer
from ..ports import Resolver, Spawn

__all__ = ["DnssecMonitor", "ResolverHealth", "validates"]

_PROBE_EVERY = 1.0
"""Seconds between two probes while the resolvers fail."""

_FRESH = 10.0
"""Seconds for which an answer shows that the resolvers work."""

_CHECK_TIMEOUT = 3.0

_CHECK_EVERY = 3600.0
_CHECK_EVERY_WHEN_OFF = 60.0

_SIGNED = tuple(ProbeQuery("NS", name) for name in ("", "com", "net", "org"))
"""Signed names; a resolver that answers some of them itself sets no AD bit for these."""


class ResolverHealth:
    """Probes the resolvers when they are suspected, until they answer.

    ``ask`` asks what any resolver answers, and raises ``DnsError``. ``addresses`` returns the resolvers, and
    ``answered_within`` whether any question was answered in the last seconds. ``set_down`` is called with a reason
    while they do not answer, so that other questions fail at once, and then with None.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[object]],
        addresses: Callable[[], Sequence[str]],
        answered_within: Callable[[float], bool],
        set_down: Callable[[str | None], None],
        spawn: Spawn,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.failure: DnsError | None = None
        """Why the last probe failed; None while the resolvers answer."""
        self._ask = ask
        self._addresses = addresses
        self._answered_within = answered_within
        self._set_down = set_down
        self._spawn = spawn
        self._sleep = sleep
        self._probing = False
        self._probed = asyncio.Event()

    def suspect(self) -> None:
        """Probe the resolvers now, because questions failed or the daemon starts."""
        if not self._probing:
            self._probing = True
            self._probed.clear()
            self._spawn(self._probe(), "probe resolvers")

    async def check(self) -> DnsError | None:
        """Return why the resolvers fail, or None. Waits up to 3 s if nothing was answered in the last 10 s."""
        if self.failure is not None or self._answered_within(_FRESH):
            return self.failure
        self.suspect()
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT):
                await self._probed.wait()
        except TimeoutError:
            return DnsTimeout(f"no answer within {_CHECK_TIMEOUT:g} s")
        return self.failure

    async def _probe(self) -> None:
        logged = False
        try:
            while (failure := await self._failure()) is not None:
                self.failure = failure
                self._probed.set()
                silent = isinstance(failure, DnsTimeout | DnsUnreachable)
                if silent:
                    self._set_down(f"no resolver answers ({self._listed()})")
                if not logged:
                    event = "resolver-unreachable" if silent else "resolver-failing"
                    logged = log_event(
                        event, level=logging.WARNING, once_a_minute="", resolvers=self._listed(), error=failure
                    )
                await self._sleep(_PROBE_EVERY)
        finally:
            self._probing = False
            self._set_down(None)
        self.failure = None
        self._probed.set()
        if logged:
            log_event("resolver-recovered", resolvers=self._listed())

    async def _failure(self) -> DnsError | None:
        try:
            await self._ask()
        except DnsError as error:
            return error
        return None

    def _listed(self) -> str:
        return ",".join(self._addresses())


async def validates(resolver: Resolver, signed: ProbeQuery, bogus: ProbeQuery | None = None) -> bool | None:
    """Return whether the resolver validates DNSSEC, or None without an answer.

    It does if the answer for ``signed``, or for any of several other signed names, carries a trusted AD bit, and if a
    query for ``bogus`` fails.
    """
    found = await _any_authenticated(resolver, [signed])
    if not found:
        others = await _any_authenticated(resolver, [other for other in _SIGNED if other != signed])
        found = others if others is not None else found
    if not found or bogus is None:
        return found
    try:
        await _ask(resolver, bogus)
    except DnsServerFailure:
        return True
    except DnsError:
        return None
    return False


async def _any_authenticated(resolver: Resolver, questions: Sequence[ProbeQuery]) -> bool | None:
    """Return whether any answer is authenticated, or None without an answer for an existing name."""
    asked = [_ask(resolver, question) for question in questions]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    found = [answer for answer in answers if isinstance(answer, DnsAnswer)]
    return any(answer.authenticated for answer in found) if found else None


def _ask(resolver: Resolver, question: ProbeQuery) -> Awaitable[DnsAnswer[object]]:
    ask: Callable[[str], Awaitable[DnsAnswer[object]]] = getattr(resolver, question.rrtype.lower())
    return ask(question.name)


class DnssecMonitor:
    """Keeps ``state``, whether the resolver validates DNSSEC, and logs its changes.

    Without validation DANE is off, so that mail is not deferred.
    """

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
        self._checks = 0

    async def run(self) -> None:
        """Check every hour, and every minute while DANE is off."""
        while True:
            found = await self.check()
            await self._sleep(_CHECK_EVERY if found else _CHECK_EVERY_WHEN_OFF)

    async def check(self) -> bool | None:
        """Check now, and return the result. Of several checks under way the last counts."""
        self._checks += 1
        this = self._checks
        found = await self._ask()
        # Without an answer the last state stays.
        if this == self._checks and found is not None and found is not self.state:
            self.state = found
            self._log(found)
            self._changed(found)
        return found

    def _log(self, found: bool) -> None:
        if found:
            log_event("dnssec-validated", meaning="the resolver validates DNSSEC; DANE is on if it is configured")
        else:
            log_event(
                "dnssec-not-validated",
                level=logging.WARNING,
                meaning="the resolver does not validate DNSSEC, or dns.trust_ad does not include it; DANE is off",
            )
