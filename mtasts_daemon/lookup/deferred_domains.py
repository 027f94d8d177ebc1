"""Domains whose mail Postfix defers because of the answers it gets: since when, and why.

The one list behind the status page, ``mtastsctl status``, metrics and the log.
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..log import log_event
from ..ports import Clock

__all__ = ["DeferredDomain", "DeferredDomains"]

_MAX_DOMAINS = 1000

_ENDS_AFTER = 3 * 3600.0
"""Seconds without a lookup after which Postfix has no mail in its queue: it retries at least every 4,000 s."""


_SENTENCES = {
    "policy-permits-no-mx-host": "its policy permits none of its MX hosts",
    "dane-all-hosts-failed": "the DNS lookups of all its MX hosts fail",
}


@dataclass(frozen=True, slots=True)
class DeferredDomain:
    """A domain, the wall-clock moments of the first and the last deferring answer, and the slug of the reason."""

    domain: str
    reason: str
    since: float
    last_seen: float
    detail: str = ""
    """The text of the deferring reply, if it has one."""

    @property
    def sentence(self) -> str:
        """The reason in words, for the end of a sentence."""
        return _SENTENCES.get(self.reason) or self.detail or self.reason


class DeferredDomains:
    """The 1,000 domains deferred most recently."""

    def __init__(self, clock: Clock) -> None:
        self.total = 0
        """Deferrals since the start."""
        self._clock = clock
        # By the last deferring answer, oldest first; the monotonic moment of that answer comes with each.
        self._domains: OrderedDict[str, tuple[DeferredDomain, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._domains)

    def list(self) -> Sequence[DeferredDomain]:
        """Return the deferred domains, the most recent first."""
        self._expire()
        return [deferred for deferred, _ in reversed(self._domains.values())]

    def get(self, domain: str) -> DeferredDomain | None:
        """Return the domain's deferral, or None."""
        self._expire()
        found = self._domains.get(domain)
        return None if found is None else found[0]

    def observe(self, domain: str, reason: str, detail: str = "") -> None:
        """Take note of an answer: ``reason`` is the slug of why it defers mail, or empty if it does not."""
        known = self._domains.pop(domain, None)
        if not reason:
            if known is not None:
                self._log_end(known[0], "answered")
            return
        now = self._clock.wall()
        if known is None:
            self.total += 1
            deferred = DeferredDomain(domain, reason, now, now, detail)
        else:
            deferred = replace(known[0], reason=reason, last_seen=now, detail=detail)
        if known is None or known[0].reason != reason:
            fields = {"domain": domain, "reason": reason} | ({"detail": detail} if detail else {})
            log_event("mail-deferred", level=logging.WARNING, once_a_minute=domain, **fields)
        self._domains[domain] = deferred, self._clock.monotonic()
        while len(self._domains) > _MAX_DOMAINS:
            self._domains.popitem(last=False)

    def _expire(self) -> None:
        limit = self._clock.monotonic() - _ENDS_AFTER
        while self._domains:
            deferred, seen = next(iter(self._domains.values()))
            if seen > limit:
                return
            del self._domains[deferred.domain]
            self._log_end(deferred, "no-longer-looked-up")

    def _log_end(self, deferred: DeferredDomain, cause: str) -> None:
        seconds = max(0, round(self._clock.wall() - deferred.since))
        log_event("mail-deferral-ended", domain=deferred.domain, reason=deferred.reason, seconds=seconds, because=cause)
