"""The ports: what the core needs of the world, as protocols, and what comes back, as values.

Every method that can fail raises only leaves of ``errors``: ``DnsError`` from a resolver, ``PolicyFetchError``
from a fetcher, ``StoreError`` from a store. ``asyncio.CancelledError`` passes through all of them.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from .errors import DnsError
from .policy.cache_entry import CacheEntry
from .policy.dns_answer import DnsAnswer, MxRecord, TlsaRecord

__all__ = ["Clock", "FetchedBody", "Pending", "PolicyFetcher", "Resolver", "Spawn", "Store", "result_or_error"]


Spawn = Callable[[Coroutine[Any, Any, object], str], object]
"""Start a named task that is owned and supervised."""


class Clock(Protocol):
    """Time, so that tests can hold it."""

    def wall(self) -> float:
        """Seconds since the epoch; may jump."""

    def monotonic(self) -> float:
        """Seconds that never run backwards; the event loop's own clock."""


T = TypeVar("T", covariant=True)


class Pending(Awaitable[T], Protocol[T]):
    """An answer that is under way: as much of an asyncio future as the core needs, which costs less than a task."""

    def add_done_callback(self, callback: Callable[[Any], object], /) -> object:
        """Have ``callback`` called with this, from the event loop, once the answer is there."""

    def result(self) -> T:
        """The answer that is there, or the error, raised."""


def result_or_error(asked: Pending[T]) -> T | DnsError:
    """The answer that is there, or the error, as values."""
    try:
        return asked.result()
    except DnsError as error:
        return error


class Resolver(Protocol):
    """Asks DNS. Names are A-labels without the final dot; CNAMEs are followed by the resolver behind it.

    Each method asks at once. There is a ``DnsError`` when there is no usable answer; absence is an answer.
    """

    def txt(self, name: str) -> Pending[DnsAnswer[bytes]]:
        """TXT records, the strings of each joined without blanks (RFC 8461 section 3.1)."""

    def a(self, name: str) -> Pending[DnsAnswer[str]]:
        """IPv4 addresses in text form."""

    def aaaa(self, name: str) -> Pending[DnsAnswer[str]]:
        """IPv6 addresses in text form."""

    def mx(self, name: str) -> Pending[DnsAnswer[MxRecord]]:
        """MX records in the order received."""

    def cname(self, name: str) -> Pending[DnsAnswer[str]]:
        """The name's own CNAME record, at most one, not followed."""

    def tlsa(self, name: str) -> Pending[DnsAnswer[TlsaRecord]]:
        """TLSA records in the order received, unusable ones included."""

    def ns(self, name: str) -> Pending[DnsAnswer[str]]:
        """Name servers; the root is the empty name."""

    async def close(self) -> None:
        """Let go of sockets; questions under way fail."""


@dataclass(frozen=True, slots=True)
class FetchedBody:
    """A policy body of at most 64 KiB, not parsed yet; ``draft`` when it is the 2017 draft's JSON."""

    body: bytes
    draft: bool = False


class PolicyFetcher(Protocol):
    """Fetches policies over HTTPS (RFC 8461 section 3.3)."""

    async def fetch(self, policy_domain: str, *, live: bool) -> FetchedBody:
        """GET the policy of ``policy_domain``; raises a ``PolicyFetchError``, within about a minute.

        ``live`` says that a live policy is being refreshed: such fetches have slots of their own, so that new
        domains cannot starve them.
        """

    async def close(self) -> None:
        """Let go of connections; fetches under way fail."""


class Store(Protocol):
    """Keeps the entries that have held a policy. Durable: what ``put`` returned from survives kill -9."""

    def may_hold(self, domain: str) -> bool:
        """Whether ``get`` might find something; asks nobody."""

    async def get(self, domain: str) -> CacheEntry | None:
        """The entry as it was put, or None."""

    async def put(self, entry: CacheEntry, due: float | None) -> None:
        """Keep the entry, and the moment its policy is to be fetched again (None: not any more)."""

    async def touch(self, used: Iterable[tuple[str, float]]) -> None:
        """Move ``last_used`` of the domains forward to the moments given."""

    async def delete(self, domain: str) -> bool:
        """Drop the entry; whether there was one."""

    async def due(self, now: float, used_since: float, limit: int) -> Sequence[CacheEntry]:
        """Entries due at ``now`` and looked up since ``used_since``, the longest overdue first."""

    async def page(self, after: str, limit: int) -> Sequence[CacheEntry]:
        """Entries whose domain sorts behind ``after``, in that order; none behind the last."""

    async def tidy(self, now: float) -> int:
        """Drop what expired more than 30 days ago and what exceeds the limits; how many went."""

    async def close(self) -> None:
        """Write out what is pending and let go."""
