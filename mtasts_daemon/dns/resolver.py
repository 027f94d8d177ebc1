"""The ``Resolver`` port: thousands of concurrent questions to recursive resolvers.

A question has no task, timer or socket of its own: the UDP socket at which the reply arrives completes its future, and
one coarse timer, which runs only while questions are in flight, serves all deadlines.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from ..errors import DnsError, DnsMalformed, DnsTimeout, DnsUnreachable
from ..log import log_event
from ..policy.dns_answer import DnsAnswer, MxRecord, RRType, TlsaRecord
from . import message
from .resolv_conf import LOCAL, ResolvConf
from .transport import UDP_LIMIT, DnsCounters, Exchange, Network, UnusableAddress, Upstream

__all__ = ["DnsCounters", "DnsResolver"]

_TICK: Final = 0.05
"""Seconds between two checks for overdue questions."""
_IN_FLIGHT_MAX: Final = 20_000
_TCP_MAX: Final = 64
_RESOLV_CONF_SECONDS: Final = 5.0
_SILENCES: Final = 3
"""Consecutive tries without a reply after which another resolver is asked first."""
_RECALL_SECONDS: Final = 30.0
"""Seconds between two questions that test if the first resolver answers again."""
_IMPOSSIBLE_TTL: Final = 3600
_RECONNECT_SECONDS: Final = 0.2
"""Seconds until a query is sent again that the network refused to carry to every resolver."""
_UNUSABLE_SECONDS: Final = 60.0
"""Seconds until a resolver address that could not be used is tried again."""
_ERRORS_MAX: Final = 5
"""Consecutive error replies after which the resolvers are suspected."""
_PROBE_SECONDS: Final = 2.0


class DnsResolver:
    """Recursive resolvers, asked one after another until one answers.

    ``resolvers`` are numeric addresses with ports; None means those of ``resolv_conf`` (by default the host's), which
    is checked every few seconds while there are questions; ``changed`` is called with its new resolvers. Addresses that
    this host cannot use are skipped and tried again. A question fails ``timeout`` seconds after it was asked; each try
    waits ``try_timeout`` seconds. A refused connection is retried within the timeout. The AD bit is trusted from
    resolvers on a loopback address or in ``trust_ad``. ``counters`` are continued. ``unanswered`` is called if the
    resolvers do not reply, or reply with errors only.

    A name that cannot exist in DNS (too long, an empty label, an escape) is answered with its absence, without a query.
    Every method returns a future; cancelling it is safe. An object serves one event loop, that of its first question;
    another one raises RuntimeError. Raises ValueError for an address that is not numeric.
    """

    def __init__(
        self,
        resolvers: Sequence[tuple[str, int]] | None = None,
        *,
        resolv_conf: ResolvConf | None = None,
        timeout: float = 5.0,
        try_timeout: float = 1.5,
        trust_ad: Iterable[Network] = (),
        changed: Callable[[Sequence[str]], None] | None = None,
        counters: DnsCounters | None = None,
        unanswered: Callable[[], None] | None = None,
    ) -> None:
        self.counters = counters or DnsCounters()
        self._timeout = timeout
        self._try_timeout = try_timeout
        self._trust_ad = tuple(trust_ad)
        self._changed = changed
        self._unanswered = unanswered
        self._resolv_conf = (resolv_conf or ResolvConf()) if resolvers is None else None
        self._look_at = float("inf") if self._resolv_conf is None else float("-inf")
        self._unusable: set[str] = set()
        self._named = [LOCAL] if resolvers is None else list(resolvers)
        self._upstreams = self._build(self._named)
        if self._unusable:
            self._look_at = float("-inf")
        self._retry_unusable_at = float("-inf")
        self._down: str | None = None
        self._errors = 0
        self._answered_at = float("-inf")
        self._authenticated_at = float("-inf")
        self._former: list[Upstream] = []
        self._preferred = 0
        self._recall_at = 0.0
        self._in_flight: set[Exchange] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tcp_tasks: set[asyncio.Task[None]] = set()
        self._tcp_slots = asyncio.Semaphore(_TCP_MAX)
        self._closed = False

    @property
    def addresses(self) -> Sequence[str]:
        """Return the resolvers in use."""
        return [str(upstream) for upstream in self._upstreams]

    def txt(self, name: str) -> "asyncio.Future[DnsAnswer[bytes]]":
        """Ask for TXT records; the strings of each are joined without blanks."""
        return self._query(name, RRType.TXT)

    def a(self, name: str) -> "asyncio.Future[DnsAnswer[str]]":
        """Ask for IPv4 addresses, in text form."""
        return self._query(name, RRType.A)

    def aaaa(self, name: str) -> "asyncio.Future[DnsAnswer[str]]":
        """Ask for IPv6 addresses, in text form."""
        return self._query(name, RRType.AAAA)

    def mx(self, name: str) -> "asyncio.Future[DnsAnswer[MxRecord]]":
        """Ask for MX records, in the order received."""
        return self._query(name, RRType.MX)

    def cname(self, name: str) -> "asyncio.Future[DnsAnswer[str]]":
        """Ask for the name's own CNAME record, not followed."""
        return self._query(name, RRType.CNAME)

    def tlsa(self, name: str) -> "asyncio.Future[DnsAnswer[TlsaRecord]]":
        """Ask for TLSA records, in the order received, including unusable ones."""
        return self._query(name, RRType.TLSA)

    def ns(self, name: str) -> "asyncio.Future[DnsAnswer[str]]":
        """Ask for name servers; the root is the empty name."""
        return self._query(name, RRType.NS)

    def probe(self) -> "asyncio.Future[DnsAnswer[str]]":
        """Ask for the name servers of the root, within 2 seconds and also while the resolvers are down."""
        return self._query("", RRType.NS, probe=True)

    def set_down(self, reason: str | None) -> None:
        """Fail each question at once with DnsUnreachable and ``reason``, until a reply arrives; None ends that."""
        self._down = reason

    def answered_within(self, seconds: float) -> bool:
        """Return True if a question was answered in the last ``seconds``."""
        return self._loop is not None and self._loop.time() - self._answered_at < seconds

    def authenticated_within(self, seconds: float) -> bool:
        """Return True if an answer with a trusted AD bit arrived in the last ``seconds``."""
        return self._loop is not None and self._loop.time() - self._authenticated_at < seconds

    def forget_authenticated(self) -> None:
        """Let only answers from now on prove that the resolver validates."""
        self._authenticated_at = float("-inf")

    async def close(self) -> None:
        """Fail the questions in flight and all later ones with DnsUnreachable, and close the sockets."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for exchange in tuple(self._in_flight):
            self._fail(exchange, DnsUnreachable("the resolver is closing"))
        tasks = tuple(self._tcp_tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for upstream in self._upstreams + self._former:
            upstream.close()

    def _query(self, name: str, rdtype: RRType, *, probe: bool = False) -> "asyncio.Future[DnsAnswer[Any]]":
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if self._loop is not None:
                raise RuntimeError("a DnsResolver serves one event loop")
            self._loop = loop
        future: asyncio.Future[DnsAnswer[Any]] = loop.create_future()
        question = message.encode_question(name, rdtype)
        if question is None:
            future.set_result(DnsAnswer(name, (), _IMPOSSIBLE_TTL, exists=False, canonical=name))
            return future
        now = loop.time()
        if now >= self._look_at:
            self._look_at = now + _RESOLV_CONF_SECONDS
            self._follow_resolv_conf(now)
        timeout = min(_PROBE_SECONDS, self._timeout) if probe else self._timeout
        exchange = Exchange(name, rdtype, question, now + timeout, future)
        self.counters.queries[rdtype] += 1
        if self._down is not None and not probe:
            self._fail(exchange, DnsUnreachable(self._down))
            return future
        if self._closed or not self._upstreams or len(self._in_flight) >= _IN_FLIGHT_MAX:
            self._fail(
                exchange,
                DnsUnreachable("closed" if self._closed else "no usable resolver, or too many questions in flight"),
            )
            return future
        self._in_flight.add(exchange)
        if self._timer is None:
            self._timer = loop.call_later(_TICK, self._sweep)
        self._send(exchange, self._choose(now), now)
        return future

    # -- which resolver -----------------------------------------------------------------------------------

    def _build(self, resolvers: Iterable[tuple[str, int]]) -> list[Upstream]:
        """Return the resolvers whose addresses can be used on this host; log each other one once."""
        upstreams: list[Upstream] = []
        unusable: set[str] = set()
        for address, port in resolvers:
            try:
                upstream = Upstream(
                    len(upstreams),
                    address,
                    port,
                    trust_ad=self._trust_ad,
                    counters=self.counters,
                    received=self._receive,
                    lost=self._lose,
                )
            except UnusableAddress as error:
                unusable.add(address)
                if address not in self._unusable:
                    log_event("resolver-address-unusable", level=logging.WARNING, address=address, error=error)
                continue
            upstreams.append(upstream)
        self._unusable = unusable
        return upstreams

    def _follow_resolv_conf(self, now: float) -> None:
        named = self._resolv_conf.read() if self._resolv_conf else None
        if self._unusable and now >= self._retry_unusable_at:
            self._retry_unusable_at = now + _UNUSABLE_SECONDS
            named = named or self._named
        if named is None or (named == self._named and not self._unusable):
            return
        self._named = named
        for upstream in self._upstreams:
            upstream.retire()
        self._former += self._upstreams
        before, self._upstreams = self.addresses, self._build(named)
        self._preferred = 0
        if self._changed is not None and self.addresses != before:
            self._changed(self.addresses)

    def _choose(self, now: float) -> Upstream:
        """Return the preferred resolver, or at intervals the first of the list."""
        if self._preferred and now >= self._recall_at:
            self._recall_at = now + _RECALL_SECONDS
            return self._upstreams[0]
        return self._upstreams[self._preferred]

    def _count_silence(self, upstream: Upstream, now: float, silences: int) -> None:
        """Count tries without a reply; after several in a row the resolver is asked last."""
        upstream.silences += silences
        if self._unanswered is not None and all(one.silences >= _SILENCES for one in self._upstreams):
            self._unanswered()
        if not self._upstreams:
            return
        if upstream is self._upstreams[self._preferred] and upstream.silences >= _SILENCES:
            self._preferred = (self._preferred + 1) % len(self._upstreams)
            self._upstreams[self._preferred].silences = 0
            self._recall_at = now + _RECALL_SECONDS

    # -- one question ---------------------------------------------------------------------------------------

    def _send(self, exchange: Exchange, upstream: Upstream, now: float) -> None:
        exchange.retry_at = min(now + self._try_timeout, exchange.deadline)
        upstream.send(exchange, now)

    def _send_again(self, exchange: Exchange, now: float) -> None:
        self.counters.retries += 1
        if self._upstreams:
            self._send(exchange, self._upstreams[(exchange.upstream.rank + 1) % len(self._upstreams)], now)
        else:
            self._give_up(exchange, DnsUnreachable("no usable resolver address"))

    def _receive(self, exchange: Exchange, reply: bytes) -> None:
        upstream = exchange.upstream
        upstream.silences = 0
        self._down = None
        if upstream.rank < self._preferred and upstream is self._upstreams[upstream.rank]:
            self._preferred = upstream.rank
        if exchange.future.done():  # cancelled
            self._in_flight.discard(exchange)
        elif message.is_truncated(reply) or len(reply) >= UDP_LIMIT:
            self._ask_over_tcp(exchange)
        elif message.rejects_edns(reply) and exchange.edns and upstream.edns:
            exchange.edns = False  # RFC 6891 section 6.2.2
            self._send(exchange, upstream, asyncio.get_running_loop().time())
        else:
            self._settle(exchange, reply)

    def _settle(self, exchange: Exchange, reply: bytes) -> None:
        trusted = exchange.upstream.trusted
        try:
            answer = message.read_answer(reply, exchange.name, exchange.rdtype, trusted=trusted)
        except DnsError as error:
            self._errors += 1
            if self._errors >= _ERRORS_MAX and self._unanswered is not None:
                self._unanswered()
            self._refused(exchange, error)
            return
        self._errors = 0
        if not exchange.edns:
            exchange.upstream.edns = False
        now = self._answered_at = asyncio.get_running_loop().time()
        if answer.authenticated:
            self._authenticated_at = now
        self._in_flight.discard(exchange)
        self.counters.durations.add(now - exchange.deadline + self._timeout)
        exchange.future.set_result(answer)

    def _refused(self, exchange: Exchange, error: DnsError) -> None:
        """Ask the next resolver because this one cannot answer, unless each has been asked."""
        if exchange.error is None or not isinstance(error, DnsUnreachable):  # an error reply says more
            exchange.error = error
        exchange.refusals += 1
        if exchange.refusals >= len(self._upstreams):
            self._give_up(exchange, exchange.error)
        else:
            self._send_again(exchange, asyncio.get_running_loop().time())

    def _lose(self, exchanges: list[Exchange], error: OSError) -> None:
        now = asyncio.get_running_loop().time()
        for exchange in exchanges:
            if exchange.future.done():
                self._in_flight.discard(exchange)
                continue
            self._count_silence(exchange.upstream, now, _SILENCES)
            failure = DnsUnreachable(f"{exchange.upstream}: {error.strerror or error}")
            exchange.losses += 1
            if exchange.refusals:  # another resolver has answered with an error, which says more
                self._refused(exchange, failure)
            elif exchange.losses % max(1, len(self._upstreams)):
                exchange.error = failure
                self._send_again(exchange, now)
            else:
                # The resolver may be restarting: the sweep sends again.
                exchange.error = failure
                exchange.retry_at = min(now + _RECONNECT_SECONDS, exchange.deadline)

    def _give_up(self, exchange: Exchange, error: DnsError) -> None:
        """Fail the exchange after all resolvers and tries."""
        self._fail(exchange, error)
        if self._unanswered is not None and isinstance(error, DnsTimeout | DnsUnreachable):
            self._unanswered()

    def _fail(self, exchange: Exchange, error: DnsError) -> None:
        exchange.forget()
        self._in_flight.discard(exchange)
        if not exchange.future.done():
            failures, labels = self.counters.failures, (exchange.rdtype, error.slug)
            failures[labels] = failures.get(labels, 0) + 1
            exchange.future.set_exception(error)
            exchange.future.exception()  # without a caller asyncio would log "exception never retrieved"

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for exchange in [exchange for exchange in self._in_flight if exchange.retry_at <= now]:
            exchange.forget()
            if exchange.future.done():
                self._in_flight.discard(exchange)
                continue
            self._count_silence(exchange.upstream, now, 1)
            if now >= exchange.deadline:
                self._give_up(exchange, exchange.error or DnsTimeout(f"{exchange.rdtype.name} {exchange.name or '.'}"))
            else:
                self._send_again(exchange, now)
        for upstream in self._upstreams + self._former:
            upstream.tidy()
        self._former = [upstream for upstream in self._former if upstream.is_open()]
        self._timer = loop.call_later(_TICK, self._sweep) if self._in_flight or self._former else None

    # -- over TCP ---------------------------------------------------------------------------------------------

    def _ask_over_tcp(self, exchange: Exchange) -> None:
        self.counters.tcp_fallbacks += 1
        exchange.retry_at = exchange.deadline
        task = asyncio.get_running_loop().create_task(self._exchange_over_tcp(exchange), name="dns over TCP")
        self._tcp_tasks.add(task)
        task.add_done_callback(self._tcp_tasks.discard)

    async def _exchange_over_tcp(self, exchange: Exchange) -> None:
        error: DnsError
        try:
            async with asyncio.timeout(self._try_timeout), self._tcp_slots:
                reply = await exchange.upstream.ask_over_tcp(exchange.question, edns=exchange.edns)
        except TimeoutError:
            error = DnsTimeout(f"{exchange.upstream} over TCP")
        except (OSError, EOFError) as failure:
            error = DnsUnreachable(f"{exchange.upstream} over TCP: {failure}")
        else:
            if message.matches(reply, exchange.question) and not message.is_truncated(reply):
                if not exchange.future.done():
                    self._settle(exchange, reply)
                return
            error = DnsMalformed(f"{exchange.upstream} over TCP: not a whole reply to the question")
        if not exchange.future.done():
            self._refused(exchange, error)
