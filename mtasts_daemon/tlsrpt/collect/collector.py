"""Collect libtlsrpt datagrams: one thread receives them, another adds them to the database.

The kernel queues at most ``net.unix.max_dgram_qlen`` datagrams (10, or 512 if systemd raised it) and Postfix does not
wait: a datagram that finds the socket full is lost, with a warning in Postfix's log. So the receiving thread only takes
datagrams off the socket and never waits for a disk. The writing thread commits several times a second, so that kill -9
loses at most the results of the last second.

No datagram can end either thread. Unusable datagrams are counted by the slug of their error, and a sample is logged.
"""

import contextlib
import itertools
import logging
import os
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType

from ...clock import SystemClock
from ...errors import EventNotKept, StoreError, TlsrptEventError
from ...log import log_event
from ...ports import Clock
from ...text import utc_day
from ..database.connection import TlsrptDatabase
from ..database.writes import Added, Row, Rows, RowsGone
from ..model.event import Failure, Policy, TlsrptEvent, parse_datagram
from ..model.tally import Tally, policy_digest
from .socket import Datagrams, SocketSettings, check_socket, open_socket

__all__ = ["Collector", "CollectorCounters", "SocketSettings"]

QUEUE_LIMIT = 64 * 1024 * 1024
"""Maximum size of the queue in bytes, enough for minutes of busy mail. If it is full, the disk hangs."""

SEEN_LIMIT = 65_536
"""Maximum number of known datagrams, about 200 bytes each."""

NOTES_LIMIT = 10_000
"""Maximum number of queued failures without session."""

_OVERHEAD = 64
"""Bytes of memory that a datagram takes in addition to its content."""

_BURST = 64
"""Datagrams handed to the writing thread together."""

_GATHER = 0.25
"""Seconds between the first datagram of a batch and the start of its commit."""

_BATCH = 2000
"""Datagrams of one transaction. A larger one would hold the interpreter's lock too long."""

_RETRY_AFTER = 1.0
_MAX_TRIES = 600
"""Seconds between attempts to add a batch while the disk fails, and their maximum number."""

_SAMPLE = 200
"""Number of bytes of a rejected datagram that are logged."""

_NONE: Mapping[Row, int] = MappingProxyType({})
_SYSTEM_CLOCK = SystemClock()

Batch = dict[str, list[bytes]]
FailureNote = tuple[str, str, Policy, Failure, int]


@dataclass(slots=True)
class CollectorCounters:
    """Counts since the start. If nothing is queued, ``received`` equals ``kept`` plus all of ``rejected``."""

    received: int = 0
    """Datagrams."""
    received_at: float = 0.0
    """When the last one was received, in seconds since the epoch; 0 if none was."""
    kept: int = 0
    """Datagrams that were committed."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Rejected datagrams by slug; ``event-not-kept``: the queue was full, or the disk failed too long."""
    refused: int = 0
    """Sessions in kept datagrams that were not kept because the day has the maximum of policy domains."""
    findings_lost: int = 0
    """Failures without session that were not added: too many waited, or the disk failed too long."""
    commits: int = 0
    commit_seconds: float = 0.0
    """Time spent in transactions, including the wait for the writing thread of the database."""
    store_failures: int = 0
    """Transactions that failed; they are retried."""
    unhandled: int = 0
    """Batches lost to an internal error."""
    queued: int = 0
    """Bytes that wait for the writing thread."""

    @classmethod
    def total(cls, parts: Iterable["CollectorCounters"]) -> "CollectorCounters":
        """Return the sum of several counters. Callable from any thread."""
        total = cls()
        for part in parts:
            total.rejected.update(dict(part.rejected))  # a copy, because another thread may add to it
            total.received_at = max(total.received_at, part.received_at)
            for name in _SUMS:
                setattr(total, name, getattr(total, name) + getattr(part, name))
        return total


_SUMS = tuple(name for name in CollectorCounters.__slots__ if name not in ("rejected", "received_at"))


class _Seen:
    """Datagrams of one day that need not be parsed again.

    On a busy host nearly all datagrams report one more successful session with a domain and are identical to earlier
    ones. The most frequent ones come first on a day, so no more are added when the limit is reached.
    """

    def __init__(self, day: str, generation: int) -> None:
        self.day = day
        self.generation = generation
        """Generation of the database."""
        self.rows: dict[bytes, Row] = {}
        """Row that counts the successful session, by the digest of the datagram."""

    def learn(self, events: Iterable[tuple[bytes, TlsrptEvent]], rows: Rows) -> None:
        """Add the events of exactly one successful session, with the rows that count them."""
        for digest, event in itertools.islice(events, max(0, SEEN_LIMIT - len(self.rows))):
            if len(event.outcomes) == 1 and not event.outcomes[0].failed and not event.outcomes[0].failures:
                row = rows.get((event.domain, policy_digest(event.outcomes[0].policy)))
                if row is not None:
                    self.rows[digest] = row


class Collector:
    """Collector on its own socket or an inherited one. It receives from ``start`` to ``stop``."""

    def __init__(
        self,
        where: SocketSettings | socket.socket,
        database: TlsrptDatabase,
        *,
        clock: Clock = _SYSTEM_CLOCK,
        log_event: Callable[..., object] = log_event,
    ) -> None:
        self.counters = CollectorCounters()
        self._where = where
        self._database = database
        self._log_event = log_event
        self._clock = clock
        self._lock = threading.Lock()
        self._pending: Batch = {}
        self._notes: list[FailureNote] = []
        self._seen = _Seen("", database.generation)
        self._filled = threading.Event()
        self._stopping = threading.Event()
        self._received_all = threading.Event()
        self._receiver = threading.Thread(target=self._receive, name="tlsrpt-receiver", daemon=True)
        self._writer = threading.Thread(target=self._write, name="tlsrpt-writer", daemon=True)

    def start(self) -> None:
        """Open the socket and start the threads. Raises ``OSError`` if the socket cannot be opened."""
        where = self._where
        self._sock = check_socket(where) if isinstance(where, socket.socket) else open_socket(where)
        self._wake_receiver, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._receiver.start()
        self._writer.start()

    def stop(self, timeout: float = 10.0) -> bool:
        """Drain the socket and the queue, then stop. Return False after ``timeout`` seconds."""
        if not self._receiver.ident or self._stopping.is_set():
            return not self._writer.is_alive()
        # Written before the flag is set: the thread closes the pipe when it ends.
        os.write(self._wake, b"\0")
        self._stopping.set()
        self._receiver.join(timeout)
        self._received_all.set()
        self._filled.set()
        self._writer.join(timeout)
        return not self._writer.is_alive()

    def note(self, domain: str, policy: Policy, failure: Failure, count: int = 1) -> None:
        """Add failures of today without session. Callable from any thread; does not wait for the disk."""
        with self._lock:
            if len(self._notes) >= NOTES_LIMIT:
                self.counters.findings_lost += 1
                return
            self._notes.append((utc_day(self._clock.wall()), domain, policy, failure, count))
        self._filled.set()

    def _log(self, event: str, **fields: object) -> None:
        # A log that cannot be written must not end a thread.
        with contextlib.suppress(Exception):
            self._log_event(event, **fields)

    # -- receiving ---------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        datagrams = Datagrams(self._sock)
        poll = select.poll()
        for fd in (datagrams.fileno(), self._wake_receiver):
            poll.register(fd, select.POLLIN)
        while not self._stopping.is_set():
            poll.poll()
            while self._take(datagrams) == _BURST and not self._stopping.is_set():
                pass
        # Drain the kernel's queue, with a time limit because more datagrams may arrive.
        last = self._clock.monotonic() + 1.0
        while self._take(datagrams) and self._clock.monotonic() < last:
            pass
        self._close()

    def _take(self, datagrams: Datagrams) -> int:
        """Take up to ``_BURST`` datagrams off the socket. Return their number; fewer means the socket is empty."""
        try:
            burst = datagrams.take(_BURST)
        except OSError as error:
            self._log("tlsrpt-receive-failed", level=logging.ERROR, once_a_minute="", error=error.strerror)
            self._stopping.wait(_RETRY_AFTER)
            return 0
        if burst:
            self._hand_over(burst)
        return len(burst)

    def _hand_over(self, burst: list[bytes]) -> None:
        counters, size, now = self.counters, _size(burst), self._clock.wall()
        day = utc_day(now)
        with self._lock:
            counters.received += len(burst)
            counters.received_at = now
            if counters.queued + size > QUEUE_LIMIT:
                counters.rejected[EventNotKept.slug] += len(burst)
                return
            counters.queued += size
            self._pending.setdefault(day, []).extend(burst)
        self._filled.set()

    def _close(self) -> None:
        self._sock.close()
        os.close(self._wake)
        os.close(self._wake_receiver)
        if isinstance(self._where, SocketSettings):  # the path of an inherited socket belongs to systemd
            with contextlib.suppress(OSError):
                Path(self._where.path).unlink()

    # -- writing -----------------------------------------------------------------------------------------------

    def _write(self) -> None:
        ended = False
        while not ended:
            self._filled.wait()
            ended = self._received_all.wait(_GATHER)
            self._filled.clear()
            with self._lock:
                pending, self._pending = self._pending, {}
                notes, self._notes = self._notes, []
            try:
                for day, datagrams in pending.items():
                    for start in range(0, len(datagrams), _BATCH):
                        self._add_datagrams(day, datagrams[start : start + _BATCH])
                self._add_notes(notes)
            except Exception as error:  # an internal error must not end the collection
                self.counters.unhandled += 1
                self._log("tlsrpt-unhandled", level=logging.ERROR, once_a_minute="", error=repr(error))

    def _add_datagrams(self, day: str, datagrams: list[bytes]) -> None:
        try:
            self._add_counted(day, Counter(datagrams))
        except RowsGone:
            self._seen.rows.clear()
            self._add_counted(day, Counter(datagrams))
        finally:
            size = _size(datagrams)  # before taking the lock that the receiving thread needs
            with self._lock:
                self.counters.queued -= size

    def _add_counted(self, day: str, datagrams: Counter[bytes]) -> None:
        if (self._seen.day, self._seen.generation) != (day, self._database.generation):
            self._seen = _Seen(day, self._database.generation)
        rows, tally, again, used = self._seen.rows, Tally(day), Counter[Row](), 0
        new: list[tuple[bytes, TlsrptEvent]] = []
        # The errors themselves are not kept: they reference the parsed data, up to gigabytes in a batch.
        rejected: list[tuple[str, str, bytes, int]] = []
        for data, times in datagrams.items():
            digest = blake2b(data, digest_size=16).digest()
            if (row := rows.get(digest)) is not None:
                again[row] += times
            else:
                try:
                    event = parse_datagram(data)
                except TlsrptEventError as error:
                    rejected.append((error.slug, str(error), data[:_SAMPLE], times))
                    continue
                tally.add(event, times)
                new.append((digest, event))
            used += times
        added = self._commit(tally, again) if used else None
        if isinstance(added, StoreError):
            rejected.append((EventNotKept.slug, str(EventNotKept(added.sentence)), b"", used))
        elif added is not None:
            self._seen.learn(new, added.rows)
            self.counters.kept += used
        for rejection in rejected:
            self._reject(*rejection)

    def _add_notes(self, notes: list[FailureNote]) -> None:
        tallies: dict[str, Tally] = {}
        for day, domain, policy, failure, count in notes:
            tallies.setdefault(day, Tally(day)).add_failure(domain, policy, failure, count)
        added = [self._commit(tally) for tally in tallies.values()]
        if any(isinstance(outcome, StoreError) for outcome in added):
            with self._lock:
                self.counters.findings_lost += len(notes)

    def _reject(self, slug: str, error: str, sample: bytes, times: int) -> None:
        with self._lock:
            self.counters.rejected[slug] += times
        shown = {"sample": ascii(sample)[2:-1]} if sample else {}
        self._log("tlsrpt-event-rejected", level=logging.WARNING, once_a_minute=slug, error=error, **shown)

    def _commit(self, tally: Tally, again: Mapping[Row, int] = _NONE) -> Added | StoreError:
        """Add the tally and retry while the disk fails. Return the error if it has failed for too long."""
        tries, ends = 0, False
        while True:
            begun = time.perf_counter()
            try:
                added = self._database.add(tally, again, self._seen.generation)
            except StoreError as error:
                tries += 1
                self.counters.store_failures += 1
                self._log("tlsrpt-write-failed", level=logging.ERROR, once_a_minute="", error=error)
                if ends or tries == _MAX_TRIES:
                    return error
                ends = self._received_all.wait(_RETRY_AFTER)
            else:
                self.counters.commits += 1
                self.counters.commit_seconds += time.perf_counter() - begun
                self.counters.refused += added.refused
                return added


def _size(datagrams: list[bytes]) -> int:
    return sum(map(len, datagrams)) + _OVERHEAD * len(datagrams)
