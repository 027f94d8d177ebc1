"""A Resolver in memory with an answer, an error or a gate for each name and type."""

import asyncio
from collections.abc import Iterable
from typing import Any

from mtasts_daemon.errors import DnsError
from mtasts_daemon.policy.dns_answer import DnsAnswer, MxRecord, RRType, TlsaRecord

__all__ = ["FakeResolver"]


class FakeResolver:
    """Implements ``ports.Resolver`` from a dict that tests may change at any time.

    ``zone`` maps (name, type) to an ``Answer``, to a ``DnsError`` that is raised, or to nothing, which is
    NXDOMAIN; a name that has another type is NODATA. ``gates`` holds the answer back until the event is set.
    ``queries`` records the queries in order.
    """

    def __init__(self, ttl: int = 300) -> None:
        self.zone: dict[tuple[str, RRType], DnsAnswer[Any] | DnsError] = {}
        self.gates: dict[tuple[str, RRType], asyncio.Event] = {}
        self.queries: list[tuple[str, RRType]] = []
        self._ttl = ttl

    def put(
        self, name: str, rrtype: RRType, records: Iterable[Any], *, ttl: int | None = None, authenticated: bool = False
    ) -> None:
        """Set the records of ``name``; without records the answer is NODATA."""
        self.zone[name, rrtype] = DnsAnswer(
            name, tuple(records), self._ttl if ttl is None else ttl, authenticated=authenticated, canonical=name
        )

    def fail(self, name: str, rrtype: RRType, error: DnsError) -> None:
        """Set the error for a question."""
        self.zone[name, rrtype] = error

    def forget(self, name: str, rrtype: RRType) -> None:
        """Remove a record."""
        self.zone.pop((name, rrtype), None)

    def txt(self, name: str) -> "asyncio.Future[DnsAnswer[bytes]]":
        return self._ask(name, RRType.TXT)

    def a(self, name: str) -> "asyncio.Future[DnsAnswer[str]]":
        return self._ask(name, RRType.A)

    def aaaa(self, name: str) -> "asyncio.Future[DnsAnswer[str]]":
        return self._ask(name, RRType.AAAA)

    def mx(self, name: str) -> "asyncio.Future[DnsAnswer[MxRecord]]":
        return self._ask(name, RRType.MX)

    def cname(self, name: str) -> "asyncio.Future[DnsAnswer[str]]":
        return self._ask(name, RRType.CNAME)

    def tlsa(self, name: str) -> "asyncio.Future[DnsAnswer[TlsaRecord]]":
        return self._ask(name, RRType.TLSA)

    def ns(self, name: str) -> "asyncio.Future[DnsAnswer[str]]":
        return self._ask(name, RRType.NS)

    def _ask(self, name: str, rrtype: RRType) -> "asyncio.Future[DnsAnswer[Any]]":
        self.queries.append((name, rrtype))
        gate = self.gates.get((name, rrtype))
        if gate is not None:
            return asyncio.get_running_loop().create_task(self._answer_behind(gate, name, rrtype), name=name)
        future: asyncio.Future[DnsAnswer[Any]] = asyncio.get_running_loop().create_future()
        try:
            future.set_result(self._answer(name, rrtype))
        except DnsError as error:
            future.set_exception(error)
        return future

    async def _answer_behind(self, gate: asyncio.Event, name: str, rrtype: RRType) -> DnsAnswer[Any]:
        await gate.wait()
        return self._answer(name, rrtype)

    def _answer(self, name: str, rrtype: RRType) -> DnsAnswer[Any]:
        answer = self.zone.get((name, rrtype))
        if isinstance(answer, DnsError):
            # a fresh one each time, so that no traceback or context is shared
            raise type(answer)(answer.detail)
        if answer is not None:
            return answer
        exists = any(known == name for known, _ in self.zone)
        return DnsAnswer(name, (), self._ttl, exists=exists, canonical=name)

    async def close(self) -> None:
        pass
