"""The ports: protocols for clock, resolver, fetcher and store.

A method raises only leaves of ``errors``: ``DnsError`` from a resolver, ``PolicyFetchError`` from a fetcher,
``StoreError`` from a store. ``asyncio.CancelledError`` passes through all of them.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from .errors import DnsError
from .policy.cache_entry import CacheEntry
from .policy.dns_answer import DnsAnswer, MxRecord, TlsaRecord

__all__ = ["Clock", "FetchedBody", "Pending", "PolicyFetcher", "Resolver", "Spawn", "Store", "result_or_error"]


Spawn = Callable[[Coroutine[Any, Any, object], str], object]
"""Start a named task that is owned and supervised."""


class Clock(Protocol):
    """The clocks; tests replace them."""

    def wall(self) -> float:
        """Return seconds since the epoch; may jump."""

    def monotonic(self) -> float:
        """Return seconds that never decrease; the clock of the event loop."""


T = TypeVar("T", covariant=True)


class Pending(Awaitable[T], Protocol[T]):
    """A pending answer: the part of an asyncio future that the core needs. It costs less than a task."""

    def add_done_callback(self, callback: Callable[[Any], object], /) -> object:
        """Call ``callback`` with this object from the event loop when the answer arrives."""

    def done(self) -> bool:
        """Return True if the answer or the error is there."""

    def result(self) -> T:
        """Return the answer, or raise the error."""


def result_or_error(asked: Pending[T]) -> T | DnsError:
    """Return the answer or the error as a value."""
    try:
        return asked.result()
    except DnsError as error:
        return error


class Resolver(Protocol):
    """Queries DNS. Names are A-labels without the final dot; the recursive resolver follows CNAMEs.

    Each method sends its query at once. Without a usable answer there is a ``DnsError``; absence is an answer.
    """

    def txt(self, name: str) -> Pending[DnsAnswer[bytes]]:
        """Query TXT records; the strings of each are joined without blanks (RFC 8461 section 3.1)."""

    def a(self, name: str) -> Pending[DnsAnswer[str]]:
        """Query IPv4 addresses, in text form."""

    def aaaa(self, name: str) -> Pending[DnsAnswer[str]]:
        """Query IPv6 addresses, in text form."""

    def mx(self, name: str) -> Pending[DnsAnswer[MxRecord]]:
        """Query MX records, in the order received."""

    def cname(self, name: str) -> Pending[DnsAnswer[str]]:
        """Query the name's own CNAME record, which is not followed."""

    def tlsa(self, name: str) -> Pending[DnsAnswer[TlsaRecord]]:
        """Query TLSA records, in the order received, including unusable ones."""

    def ns(self, name: str) -> Pending[DnsAnswer[str]]:
        """Query name servers; the root is the empty name."""

    async def close(self) -> None:
        """Close all sockets; pending queries fail."""


class FetchedBody(NamedTuple):
    """An unparsed policy body of at most 64 KiB."""

    body: bytes


class PolicyFetcher(Protocol):
    """Fetches policies over HTTPS (RFC 8461 section 3.3)."""

    async def fetch(self, policy_domain: str, *, live: bool) -> FetchedBody:
        """Fetch the policy of ``policy_domain`` within about a minute. Raises ``PolicyFetchError``.

        ``live`` is true if a live policy is refreshed: a share of the fetches is reserved for these.
        """

    async def close(self) -> None:
        """Close all connections; pending fetches fail."""


class Store(Protocol):
    """Stores cache entries durably: when ``put`` has returned, the entry survives kill -9."""

    def may_hold(self, domain: str) -> bool:
        """Return False if ``get`` would find nothing; does no I/O."""

    async def get(self, domain: str) -> CacheEntry | None:
        """Return the entry, or None if there is none."""

    async def put(self, entry: CacheEntry, due: float | None) -> None:
        """Store the entry and the time of its next refresh (None: no refresh)."""

    async def touch(self, used: Iterable[tuple[str, float]]) -> None:
        """Set ``last_used`` of the domains to later times."""

    async def delete(self, domain: str) -> bool:
        """Delete the entry. Return True if there was one."""

    async def due(self, now: float, used_since: float, limit: int) -> Sequence[CacheEntry]:
        """Return entries due at ``now`` and used since ``used_since``, the longest overdue first."""

    async def page(self, after: str, limit: int) -> Sequence[CacheEntry]:
        """Return entries whose domain sorts after ``after``, in that order."""

    async def tidy(self, now: float) -> int:
        """Delete entries that expired more than 30 days ago or exceed the limits. Return their number."""

    async def close(self) -> None:
        """Write pending changes and close the file."""
