"""Where Postfix asks: one protocol for socketmap and tcp_table, over TCP and Unix sockets.

A request that was answered before is answered from ``ReadyReplies``, by the bytes it came as, inside
``data_received``. Everything else is parsed and goes to the service, and waits its turn there: replies leave in the
order of their requests. An idle connection is never closed, since that defers mail (a missed reply, or a connection
that Postfix finds closed at the wrong moment); only at the limit of connections the one idle the longest makes room.
"""

import asyncio
import logging
from collections import deque
from contextlib import suppress
from functools import partial
from time import monotonic
from types import ModuleType
from typing import cast

from ..counters import Counters
from ..errors import FrameError
from ..log import log_event
from ..policy.decision import Zone
from ..policy.next_hop import NextHop, parse_key
from ..postfix.reply import NOT_FOUND, ReplyKind, reply_to
from .reply_cache import Ready, ReplyCache
from .service import LookupOutcome, PolicyService

__all__ = ["LookupServer"]

_MAX_WAITING = 256
"""Requests of one connection that may wait before it is read no further. Postfix sends one at a time."""

_MAX_BATCH = 262_144
"""Bytes of replies after which they are written, so that a client that does not read is noticed."""

_MAX_UNKNOWN_NAMES = 100


class LookupServer:
    """What all lookup connections share: the service, the zones, the ready replies and the limit of connections."""

    def __init__(
        self,
        service: PolicyService,
        counters: Counters,
        *,
        max_connections: int,
        max_ready: int,
        max_ready_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self.service = service
        self.counters = counters
        self.ready = ReplyCache(max_ready, max_ready_bytes)
        self.max_connections = max_connections
        self.connections: set[_Connection] = set()
        self._zones: dict[bytes, Zone] = {}
        self._one_closed = asyncio.Event()

    def protocol(self, codec: ModuleType) -> asyncio.Protocol:
        """A protocol for a new connection that speaks ``codec``, one of the modules in ``wire``."""
        return _Connection(self, codec)

    def configure(self, max_connections: int, max_replies: int, max_reply_bytes: int) -> None:
        """Take over new limits and drop all cached replies."""
        self.max_connections = max_connections
        self.ready.limit = max_replies
        self.ready.max_bytes = max_reply_bytes
        self.reconfigured()

    def reconfigured(self) -> None:
        """The service has new settings: nothing that was derived from the old ones holds."""
        self.ready.clear()
        self._zones.clear()

    def zone(self, map_name: bytes) -> Zone:
        """The zone of a map name in any letter case; an unknown one has the default zone, with one warning."""
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
        """The reply to ``request`` as bytes, kept ready as long as its outcome holds."""
        decision = outcome.decision
        reply = reply_to(decision, hop.policy_domain, zone.dialect, codec.TEXT_LIMIT, outcome.hosts)
        kind = decision.answer.value if reply.kind is not ReplyKind.TEMPORARY else "temp"
        tally = self.counters.tally(_protocol(codec), kind)
        tally.made += 1
        domain, mx_mismatches = hop.policy_domain, self.service.mx_mismatches
        why = reply.text if reply.kind is ReplyKind.TEMPORARY else mx_mismatches.reason(domain, decision)
        if why:
            log_event("mail-deferred", level=logging.WARNING, once_a_minute=domain, domain=domain, reason=why)
        if reply.shortened is not None:
            self.counters.replies_shortened += 1
            log_event("reply-shortened", once_a_minute=domain, domain=domain, without=reply.shortened)
        encoded: bytes = codec.encode(reply)
        if outcome.until > monotonic():
            self.ready.keep(request, Ready(encoded, tally, outcome.slot, outcome.slot.changes, outcome.until))
        return encoded

    def waiting(self) -> int:
        """How many lookups wait for their replies."""
        return sum(len(connection.waiting) for connection in self.connections)

    def make_room(self) -> None:
        """Close the connection idle the longest, so that nobody can hold every place."""
        idle = [connection for connection in self.connections if not connection.waiting]
        victim = min(idle or self.connections, key=lambda connection: connection.seen)
        self.counters.connections_refused += 1
        log_event("too-many-connections", level=logging.WARNING, once_a_minute="", limit=self.max_connections)
        # It counts no longer, so that the next of a burst finds another one; and it need not read what was sent to it.
        self.connections.discard(victim)
        victim.abort()

    def closed(self, connection: "_Connection") -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        self._one_closed.set()

    async def drain(self, seconds: float) -> None:
        """Answer what has been asked, then close every connection; for at most ``seconds``."""
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


class _Waiting:
    """A request whose reply is not there yet, or has to wait for an earlier one's."""

    __slots__ = ("reply",)

    def __init__(self, reply: bytes | None = None) -> None:
        self.reply = reply


class _Asked(_Waiting):
    """A request that waits for a flight, and then perhaps for another one."""

    __slots__ = ("begun", "hop", "judged_at", "request", "zone")

    def __init__(self, request: bytes, hop: NextHop, zone: Zone, begun: float) -> None:
        super().__init__()
        self.request = request
        self.hop = hop
        self.zone = zone
        self.begun = begun
        self.judged_at: float | None = None


class _Connection(asyncio.Protocol):
    __slots__ = (
        "_buffer",
        "_clogged",
        "_codec",
        "_ending",
        "_reading",
        "_ready",
        "_shared",
        "_transport",
        "seen",
        "waiting",
    )

    def __init__(self, shared: LookupServer, codec: ModuleType) -> None:
        self._shared = shared
        self._codec = codec
        self._ready = shared.ready.get
        self._buffer = b""
        self._reading = True
        self._clogged = False  # the client does not take its replies
        self._ending = False
        self._transport: asyncio.Transport | None = None
        self.waiting: deque[_Waiting] = deque()
        self.seen = 0.0

    # -- asyncio's side ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        shared = self._shared
        if len(shared.connections) >= shared.max_connections:
            shared.make_room()
        # Not an instance of it under uvloop.
        self._transport = cast("asyncio.Transport", transport)
        self.seen = monotonic()
        shared.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.closed(self)
        self._transport = None
        self._buffer = b""
        self.waiting.clear()

    def data_received(self, data: bytes) -> None:
        # The hot path: one whole request, asked before, and nobody in line.
        ready = self._ready(data)
        now = monotonic()
        self.seen = now
        if (
            ready is None
            or now >= ready.until
            or ready.slot.changes != ready.changes
            or self._buffer
            or self.waiting
            or self._transport is None
        ):
            self._take(data, now)
            return
        ready.slot.used = True
        ready.tally.hits += 1
        self._transport.write(ready.reply)

    def pause_writing(self) -> None:
        self._clogged = True
        self._pause()

    def resume_writing(self) -> None:
        self._clogged = False
        self._resume()

    def eof_received(self) -> bool:
        # A client that has shut down its sending side still gets its replies.
        self.close_when_answered()
        return True

    # -- requests ------------------------------------------------------------------------------------------

    def _take(self, data: bytes, now: float) -> None:
        """Answer the whole requests that have come, in few writes, as far as there is room for replies."""
        buffer = self._buffer + data if self._buffer else data
        frame_end, get_ready = self._codec.frame_end, self._ready
        waiting, misses = self.waiting, 0
        replies: list[bytes] = []
        start = 0
        if self._reading and not waiting and buffer.count(self._codec.FRAME_ENDING) > 1:
            start = self._take_ready(buffer, now, replies)
        size = sum(map(len, replies))
        malformed: FrameError | None = None
        try:
            while self._reading and (end := frame_end(buffer, start)) > 0:
                request = buffer[start:end]
                start = end
                ready = get_ready(request)
                if ready is not None and now < ready.until and ready.slot.changes == ready.changes:
                    ready.slot.used = True
                    ready.tally.hits += 1
                    reply: bytes | None = ready.reply
                else:
                    reply = self._ask(request)
                    misses += 1
                if reply is not None and not waiting:
                    replies.append(reply)
                    size += len(reply)
                elif reply is not None:
                    waiting.append(_Waiting(reply))
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

    def _take_ready(self, buffer: bytes, now: float, replies: list[bytes]) -> int:
        """Give the ready replies to the requests that ``buffer`` begins with, and the offset behind those.

        A request asked before need not be read again: cut wherever a frame may end, it is the same bytes or not.
        """
        get_ready, ending, size = self._ready, self._codec.FRAME_ENDING, 0
        pieces = buffer.split(ending)
        pieces.pop()  # what has not ended yet
        for piece in pieces:
            ready = get_ready(piece + ending)
            if ready is None or now >= ready.until or size > _MAX_BATCH:
                break
            slot = ready.slot
            if slot.changes != ready.changes:
                break
            slot.used = True
            ready.tally.hits += 1
            reply = ready.reply
            size += len(reply)
            replies.append(reply)
        return sum(map(len, pieces[: len(replies)])) + len(replies) * len(ending)

    def _send(self, replies: list[bytes]) -> None:
        if replies and self._transport is not None:
            self._transport.write(b"".join(replies))

    def _ask(self, request: bytes) -> bytes | None:
        """The reply, or None when the request has been put in line."""
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
        asked = _Asked(request, hop, zone, self.seen)
        self.waiting.append(asked)
        outcome.when_settled(partial(self._settled, asked))
        return None

    # Not a closure: one that passes itself on is garbage in a circle, a dozen objects for each lookup.
    def _settled(self, asked: _Asked, now: float) -> None:
        if self._transport is None:
            return
        # A policy is judged at the moment it was had, however long DANE takes after that.
        judged_at = asked.judged_at = now if asked.judged_at is None else asked.judged_at
        shared = self._shared
        outcome = shared.service.lookup(asked.hop, asked.zone, judged_at)
        if not isinstance(outcome, LookupOutcome):
            outcome.when_settled(partial(self._settled, asked))
            return
        shared.counters.waits.add(monotonic() - asked.begun)
        asked.reply = shared.answer(self._codec, asked.request, asked.hop, asked.zone, outcome)
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
        """Read on, where neither replies that wait nor replies not taken stand against it."""
        if self._reading or self._clogged or self._ending or len(self.waiting) > _MAX_WAITING // 2:
            return
        if self._transport is not None:
            self._reading = True
            self._transport.resume_reading()
            # What had come before the pause.
            self._take(b"", monotonic())

    def close_when_answered(self) -> None:
        """Close as soon as nobody is in line; until then nothing more is read."""
        self._ending = True
        if self.waiting:
            self._pause()
        else:
            self.close()

    def close(self) -> None:
        """Close after what has been written is sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
