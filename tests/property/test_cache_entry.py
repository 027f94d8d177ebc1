"""Invariants of the cache entry under any events in any order, with a clock that jumps.

* A live policy is never lost to a failure, nor changed by anything but a good fetch.
* No policy lives longer than its own fetch allows.
* An id that failed is not fetched again within five minutes; a new id is never held back.
* The refresher always knows a moment that is neither never nor absurd.
"""

import math
from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mtasts_daemon.policy.cache_entry import (
    CacheEntry,
    CacheEvent,
    CacheRules,
    Effect,
    HeldPolicy,
    PolicyFailed,
    PolicyFetched,
    Transition,
    TxtAbsent,
    TxtFailed,
    TxtFound,
    TxtInvalid,
    next_due,
    on_load,
    settled_until,
    transition,
)
from mtasts_daemon.policy.mtasts import Mode, MxPattern, StsPolicy

RULES = CacheRules()
START = 1_800_000_000.0
YEAR = 31557600

ids = st.sampled_from(["1", "2", "3"])
ttls = st.sampled_from([0.0, 30.0, 300.0, 86400.0, 2.0**31])
max_ages = st.sampled_from([0, 1, 60, 3600, 86400, 604800, YEAR]) | st.integers(0, YEAR)
modes = st.sampled_from(list(Mode))
steps = st.sampled_from([0.0, 0.001, 1.0, 59.0, 299.0, 301.0, 3600.0, 43200.0, 86400.0, 604800.0, 4e7]) | st.floats(
    0, 1e6
)


class EntryMachine(RuleBasedStateMachine):
    """One domain's entry, and a record of the fetched policies."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.entry = CacheEntry("example.com")
        self.fetched: HeldPolicy | None = None
        self.set_back = False
        """The clock was set back since the entry was last made sound by on_load."""

    def happen(self, event: CacheEvent) -> Transition:
        before = self.entry
        happened = transition(before, event, self.now, RULES)
        self.entry = happened.entry
        if not isinstance(event, PolicyFetched):
            assert self.entry.held is before.held
            assert not happened.effects & Effect.CHANGED
        if not isinstance(event, TxtFound):
            assert not happened.effects & Effect.FETCH
        # Whatever is held and changed is committed, so that it outlives a restart.
        if self.entry.live(self.now) is not None and (before.held, before.failure) != (
            self.entry.held,
            self.entry.failure,
        ):
            assert happened.effects & Effect.SAVE
        return happened

    # -- time --------------------------------------------------------------------------------------------

    @rule(step=steps)
    def time_passes(self, step: float) -> None:
        self.now += step

    @rule(step=steps)
    def the_clock_is_set_back(self, step: float) -> None:
        self.now -= step
        self.set_back = self.set_back or step > 0

    @rule()
    def the_daemon_restarts(self) -> None:
        before = self.entry
        self.entry = on_load(before, self.now)
        assert (before.live(self.now) is None) or (self.entry.live(self.now) is not None)
        held, old = self.entry.held, before.held
        if held is not None and old is not None:
            assert held.fetched_at <= self.now
            assert held.valid_until <= old.valid_until
            assert (held.policy, held.body, held.record_id) == (old.policy, old.body, old.record_id)
            assert held.valid_until - held.fetched_at <= old.policy.max_age + 1e-3
        for seen in (self.entry.txt, self.entry.failure):
            assert seen is None or seen.at <= self.now
        self.set_back = False

    # -- events ------------------------------------------------------------------------------------------

    @rule(record_id=ids, ttl=ttls)
    def txt_is_found(self, record_id: str, ttl: float) -> None:
        failure = self.entry.failure
        held = self.entry.live(self.now)
        happened = self.happen(TxtFound(record_id, ttl))
        if happened.effects & Effect.FETCH:
            assert held is None or held.record_id != record_id
            if failure is not None and failure.record_id == record_id and failure.at <= self.now and failure.count:
                assert self.now >= failure.at + RULES.retry_min - 1e-3
        else:
            held_back = failure is not None and failure.record_id == record_id
            assert (held is not None and held.record_id == record_id) or held_back

    @rule(event=st.sampled_from([TxtAbsent, lambda ttl: TxtInvalid("sts-record-multiple", "", ttl)]), ttl=ttls)
    def txt_is_not_there(self, event: Callable[[float], CacheEvent], ttl: float) -> None:
        self.happen(event(ttl))

    @rule()
    def txt_fails(self) -> None:
        self.happen(TxtFailed("dns-timeout", ""))

    @rule(record_id=ids, mode=modes, max_age=max_ages, mx=st.sampled_from(["a.example", "*.b.example"]))
    def a_policy_is_fetched(self, record_id: str, mode: Mode, max_age: int, mx: str) -> None:
        policy = StsPolicy(mode, (MxPattern(mx),), max_age)
        happened = self.happen(PolicyFetched(record_id, b"body", policy))
        held = self.entry.live(self.now)
        assert held is not None
        assert (held.policy, held.record_id, held.fetched_at) == (policy, record_id, self.now)
        assert happened.effects == Effect.SAVE | Effect.CHANGED
        assert self.entry.failure is None
        self.fetched = held

    @rule(record_id=ids)
    def a_fetch_fails(self, record_id: str) -> None:
        self.happen(PolicyFailed(record_id, "policy-timeout", ""))
        failure = self.entry.failure
        assert failure is not None
        assert RULES.retry_min - 1e-3 <= failure.retry_at - self.now <= 1.25 * RULES.retry_max
        assert failure.forbids(record_id, self.now)
        assert not failure.forbids(record_id + "x", self.now)

    @precondition(lambda self: next_due(self.entry, RULES) is not None)
    @rule()
    def the_refresher_comes_when_due(self) -> None:
        due = next_due(self.entry, RULES)
        assert due is not None
        self.now = max(self.now, due)
        held = self.entry.held
        assert held is not None
        if self.entry.failure is not None:
            assert not self.entry.failure.forbids(held.record_id, self.now)

    @initialize(max_age=max_ages)
    def begin_with_a_policy(self, max_age: int) -> None:
        self.a_policy_is_fetched("1", Mode.ENFORCE, max_age, "a.example")

    # -- what holds throughout ---------------------------------------------------------------------------

    @invariant()
    def a_policy_is_live_exactly_as_long_as_its_own_fetch_allows(self) -> None:
        live = self.entry.live(self.now)
        if self.fetched is None:
            assert live is None
            return
        end = self.fetched.fetched_at + self.fetched.policy.max_age
        if live is not None:
            assert live.policy is self.fetched.policy
            assert live.valid_until <= end
            assert self.now <= end
        elif self.entry.held is not None and self.entry.held.valid_until == end:
            assert self.now > end

    @invariant()
    def the_refresher_is_due_at_a_sensible_moment(self) -> None:
        due = next_due(self.entry, RULES)
        held = self.entry.held
        if held is None:
            assert due is None
            return
        if due is None:
            # RFC 8461 section 3.1: expired, and TXT named no record since then.
            txt = self.entry.txt
            assert txt is not None and txt.record_id is None and txt.at > held.valid_until
            return
        assert math.isfinite(due)
        if not self.set_back:
            assert due <= self.now + max(RULES.refresh_after, 1.25 * RULES.retry_max)
            failed = self.entry.failure is not None
            # A live policy is fetched again before it ends, unless that is less than five minutes away.
            if failed and self.entry.live(self.now) is not None and held.valid_until - self.now > 4 * RULES.retry_min:
                assert due < held.valid_until

    @invariant()
    def a_lookup_is_settled_for_an_hour_at_most_and_never_beyond_the_policy(self) -> None:
        until = settled_until(self.entry, self.now)
        live = self.entry.live(self.now)
        assert until <= self.now + RULES.txt_ttl_max
        assert live is None or until <= max(live.valid_until, self.now)


TestEntry = EntryMachine.TestCase
