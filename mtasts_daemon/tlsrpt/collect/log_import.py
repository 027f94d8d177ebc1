"""Import sessions from a mail log into the TLSRPT database, each under the policy of the daemon's reply.

The log does not name the policy of a session. The daemon's store has the MTA-STS policy, and its reply shows if DANE
took precedence. Values that cannot be determined later are left empty and counted.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from ...policy.cache_entry import CacheEntry, HeldPolicy
from ...policy.mtasts import Mode
from ...ports import Clock
from ..database.connection import TlsrptDatabase
from ..model.event import Policy, PolicyResult, PolicyType, TlsrptEvent
from ..model.mail_log import LoggedSession, MailLog
from ..model.own_failures import sts_policy
from ..model.tally import Tally
from .log_file import Mark, save_mark

__all__ = ["LogImport", "SessionPolicies"]

_COMMIT_AFTER = 5000
"""Number of sessions per transaction; a pause in the log commits earlier."""

_REMEMBER_FOR = 60.0
_MAX_REMEMBERED = 10_000

# Tolerates clock differences, and a policy that was stored shortly after the reply.
_LEEWAY = 60.0


# -- policies ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _CachedLookup:
    entry: CacheEntry | None
    dane: bool
    until: float


class SessionPolicies:
    """Policies of the sessions of a domain.

    ``stored`` returns the daemon's cache entry of a domain. ``answer`` returns the daemon's reply to Postfix, or None
    if the daemon cannot be reached. Both are asked again after a minute of ``clock``.
    """

    def __init__(
        self, stored: Callable[[str], Awaitable[CacheEntry | None]], answer: Callable[[str], str | None], clock: Clock
    ) -> None:
        self._stored = stored
        self._answer = answer
        self._clock = clock
        self._remembered: dict[str, _CachedLookup] = {}

    async def of(self, session: LoggedSession) -> Policy:
        """Return the policy of the session."""
        known = await self._known(session.domain)
        held = _held(known.entry, session.moment)
        if session.tlsa or known.dane or (session.verified and held is None):
            # A server is verified only because of a policy or DANE. The TLSA records at that time are unknown.
            return Policy(PolicyType.TLSA, session.mx_host or session.domain)
        if held is None:
            return Policy(PolicyType.NO_POLICY_FOUND, session.domain)
        return sts_policy(session.domain, held.policy)

    async def walked(self, session: LoggedSession) -> bool:
        """Return True if the daemon itself looks up the TLSA records of the domain's MX hosts."""
        held = _held((await self._known(session.domain)).entry, session.moment)
        return held is not None and held.policy.mode is Mode.ENFORCE

    async def _known(self, domain: str) -> _CachedLookup:
        known, now = self._remembered.get(domain), self._clock.monotonic()
        if known is None or known.until < now:
            while len(self._remembered) >= _MAX_REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
            entry = await self._stored(domain)
            enforced = entry is not None and entry.held is not None and entry.held.policy.mode is Mode.ENFORCE
            # Without an enforced policy the level is Postfix's own, and "verified" is the better evidence.
            reply = self._answer(domain) if enforced else None
            known = _CachedLookup(entry, (reply or "").startswith("dane"), now + _REMEMBER_FOR)
            self._remembered[domain] = known
        return known


def _held(entry: CacheEntry | None, moment: datetime) -> HeldPolicy | None:
    """Return the policy in force at the moment, according to the current entry. None for mode none."""
    held = None if entry is None else entry.held
    if entry is None or held is None or held.policy.mode is Mode.NONE:
        return None
    at = moment.timestamp()
    # The policy has been refreshed daily since its first use.
    return held if min(entry.first_used, held.fetched_at) - _LEEWAY <= at < held.valid_until else None


# -- sessions ----------------------------------------------------------------------------------------------


class LogImport:
    """Import of one log into the database.

    Sessions with ``smarthosts`` are skipped, because they do not concern the recipient's domain. Sessions before the
    day ``since`` are skipped. ``counters`` extends those of ``MailLog``: ``smarthost``, ``too_old``, ``tlsa_unknown``
    (sessions whose TLSA records are not known), ``left_to_daemon`` (attempts that the daemon reports itself),
    ``refused`` (sessions of domains beyond the cap of a day).
    """

    def __init__(
        self, database: TlsrptDatabase, policies: SessionPolicies, *, since: str = "", smarthosts: Collection[str] = ()
    ) -> None:
        self._log = MailLog()
        self.counters: Counter[str] = self._log.counters
        self._database = database
        self._policies = policies
        self._since = since
        self._smarthosts = frozenset(smarthosts)
        self._tallies: dict[str, Tally] = {}
        self._waiting = 0
        self._mark: Mark | None = None
        self._moved = False

    def recall(self, lines: Iterable[str], now: datetime) -> None:
        """Read lines that were already counted, for sessions that later lines complete."""
        for line in lines:
            for _ in self._log.feed(line, now):
                pass
        self.counters.clear()

    async def take(self, lines: Iterable[str], now: datetime, mark: Mark | None = None) -> None:
        """Read the lines. ``now`` gives the year and time zone of lines without them. An empty batch commits.

        ``mark`` is the position after the lines and is stored with their results. If the call is cancelled, only some
        of the lines were added, and ``commit`` must not be called.
        """
        found = False
        for line in lines:
            found = True
            for session in self._log.feed(line, now):
                await self._add(session)
        self._moved = self._moved or mark != self._mark
        self._mark = mark
        if not found or self._waiting >= _COMMIT_AFTER:
            self.commit(now)

    async def _add(self, session: LoggedSession) -> None:
        day = session.moment.strftime("%Y-%m-%d")
        if session.mx_host in self._smarthosts:
            self.counters["smarthost"] += 1
        elif day < self._since:
            self.counters["too_old"] += 1
        elif not session.session and await self._found_by_daemon(session):
            self.counters["left_to_daemon"] += 1
        else:
            policy = await self._policies.of(session)
            self.counters["tlsa_unknown"] += session.session and policy.type is PolicyType.TLSA
            self._count(self._tallies.setdefault(day, Tally(day)), session, policy)
            self._waiting += 1

    async def _found_by_daemon(self, session: LoggedSession) -> bool:
        failure = session.failure
        walked = failure is not None and failure.result_type in ("dnssec-invalid", "tlsa-invalid")
        return walked and await self._policies.walked(session)

    @staticmethod
    def _count(tally: Tally, session: LoggedSession, policy: Policy) -> None:
        failures = () if session.failure is None else (session.failure,)
        if session.session:
            outcome = PolicyResult(policy, bool(failures), failures)
            tally.add(TlsrptEvent(session.domain, "", (outcome,)))
            return
        for failure in failures:
            tally.add_failure(session.domain, policy, failure)

    def commit(self, now: datetime) -> None:
        """Add the waiting results and the position to the database. Keep them if that raises ``StoreError``."""
        if not (self._tallies or self._moved):
            return
        also = None if self._mark is None else partial(save_mark, self._mark, now.timestamp())
        self.counters["refused"] += self._database.add_tallies(self._tallies.values(), also)
        self._tallies.clear()
        self._waiting, self._moved = 0, False
