"""Sessions out of a mail log into the TLSRPT database, each under the policy that the daemon answered with.

The log does not say which policy a session was under. The daemon knows: its store has the MTA-STS policy, and its
answer says whether DANE took precedence. What nobody knows any more is left empty, and counted.
"""

import os
import select
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..policy.entry import CacheEntry, HeldPolicy
from ..policy.sts import Mode
from .database import TlsrptDatabase
from .event import Event, Outcome, Policy, PolicyType
from .known import sts_policy
from .maillog import MAX_LINE, LoggedSession, MailLog
from .tally import Tally

__all__ = ["LogImport", "Policies", "batches"]

_CHUNK = 64 * 1024
_PAUSE = 0.5
"""Seconds between looks at a followed file that has not grown."""

_COMMIT_AFTER = 5000
"""Sessions of one transaction, unless the log pauses before."""

_REMEMBER_FOR = 60.0
_MAX_REMEMBERED = 10_000

# A clock of another host, or a store that wrote the policy down a moment after it was answered.
_LEEWAY = 60.0


# -- lines -------------------------------------------------------------------------------------------------


def batches(path: Path | None, *, follow: bool) -> Iterator[list[str]]:
    """The lines of the file, or of standard input, as they come; an empty batch when nothing has come for a moment.

    ``follow`` begins at the file's end and goes on for ever, with the file that then has the name when it is rotated.
    Lines too long are cut. Raises ``OSError`` where it cannot be read.
    """
    file = _Input(path, at_end=follow and path is not None)
    try:
        while True:
            octets = file.read()
            yield file.lines(octets)
            if octets or file.idle:
                continue
            if not follow or path is None:
                yield file.lines(b"\n")
                return
            if file.rotated():
                yield file.lines(b"\n")
                file.reopen()
            else:
                time.sleep(_PAUSE)
    finally:
        file.close()


class _Input:
    """The open file, and what of its last line has come."""

    def __init__(self, path: Path | None, *, at_end: bool) -> None:
        self._path = path
        self._rest = b""
        self.idle = False
        """The last read found nothing yet, though more may come."""
        self._fd = 0 if path is None else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if at_end:
            os.lseek(self._fd, 0, os.SEEK_END)

    def read(self) -> bytes:
        # A pipe that is silent must not keep what has come from being committed.
        self.idle = not select.select([self._fd], [], [], 1.0)[0]
        return b"" if self.idle else os.read(self._fd, _CHUNK)

    def lines(self, octets: bytes) -> list[str]:
        """The whole lines that ``octets`` complete."""
        *whole, rest = (self._rest + octets).split(b"\n")
        self._rest = rest[: MAX_LINE * 4]
        return [line.decode("utf-8", "replace") for line in whole if line]

    def rotated(self) -> bool:
        """Whether the name is another file's now, or the file was emptied."""
        assert self._path is not None
        mine = os.fstat(self._fd)
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return False  # the new one is yet to be made
        another = (named.st_dev, named.st_ino) != (mine.st_dev, mine.st_ino)
        return another or named.st_size < os.lseek(self._fd, 0, os.SEEK_CUR)

    def reopen(self) -> None:
        """Begin with the file that has the name now."""
        assert self._path is not None
        self.close()
        self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        if self._path is not None:
            os.close(self._fd)


# -- policies ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Remembered:
    entry: CacheEntry | None
    dane: bool
    until: float


class Policies:
    """Which policy a domain's sessions were under.

    ``stored`` gives the daemon's entry of a domain, ``answer`` the reply that Postfix is given for it, or None where
    the daemon cannot be asked.
    """

    def __init__(
        self, stored: Callable[[str], Awaitable[CacheEntry | None]], answer: Callable[[str], str | None]
    ) -> None:
        self._stored = stored
        self._answer = answer
        self._remembered: dict[str, _Remembered] = {}

    async def of(self, session: LoggedSession) -> Policy:
        """The policy of the session."""
        known = await self._known(session.domain)
        held = _held(known.entry, session.moment)
        if session.tlsa or known.dane or (session.verified and held is None):
            # Only a policy or DANE has a server verified. The TLSA records of that moment are gone.
            return Policy(PolicyType.TLSA, session.mx_host or session.domain)
        if held is None:
            return Policy(PolicyType.NO_POLICY_FOUND, session.domain)
        return sts_policy(session.domain, held.policy)

    async def walked(self, session: LoggedSession) -> bool:
        """Whether the daemon itself asks for the TLSA records of the domain's hosts."""
        held = _held((await self._known(session.domain)).entry, session.moment)
        return held is not None and held.policy.mode is Mode.ENFORCE

    async def _known(self, domain: str) -> _Remembered:
        known, now = self._remembered.get(domain), time.monotonic()
        if known is None or known.until < now:
            while len(self._remembered) >= _MAX_REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
            entry = await self._stored(domain)
            enforced = entry is not None and entry.held is not None and entry.held.policy.mode is Mode.ENFORCE
            # Without an enforced policy the answer depends on Postfix's own level, which "verified" tells better.
            reply = self._answer(domain) if enforced else None
            known = _Remembered(entry, (reply or "").startswith("dane"), now + _REMEMBER_FOR)
            self._remembered[domain] = known
        return known


def _held(entry: CacheEntry | None, moment: datetime) -> HeldPolicy | None:
    """The policy that was in force at the moment, by what is held now; None where there was none, or of mode none."""
    held = None if entry is None else entry.held
    if entry is None or held is None or held.policy.mode is Mode.NONE:
        return None
    at = moment.timestamp()
    # It has been renewed daily since it was first used.
    return held if min(entry.first_used, held.fetched_at) - _LEEWAY <= at < held.valid_until else None


# -- sessions ----------------------------------------------------------------------------------------------


class LogImport:
    """Takes the lines of one log and adds its sessions to the database.

    Sessions with the ``smarthosts`` are left out: they say nothing of the recipient's domain. So are those of days
    before ``since``. ``counters`` adds to those of ``MailLog``: ``smarthost``, ``too_old``, ``tlsa_unknown``
    (sessions whose TLSA records are not known), ``left_to_daemon`` (attempts that the daemon's own walks tell of),
    ``refused`` (sessions of more domains than a day may have).
    """

    def __init__(
        self, database: TlsrptDatabase, policies: Policies, *, since: str = "", smarthosts: Collection[str] = ()
    ) -> None:
        self._log = MailLog()
        self.counters: Counter[str] = self._log.counters
        self._database = database
        self._policies = policies
        self._since = since
        self._smarthosts = frozenset(smarthosts)
        self._tallies: dict[str, Tally] = {}
        self._waiting = 0

    async def take(self, lines: Iterable[str], now: datetime) -> None:
        """Read the lines; ``now`` dates those without a year, in its time zone. An empty batch commits what waits."""
        found = False
        for line in lines:
            found = True
            for session in self._log.feed(line, now):
                await self._add(session)
            if self._waiting >= _COMMIT_AFTER:
                self.commit()
        if not found:
            self.commit()

    async def _add(self, session: LoggedSession) -> None:
        day = session.moment.strftime("%Y-%m-%d")
        if session.mx_host in self._smarthosts:
            self.counters["smarthost"] += 1
        elif day < self._since:
            self.counters["too_old"] += 1
        elif not session.session and await self._noted_by_daemon(session):
            self.counters["left_to_daemon"] += 1
        else:
            policy = await self._policies.of(session)
            self.counters["tlsa_unknown"] += session.session and policy.type is PolicyType.TLSA
            self._count(self._tallies.setdefault(day, Tally(day)), session, policy)
            self._waiting += 1

    async def _noted_by_daemon(self, session: LoggedSession) -> bool:
        failure = session.failure
        walked = failure is not None and failure.result_type in ("dnssec-invalid", "tlsa-invalid")
        return walked and await self._policies.walked(session)

    @staticmethod
    def _count(tally: Tally, session: LoggedSession, policy: Policy) -> None:
        failures = () if session.failure is None else (session.failure,)
        if session.session:
            outcome = Outcome(policy, bool(failures), failures)
            tally.add(Event(session.domain, "", (outcome,)))
            return
        for failure in failures:
            tally.add_failure(session.domain, policy, failure)

    def commit(self) -> None:
        """Add what waits to the database. Raises ``StoreError``, and keeps it then."""
        while self._tallies:
            day = next(iter(self._tallies))
            self.counters["refused"] += self._database.add(self._tallies[day]).refused
            del self._tallies[day]
        self._waiting = 0
