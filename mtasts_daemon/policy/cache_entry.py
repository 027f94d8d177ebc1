"""The cache entry of one policy domain, and its automaton.

``transition`` takes an entry, an event and its moment, and returns the new entry with the effects that the caller
carries out. All transitions are in ``TABLE``. Two rules hold throughout (RFC 8461 section 3.3 and 5.1):

* only a good fetch replaces or ends a live policy, and
* only a good fetch extends a life.

All moments are wall-clock seconds since the epoch. A moment in the future of ``now`` means that the clock was set
back; it is never taken as a reason to wait.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, Flag, auto
from functools import lru_cache
from typing import NamedTuple
from zlib import crc32

from ..errors import OWN_FETCH_SLUGS, DnsError, DnsUnreachable, PolicyFetchBusy, StsRecordError
from .dns_answer import DnsAnswer
from .mtasts import RFC8461, PolicyFormat, StsPolicy

__all__ = [
    "OWN_FAILURE_TTL",
    "TABLE",
    "CacheEntry",
    "CacheEvent",
    "CacheRules",
    "Effect",
    "FetchFailure",
    "HeldPolicy",
    "Phase",
    "PolicyFailed",
    "PolicyFetched",
    "Transition",
    "TxtAbsent",
    "TxtCheck",
    "TxtFailed",
    "TxtFound",
    "TxtInvalid",
    "next_due",
    "on_load",
    "settled_until",
    "transition",
    "txt_event",
]


OWN_FAILURE_TTL = 5.0
"""Seconds that a failure of this host (no resolver, no route, no CA certificates) is cached."""

_BUSY_FOR = 60.0
"""Seconds after which a fetch is retried that our own limits prevented or cancelled."""


class CacheRules(NamedTuple):
    """Times in seconds. The defaults are the advice of RFC 8461 sections 3.3, 5.1 and 10.2."""

    txt_ttl_min: float = 60.0
    txt_ttl_max: float = 3600.0
    txt_failure_ttl: float = 60.0
    refresh_after: float = 86400.0
    retry_min: float = 300.0
    retry_max: float = 21600.0


@dataclass(frozen=True, slots=True)
class HeldPolicy:
    """A policy as of its last good fetch. It is live until ``valid_until``, inclusive."""

    record_id: str
    body: bytes
    policy: StsPolicy
    fetched_at: float
    valid_until: float


@dataclass(frozen=True, slots=True)
class TxtCheck:
    """The last TXT answer of ``_mta-sts.<domain>``; ``problem`` is an error's slug and ``detail`` its sentence."""

    at: float
    holds_until: float
    record_id: str | None = None
    problem: str | None = None
    detail: str = ""

    def holds(self, now: float) -> bool:
        """Return True if TXT need not be asked for yet."""
        return self.at <= now < self.holds_until


@dataclass(frozen=True, slots=True)
class FetchFailure:
    """The last HTTPS attempt for ``record_id``, the last of ``count`` that failed in a row.

    ``count`` is 0 if no attempt was made or finished: our own limits prevented it, or a clock that was set back made
    one due.
    """

    record_id: str
    at: float
    retry_at: float
    count: int
    problem: str
    detail: str = ""

    def forbids(self, record_id: str, now: float) -> bool:
        """Return True if it is too early to fetch again; a new id is never held back (RFC 8461 section 3.3)."""
        return record_id == self.record_id and self.at <= now < self.retry_at


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """Everything known of one policy domain. ``first_used`` and ``last_used`` are lookups, not refreshes."""

    domain: str
    held: HeldPolicy | None = None
    txt: TxtCheck | None = None
    failure: FetchFailure | None = None
    first_used: float = 0.0
    last_used: float = 0.0

    def live(self, now: float) -> HeldPolicy | None:
        """Return the policy in force at ``now``, or None."""
        held = self.held
        return held if held is not None and now <= held.valid_until else None


# -- events ---------------------------------------------------------------------------------------


class TxtFound(NamedTuple):
    """Exactly one valid record."""

    record_id: str
    ttl: float


class TxtAbsent(NamedTuple):
    """No record begins with v=STSv1;."""

    ttl: float


class TxtInvalid(NamedTuple):
    """Records, but not one valid record (RFC 8461 section 3.1: as if there were none)."""

    problem: str
    detail: str
    ttl: float


class TxtFailed(NamedTuple):
    """The TXT lookup failed."""

    problem: str
    detail: str


class PolicyFetched(NamedTuple):
    """A valid policy was fetched, for the id that TXT names (or has named)."""

    record_id: str
    body: bytes
    policy: StsPolicy


class PolicyFailed(NamedTuple):
    """No valid policy could be fetched."""

    record_id: str
    problem: str
    detail: str


CacheEvent = TxtFound | TxtAbsent | TxtInvalid | TxtFailed | PolicyFetched | PolicyFailed


def txt_event(reply: DnsAnswer[bytes] | DnsError, policy_format: PolicyFormat = RFC8461) -> CacheEvent:
    """Return the event of a TXT answer for ``_mta-sts.<domain>``."""
    if isinstance(reply, DnsError):
        return TxtFailed(reply.slug, reply.sentence)
    try:
        record = policy_format.parse_txt(reply.records)
    except StsRecordError as error:
        return TxtInvalid(error.slug, error.sentence, reply.ttl)
    return TxtAbsent(reply.ttl) if record is None else TxtFound(record.id, reply.ttl)


# -- transitions --------------------------------------------------------------------------------------


class Effect(Flag):
    """Actions for the caller after a transition."""

    NOTHING = 0
    FETCH = auto()
    """Fetch the policy for ``Transition.entry.txt.record_id``."""
    SAVE = auto()
    """Commit the entry; before an answer from it leaves."""
    CHANGED = auto()
    """Replies made from the old entry no longer hold."""


class Transition(NamedTuple):
    """The new entry, what to do, and the name of the log event, or None."""

    entry: CacheEntry
    effects: Effect = Effect.NOTHING
    event: str | None = None


class Phase(Enum):
    """The state of an entry at a moment."""

    BARE = "nothing live"
    LIVE = "a live policy"

    @classmethod
    def of(cls, entry: CacheEntry, now: float) -> "Phase":
        """Return the phase of ``entry`` at ``now``."""
        return cls.BARE if entry.live(now) is None else cls.LIVE


def _seen(entry: CacheEntry, txt: TxtCheck) -> CacheEntry:
    # Called for every first lookup of a domain; ``replace`` takes as long as the rest of the transition.
    return CacheEntry(entry.domain, entry.held, txt, entry.failure, entry.first_used, entry.last_used)


def _txt_found(entry: CacheEntry, event: TxtFound, now: float, rules: CacheRules) -> Transition:
    ttl = _clamped(event.ttl, rules)
    seen = _seen(entry, TxtCheck(now, now + ttl, event.record_id))
    # RFC 8461 section 5.1: a changed id means a changed policy, so it is fetched at once; section 3.3: a failed fetch
    # is not repeated for a while.
    held = entry.live(now)
    known = held is not None and held.record_id == event.record_id
    held_back = entry.failure is not None and entry.failure.forbids(event.record_id, now)
    return Transition(seen, Effect.NOTHING if known or held_back else Effect.FETCH)


def _txt_not_valid(entry: CacheEntry, event: TxtAbsent | TxtInvalid, now: float, rules: CacheRules) -> Transition:
    ttl = _clamped(event.ttl, rules)
    if isinstance(event, TxtInvalid):
        return Transition(_seen(entry, TxtCheck(now, now + ttl, None, event.problem, event.detail)))
    return Transition(_seen(entry, TxtCheck(now, now + ttl) if entry.held else _absent(now // 1, ttl)))


@lru_cache(maxsize=256)
def _absent(second: float, ttl: float) -> TxtCheck:
    """Return one object for all names without a record that were checked in the same second: most of a full cache."""
    return TxtCheck(second, second + ttl)


def _txt_not_valid_live(entry: CacheEntry, event: TxtAbsent | TxtInvalid, now: float, rules: CacheRules) -> Transition:
    # RFC 8461 section 3.1: this alone does not end a policy; an attacker who suppresses DNS answers must not either.
    seen = _txt_not_valid(entry, event, now, rules)
    changed = entry.txt is None or entry.txt.record_id is not None
    return seen._replace(event="sts-record-missing" if changed else None)


def _txt_failed(entry: CacheEntry, event: TxtFailed, now: float, rules: CacheRules) -> Transition:
    # An unreachable resolver is a failure of this host, which may end at any moment.
    ours = event.problem == DnsUnreachable.slug
    ttl = min(rules.txt_failure_ttl, OWN_FAILURE_TTL) if ours else rules.txt_failure_ttl
    check = TxtCheck(now, now + ttl, None, event.problem, event.detail)
    return Transition(_seen(entry, check))


def _fetched(entry: CacheEntry, event: PolicyFetched, now: float, rules: CacheRules) -> Transition:
    policy = event.policy
    held = HeldPolicy(event.record_id, event.body, policy, now, now + policy.max_age)
    new = replace(entry, held=held, failure=None)
    old = entry.live(now)
    if old is None:
        return Transition(new, Effect.SAVE | Effect.CHANGED, "policy-learned")
    same = (old.policy.mode, old.policy.mx) == (policy.mode, policy.mx)
    return Transition(new, Effect.SAVE | Effect.CHANGED, "policy-renewed" if same else "policy-changed")


def _fetch_failed(entry: CacheEntry, event: PolicyFailed, now: float, rules: CacheRules) -> Transition:
    before = entry.failure
    count = before.count if before is not None and before.record_id == event.record_id else 0
    if event.problem in OWN_FETCH_SLUGS:
        # Our own limit or failure, not the host's: retry soon and do not count it.
        hold = _BUSY_FOR if event.problem == PolicyFetchBusy.slug else OWN_FAILURE_TTL
        delay = min(hold, rules.retry_min) * (1 + 0.25 * _jitter(entry.domain, count))
    else:
        count += 1
        delay = _back_off(entry, count, now, rules)
    failure = FetchFailure(event.record_id, now, now + delay, count, event.problem, event.detail)
    # Saved if the store has the entry: it then knows when to retry, and the back-off survives a restart.
    effects = Effect.NOTHING if entry.held is None else Effect.SAVE
    return Transition(replace(entry, failure=failure), effects, "policy-fetch-failed")


def _fetch_failed_live(entry: CacheEntry, event: PolicyFailed, now: float, rules: CacheRules) -> Transition:
    # RFC 8461 section 3.3: the cached policy is applied.
    return _fetch_failed(entry, event, now, rules)._replace(event="policy-refresh-failed")


_Handler = Callable[..., Transition]

TABLE: dict[type, dict[Phase, _Handler]] = {
    TxtFound: {Phase.BARE: _txt_found, Phase.LIVE: _txt_found},
    TxtAbsent: {Phase.BARE: _txt_not_valid, Phase.LIVE: _txt_not_valid_live},
    TxtInvalid: {Phase.BARE: _txt_not_valid, Phase.LIVE: _txt_not_valid_live},
    TxtFailed: {Phase.BARE: _txt_failed, Phase.LIVE: _txt_failed},
    PolicyFetched: {Phase.BARE: _fetched, Phase.LIVE: _fetched},
    PolicyFailed: {Phase.BARE: _fetch_failed, Phase.LIVE: _fetch_failed_live},
}


def transition(entry: CacheEntry, event: CacheEvent, now: float, rules: CacheRules) -> Transition:
    """Return the result of ``event`` at ``now``."""
    return TABLE[type(event)][Phase.of(entry, now)](entry, event, now, rules)


# -- time --------------------------------------------------------------------------------------------------


def settled_until(entry: CacheEntry, now: float) -> float:
    """Return until when a lookup needs only the entry; ``now`` or earlier if TXT or the policy must be asked for.

    A live policy answers even if it is not settled; TXT is then asked for next to the lookup (RFC 8461 section 5.1).
    """
    txt, held, failure = entry.txt, entry.live(now), entry.failure
    if txt is None or not txt.holds(now):
        return now
    if held is not None:
        return min(held.valid_until, txt.holds_until)
    if txt.record_id is None:
        return txt.holds_until
    if failure is not None and failure.forbids(txt.record_id, now):
        return min(txt.holds_until, failure.retry_at)
    return now


def next_due(entry: CacheEntry, rules: CacheRules) -> float | None:
    """Return when the refresher fetches the policy again, or None if it does not.

    A live policy is refreshed independently of TXT (RFC 8461 section 10.2): half-way through a short life, daily in a
    long one. An expired one without a valid record is not (section 3.1); a lookup discovers it again.
    """
    held, txt = entry.held, entry.txt
    if held is None or (txt is not None and txt.record_id is None and txt.at > held.valid_until):
        return None
    # A good fetch removes earlier failures, so this one came later, even if the clock was set back.
    if entry.failure is not None:
        return entry.failure.retry_at
    wait = min(rules.refresh_after, (held.valid_until - held.fetched_at) / 2)
    return held.fetched_at + max(wait * (1 - 0.1 * _jitter(entry.domain, 0)), rules.txt_ttl_min)


def on_load(entry: CacheEntry, now: float) -> CacheEntry:
    """Return the entry for use after it was read from a store; ``entry`` itself if no moment is in the future.

    A moment in the future means that the clock was set back. Checks and failures of then are removed; a policy
    fetched then begins its life now, and its refresh is due.
    """
    held, txt, failure = entry.held, entry.txt, entry.failure
    txt = None if txt is not None and txt.at > now else txt
    failure = None if failure is not None and failure.at > now else failure
    if held is not None and held.fetched_at > now:
        life = held.valid_until - held.fetched_at
        held = replace(held, fetched_at=now, valid_until=now + life)
        failure = FetchFailure(held.record_id, now, now, 0, "clock-jump-back")
    sound = held is entry.held and txt is entry.txt and failure is entry.failure
    return entry if sound else replace(entry, held=held, txt=txt, failure=failure)


def _clamped(ttl: float, rules: CacheRules) -> float:
    return min(max(ttl, rules.txt_ttl_min), rules.txt_ttl_max)


def _back_off(entry: CacheEntry, count: int, now: float, rules: CacheRules) -> float:
    """Return a doubling delay with jitter, short enough for several attempts before a live policy ends."""
    doubled = min(rules.retry_min * 2.0 ** min(count - 1, 20), rules.retry_max)
    delay = doubled * (1 + 0.25 * _jitter(entry.domain, count))
    held = entry.live(now)
    if held is not None:
        delay = min(delay, (held.valid_until - now) / 4)
    return max(delay, rules.retry_min)


def _jitter(domain: str, salt: int) -> float:
    """Return a number in [0, 1) that differs between domains and is the same at every call."""
    return crc32(f"{salt} {domain}".encode()) / 2**32
