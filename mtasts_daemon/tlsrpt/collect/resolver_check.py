"""Check if a DNS failure is caused by a domain or by the resolver, with a query for the root's name servers.

A validating resolver answers SERVFAIL for a domain with broken DNSSEC (RFC 4035 section 5.5), and for every name if it
is broken itself. Only a failure of the domain is reported to it.
"""

from collections.abc import Callable
from functools import partial

from ...errors import DnsError
from ...policy.dns_answer import DnsAnswer
from ...ports import Clock, Pending, Resolver, result_or_error

__all__ = ["ResolverCheck"]

_HOLDS = 60.0
"""Seconds for which a result is used."""

_MAX_WAITING = 1000
"""Maximum number of calls that wait for a result; further ones are dropped."""


class ResolverCheck:
    """Caller of functions that depend on a working resolver. Not thread-safe."""

    def __init__(self, resolver: Callable[[], Resolver], clock: Clock) -> None:
        self._resolver = resolver
        self._clock = clock
        self._works = False
        self._checked_at = float("-inf")
        self._waiting: list[Callable[[], object]] = []

    def call_if_working(self, call: Callable[[], object]) -> None:
        """Call ``call`` now or after the check. It is not called if the resolver does not work."""
        if self._clock.monotonic() - self._checked_at < _HOLDS:
            if self._works:
                call()
            return
        if len(self._waiting) >= _MAX_WAITING:
            return
        self._waiting.append(call)
        if len(self._waiting) == 1:
            asked = self._resolver().ns("")
            asked.add_done_callback(partial(self._answered, asked))

    def _answered(self, asked: Pending[DnsAnswer[str]], _done: object) -> None:
        self._works = not isinstance(result_or_error(asked), DnsError)
        self._checked_at = self._clock.monotonic()
        waiting, self._waiting = self._waiting, []
        for call in waiting if self._works else ():
            call()
