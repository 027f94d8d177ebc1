"""The lookup server: one protocol for socketmap and tcp_table, over TCP and Unix sockets.

A request that was answered before is answered from the reply cache, by its bytes, inside ``data_received``. All
others are parsed and passed to the service; replies leave in the order of their requests. An idle connection is never
closed, since that defers mail; only at the limit of connections the one idle longest is.
"""

import asyncio
import logging
from collections import deque
from contextlib import suppress
from functools import partial
from types import ModuleType
from typing import cast

from ..counters import Counters
from ..errors import FrameError
from ..log import log_event
from ..policy.decision import Zone
from ..policy.next_hop import NextHop, parse_key
from ..postfix.reply import NOT_FOUND, ReplyKind, reply_to
from .reply_cache import CachedReply, ReplyCache
from .service import LookupOutcome, PendingLookup, PolicyService

__all__ = ["LookupServer"]

_MAX_WAITING = 16
"""Requests of one connection that may wait before it is read no further. Postfix sends one at a time."""

_MAX_BATCH = 262_144
"""Bytes of replies after which they are written, so that a client that does not read is noticed."""

_MAX_UNKNOWN_NAMES = 100


class LookupServer:
    """Everything that lookup connections share: service, zones, reply cache and the limit of connections."""

    def __init__(
        self,
        service: PolicyService,
        counters: Counters,
        *,
        max_connections: int,
        max_replies: int,
        max_reply_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self.service = service
        self.counters = counters
        self.clock = service.clock
        self.reply_cache = ReplyCache(max_replies, max_reply_bytes)
        self.max_connections = max_connections
        self.connections: set[_Connection] = set()
        self._zones: dict[bytes, Zone] = {}
        self._one_closed = asyncio.Event()

    def protocol(self, codec: ModuleType) -> asyncio.Protocol:
        """Return a protocol for a new connection; ``codec`` is ``postfix.socketmap`` or ``postfix.tcp_table``."""
        return _Connection(self, codec)

    def configure(self, max_connections: int, max_replies: int, max_reply_bytes: int) -> None:
        """Take over new limits and drop all cached replies."""
        self.max_connections = max_connections
        self.reply_cache.configure(max_replies, max_reply_bytes)
        self.reconfigured()

    def reconfigured(self) -> None:
        """Drop everything that was derived from the service's old settings."""
        self.reply_cache.clear()
        self._zones.clear()

    def zone(self, map_name: bytes) -> Zone:
        """Return the zone of a map name in any letter case; an unknown one has the default zone, with one warning."""
        zone = self._zones.get(map_name)
        if zone is None:
            settings = self.service.settings
            found = settings.zones.get(map_name.decode("ascii", "replace").lower())
            zone = found or settings.zones[settings.default_zone.lower()]
            if len(self._zones) < _MAX_UNKNOWN_NAMES:
                self._zones[map_name] = zone
                if found is None and map_name:
                    log_event(
                        "unknown-map-name",
                        level=logging.WARNING,
                        name=map_name.decode("ascii", "replace"),
                        zone=zone.name,
                    )
        return zone

    def answer(self, codec: ModuleType, request: bytes, hop: NextHop, zone: Zone, outcome: LookupOutcome) -> bytes:
        """Return the reply to ``request`` as bytes; it is cached while its outcome holds."""
        decision, domain = outcome.decision, hop.policy_domain
        reply = reply_to(decision, domain, zone.dialect, codec.TEXT_LIMIT, outcome.hosts)
        temporary = reply.kind is ReplyKind.TEMPORARY
        tally = self.counters.tally(_protocol(codec), "temp" if temporary else decision.answer.value)
        tally.made += 1
        reason = self.service.mx_mismatches.deferral_reason(domain, decision)
        if reason or temporary or self.service.deferred:
            self.service.deferred.observe(
                domain, reason or ("reply-error" if temporary else ""), reply.text if temporary else ""
            )
        if reply.shortened is not None:
            self.counters.replies_shortened += 1
            log_event("reply-shortened", once_a_minute=domain, domain=domain, without=reply.shortened)
        encoded: bytes = codec.encode(reply)
        if outcome.until > self.clock.monotonic():
            cached = CachedReply(encoded, tally, outcome.slot, outcome.slot.changes, outcome.until)
            self.reply_cache.put(request, cached)
        return encoded

    def waiting(self) -> int:
        """Return the number of lookups that wait for their replies."""
        return sum(len(connection.waiting) for connection in self.connections)

    def make_room(self) -> None:
        """Close the connection idle longest, so that no client can hold every place."""
        idle = [connection for connection in self.connections if not connection.waiting]
        victim = min(idle or self.connections, key=lambda connection: connection.seen)
        self.counters.connections_refused += 1
        log_event("too-many-connections", level=logging.WARNING, once_a_minute="", limit=self.max_connections)
        # It no longer counts, so that the next of a burst finds another one; it need not read its replies.
        self.connections.discard(victim)
        victim.abort()

    def closed(self, connection: "_Connection") -> None:
        """Remove a closed connection."""
        self.connections.discard(connection)
        self._one_closed.set()

    async def drain(self, seconds: float) -> None:
        """Answer all requests, then close every connection; after ``seconds`` at the latest."""
        for connection in list(self.connections):
            connection.close_when_answered()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.connections:
                    self._one_closed.clear()
                    await self._one_closed.wait()
        for connection in list(self.connections):
            connection.abort()


def _protocol(codec: ModuleType) -> str:
    return codec.__name__.rpartition(".")[2]


class _QueuedReply:
    """A reply that is not there yet, or waits for an earlier one."""

    __slots__ = ("reply",)

    def __init__(self, reply: bytes | None = None) -> None:
        self.reply = reply


class _QueuedRequest(_QueuedReply):
    """A request that waits for a flight, and then perhaps for another one."""

    __slots__ = ("request", "started")

    def __init__(self, request: bytes, started: float) -> None:
        super().__init__()
        self.request = request
        self.started = started


class _Connection(asyncio.Protocol):
    __slots__ = (
        "_buffer",
        "_cached",
        "_client_blocks",
        "_codec",
        "_ending",
        "_monotonic",
        "_reading",
        "_shared",
        "_transport",
        "seen",
        "waiting",
    )

    def __init__(self, shared: LookupServer, codec: ModuleType) -> None:
        self._shared = shared
        self._codec = codec
        self._cached = shared.reply_cache.get
        self._monotonic = shared.clock.monotonic
        self._buffer = b""
        self._reading = True
        self._client_blocks = False  # the client does not read its replies
        self._ending = False
        self._transport: asyncio.Transport | None = None
        self.waiting: deque[_QueuedReply] = deque()
        self.seen = 0.0

    # -- called by asyncio ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        shared = self._shared
        if len(shared.connections) >= shared.max_connections:
            shared.make_room()
        # Not an instance of it under uvloop.
        self._transport = cast("asyncio.Transport", transport)
        self.seen = self._monotonic()
        shared.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.closed(self)
        self._transport = None
        self._buffer = b""
        self.waiting.clear()

    def data_received(self, data: bytes) -> None:
        # The hot path: one whole request, answered before, and no earlier one waits.
        cached = self._cached(data)
        now = self._monotonic()
        self.seen = now
        if (
            cached is None
            or now >= cached.until
            or cached.slot.changes != cached.changes
            or self._buffer
            or self.waiting
            or self._transport is None
        ):
            self._take(data, now)
            return
        cached.slot.used = True
        cached.tally.hits += 1
        self._transport.write(cached.reply)

    def pause_writing(self) -> None:
        self._client_blocks = True
        self._pause()

    def resume_writing(self) -> None:
        self._client_blocks = False
        self._resume()

    def eof_received(self) -> bool:
        # A client that has shut down its sending side still gets its replies.
        self.close_when_answered()
        return True

    # -- requests ------------------------------------------------------------------------------------------

    def _take(self, data: bytes, now: float) -> None:
        """Answer the whole requests received, in few writes, as far as there is room for replies."""
        buffer = self._buffer + data if self._buffer else data
        frame_end, get_cached = self._codec.frame_end, self._cached
        waiting, misses = self.waiting, 0
        replies: list[bytes] = []
        start = size = 0
        malformed: FrameError | None = None
        try:
            while self._reading and (end := frame_end(buffer, start)) > 0:
                request = buffer[start:end]
                start = end
                cached = get_cached(request)
                if cached is not None and now < cached.until and cached.slot.changes == cached.changes:
                    cached.slot.used = True
                    cached.tally.hits += 1
                    reply: bytes | None = cached.reply
                else:
                    reply = self._ask(request)
                    misses += 1
                if reply is not None and not waiting:
                    replies.append(reply)
                    size += len(reply)
                elif reply is not None:
                    waiting.append(_QueuedReply(reply))
                if size > _MAX_BATCH:
                    self._send(replies)
                    replies, size = [], 0
                elif len(waiting) >= _MAX_WAITING:
                    self._pause()
        except FrameError as error:
            malformed = error
        self._buffer = buffer[start:]
        self._shared.counters.misses += misses
        self._send(replies)
        if malformed is not None:
            self._malformed(malformed)

    def _send(self, replies: list[bytes]) -> None:
        if replies and self._transport is not None:
            self._transport.write(b"".join(replies))

    def _ask(self, request: bytes) -> bytes | None:
        """Return the reply, or None if the request has been queued."""
        shared, codec = self._shared, self._codec
        map_name, key = codec.parse(request)
        zone = shared.zone(map_name)
        hop = parse_key(key)
        if not isinstance(hop, NextHop):
            shared.counters.tally(_protocol(codec), "none").made += 1
            encoded: bytes = codec.encode(NOT_FOUND)
            return encoded
        outcome = shared.service.lookup(hop, zone)
        if isinstance(outcome, LookupOutcome):
            return shared.answer(codec, request, hop, zone, outcome)
        queued = _QueuedRequest(request, self.seen)
        self.waiting.append(queued)
        outcome.flight.when_settled(partial(self._settled, queued, outcome))
        return None

    # Not a closure: one that passes itself on is garbage in a circle, a dozen objects for each lookup.
    def _settled(self, queued: _QueuedRequest, pending: PendingLookup, now: float) -> None:
        if self._transport is None:
            return
        shared = self._shared
        outcome = shared.service.resume(pending, now)
        if not isinstance(outcome, LookupOutcome):
            outcome.flight.when_settled(partial(self._settled, queued, outcome))
            return
        shared.counters.waits.add(self._monotonic() - queued.started)
        queued.reply = shared.answer(self._codec, queued.request, pending.hop, pending.zone, outcome)
        self._send_settled()

    def _send_settled(self) -> None:
        waiting, replies = self.waiting, []
        while waiting and (reply := waiting[0].reply) is not None:
            replies.append(reply)
            waiting.popleft()
        self._send(replies)
        if self._ending:
            self.close_when_answered()
        else:
            self._resume()

    def _malformed(self, error: FrameError) -> None:
        self._shared.counters.malformed_frames += 1
        protocol = _protocol(self._codec)
        log_event("malformed-request", level=logging.WARNING, once_a_minute="", protocol=protocol, error=error)
        self._buffer = b""
        self.close_when_answered()

    # -- flow and ending -----------------------------------------------------------------------------------

    def _pause(self) -> None:
        if self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()

    def _resume(self) -> None:
        """Read on, unless too many replies wait or the client does not read them."""
        if self._reading or self._client_blocks or self._ending or len(self.waiting) > _MAX_WAITING // 2:
            return
        if self._transport is not None:
            self._reading = True
            self._transport.resume_reading()
            # Requests received before the pause.
            self._take(b"", self._monotonic())

    def close_when_answered(self) -> None:
        """Close as soon as all requests are answered; stop reading."""
        self._ending = True
        if self.waiting:
            self._pause()
        else:
            self.close()

    def close(self) -> None:
        """Close after all written replies are sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
