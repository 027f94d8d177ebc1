"""The cache entry's automaton: only a fetched policy replaces a live one or extends its life."""

from dataclasses import replace

import pytest

from mtasts_daemon.policy.cache_entry import (
    TABLE,
    CacheEntry,
    CacheEvent,
    CacheRules,
    Effect,
    FetchFailure,
    HeldPolicy,
    Phase,
    PolicyFailed,
    PolicyFetched,
    Transition,
    TxtAbsent,
    TxtCheck,
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
NOW = 1_800_000_000.0
WEEK = 604800
DAY = 86400.0
POLICY = StsPolicy(Mode.ENFORCE, (MxPattern("mail.example.com"),), WEEK)
BARE = CacheEntry("example.com")


def fetched(policy: StsPolicy = POLICY, record_id: str = "1") -> PolicyFetched:
    return PolicyFetched(record_id, b"body", policy)


def failed(record_id: str = "1") -> PolicyFailed:
    return PolicyFailed(record_id, "policy-timeout", "slow")


def after(entry: CacheEntry, *events: CacheEvent, now: float = NOW) -> Transition:
    """Return the last transition of several simultaneous events."""
    happened = Transition(entry)
    for event in events:
        happened = transition(happened.entry, event, now, RULES)
    return happened


LIVE = after(BARE, TxtFound("1", 300), fetched()).entry

FAILURES: list[CacheEvent] = [
    TxtAbsent(300),
    TxtInvalid("sts-record-multiple", "two", 300),
    TxtFailed("dns-timeout", "slow"),
    failed("1"),
    failed("2"),
]


def test_the_table_knows_every_event_in_every_phase() -> None:
    assert set(TABLE) == set(CacheEvent.__args__)
    assert all(set(row) == set(Phase) for row in TABLE.values())


# -- TXT ---------------------------------------------------------------------------------------------------


def test_a_record_where_nothing_is_held_asks_for_the_policy() -> None:
    happened = after(BARE, TxtFound("1", 300))
    assert happened == Transition(replace(BARE, txt=TxtCheck(NOW, NOW + 300, "1")), Effect.FETCH)


def test_an_unchanged_id_asks_for_nothing_and_extends_no_life() -> None:
    happened = after(LIVE, TxtFound("1", 300), now=NOW + DAY)
    assert happened.effects is Effect.NOTHING
    assert happened.entry.held == LIVE.held


def test_a_changed_id_asks_for_the_policy_at_once() -> None:
    assert after(LIVE, TxtFound("2", 300)).effects is Effect.FETCH


def test_an_expired_policy_is_asked_for_again_though_the_id_is_the_same() -> None:
    assert after(LIVE, TxtFound("1", 300), now=NOW + WEEK + 1).effects is Effect.FETCH


def test_an_id_that_could_not_be_fetched_is_left_alone_for_five_minutes() -> None:
    entry = after(BARE, TxtFound("1", 60), failed("1")).entry
    assert after(entry, TxtFound("1", 60), now=NOW + 299).effects is Effect.NOTHING
    assert after(entry, TxtFound("1", 60), now=NOW + 400).effects is Effect.FETCH


def test_a_new_id_is_never_held_back() -> None:
    entry = after(BARE, TxtFound("1", 60), failed("1")).entry
    assert after(entry, TxtFound("2", 60), now=NOW + 1).effects is Effect.FETCH


def test_a_failure_in_the_future_holds_nothing_back() -> None:
    entry = after(BARE, TxtFound("1", 60), failed("1")).entry
    assert after(entry, TxtFound("1", 60), now=NOW - 1).effects is Effect.FETCH


@pytest.mark.parametrize(("ttl", "counted"), [(0, 60), (59, 60), (61, 61), (3600, 3600), (2**31, 3600)])
@pytest.mark.parametrize("live", [False, True])
def test_a_records_ttl_counts_from_a_minute_to_an_hour(ttl: float, counted: float, live: bool) -> None:
    for event in (TxtFound("1", ttl), TxtAbsent(ttl), TxtInvalid("p", "d", ttl)):
        txt = after(LIVE if live else BARE, event).entry.txt
        assert txt is not None
        assert txt.holds_until == NOW + counted


def test_names_without_a_record_share_the_check_of_one_second() -> None:
    first = after(BARE, TxtAbsent(300), now=NOW + 0.2).entry.txt
    second = after(CacheEntry("example.net"), TxtAbsent(300), now=NOW + 0.9).entry.txt
    assert first is second is not None
    assert first == TxtCheck(NOW, NOW + 300)
    assert after(BARE, TxtAbsent(300), now=NOW + 1.1).entry.txt is not first
    assert after(BARE, TxtAbsent(301), now=NOW + 0.2).entry.txt is not first


def test_the_check_of_a_held_policy_keeps_its_exact_moment() -> None:
    ended = NOW + WEEK + 0.5
    missing = after(LIVE, TxtAbsent(300), now=ended).entry
    assert missing.txt == TxtCheck(ended, ended + 300)
    assert next_due(missing, RULES) is None


def test_a_failed_look_holds_for_a_minute() -> None:
    txt = after(BARE, TxtFailed("dns-timeout", "slow")).entry.txt
    assert txt == TxtCheck(NOW, NOW + 60, None, "dns-timeout", "slow")


def test_an_invalid_record_is_remembered_with_its_problem() -> None:
    txt = after(BARE, TxtInvalid("sts-record-multiple", "two", 300)).entry.txt
    assert txt == TxtCheck(NOW, NOW + 300, None, "sts-record-multiple", "two")


@pytest.mark.parametrize("event", [TxtAbsent(300), TxtInvalid("p", "d", 300)])
def test_missing_record_is_logged_only_with_a_live_policy(event: CacheEvent) -> None:
    assert after(LIVE, event).event == "sts-record-missing"
    assert after(BARE, event).event is None


# -- HTTPS -------------------------------------------------------------------------------------------------


def test_fetched_policy_lives_for_its_max_age_and_is_saved() -> None:
    happened = after(BARE, TxtFound("1", 300), fetched())
    assert happened.entry.held == HeldPolicy("1", b"body", POLICY, NOW, NOW + WEEK)
    assert happened.effects == Effect.SAVE | Effect.CHANGED
    assert happened.event == "policy-learned"


def test_a_policy_is_live_to_the_last_second_of_its_max_age() -> None:
    assert LIVE.live(NOW + WEEK) is LIVE.held
    assert LIVE.live(NOW + WEEK + 0.001) is None
    assert Phase.of(LIVE, NOW + WEEK) is Phase.LIVE
    assert Phase.of(LIVE, NOW + WEEK + 1) is Phase.BARE


def test_fetching_the_same_policy_again_renews_its_life() -> None:
    happened = after(LIVE, fetched(), now=NOW + DAY)
    assert happened.event == "policy-renewed"
    assert happened.entry.held == HeldPolicy("1", b"body", POLICY, NOW + DAY, NOW + DAY + WEEK)


def test_another_life_of_the_same_rules_is_a_renewal_and_may_be_shorter() -> None:
    happened = after(LIVE, fetched(replace(POLICY, max_age=60)), now=NOW + 10)
    assert happened.event == "policy-renewed"
    assert happened.entry.live(NOW + 71) is None


@pytest.mark.parametrize("changed", [replace(POLICY, mode=Mode.TESTING), replace(POLICY, mx=(MxPattern("b.example"),))])
def test_other_rules_replace_a_live_policy_at_once(changed: StsPolicy) -> None:
    happened = after(LIVE, TxtFound("2", 300), fetched(changed, "2"))
    assert happened.event == "policy-changed"
    held = happened.entry.live(NOW)
    assert held is not None
    assert (held.policy, held.record_id) == (changed, "2")


def test_mode_none_well_fetched_replaces_a_live_policy_at_once() -> None:
    none = StsPolicy(Mode.NONE, (), 86400)
    held = after(LIVE, fetched(none, "2")).entry.live(NOW)
    assert held is not None
    assert held.policy is none


def test_a_policy_of_max_age_0_serves_its_own_moment_only() -> None:
    entry = after(BARE, fetched(replace(POLICY, max_age=0))).entry
    assert entry.live(NOW) is not None
    assert entry.live(NOW + 0.001) is None


def test_a_good_fetch_forgets_the_failures_before_it() -> None:
    assert after(LIVE, failed(), fetched()).entry.failure is None


def test_a_failed_fetch_where_nothing_is_held_costs_no_write() -> None:
    happened = after(BARE, TxtFound("1", 300), failed())
    assert happened.effects is Effect.NOTHING
    assert happened.event == "policy-fetch-failed"


def test_a_failed_refresh_is_saved_so_that_its_back_off_outlives_a_restart() -> None:
    happened = after(LIVE, failed())
    assert happened.effects is Effect.SAVE
    assert happened.event == "policy-refresh-failed"


@pytest.mark.parametrize("event", FAILURES)
def test_no_failure_ends_or_shortens_a_live_policy(event: CacheEvent) -> None:
    for now in (NOW, NOW + DAY, NOW + WEEK):
        assert after(LIVE, event, now=now).entry.held == LIVE.held


@pytest.mark.parametrize("event", FAILURES)
def test_no_failure_brings_an_expired_policy_back(event: CacheEvent) -> None:
    assert after(LIVE, event, now=NOW + WEEK + 1).entry.live(NOW + WEEK + 1) is None


# -- back-off ----------------------------------------------------------------------------------------------


def delays(entry: CacheEntry, count: int) -> list[float]:
    """Return the waits after ``count`` consecutive failures."""
    found = []
    for _ in range(count):
        entry = after(entry, failed()).entry
        assert entry.failure is not None
        found.append(entry.failure.retry_at - NOW)
    return found


def test_back_off_doubles_from_5_minutes_to_6_hours_with_jitter() -> None:
    plain = [min(300 * 2**n, 21600) for n in range(12)]
    for delay, least in zip(delays(BARE, 12), plain, strict=True):
        assert least <= delay <= 1.25 * least


def test_back_off_is_bounded_after_very_many_failures() -> None:
    entry = replace(BARE, failure=FetchFailure("1", NOW, NOW, 10**9, "p"))
    assert delays(entry, 1)[0] <= 1.25 * 21600


@pytest.mark.parametrize("retry_min", [300.0, 10.0])
def test_fetch_prevented_by_our_limits_is_retried_soon_and_not_counted(
    retry_min: float,
) -> None:
    busy = PolicyFailed("1", "policy-fetch-busy", "64 are under way")
    rules = CacheRules(retry_min=retry_min)
    for before in (BARE, LIVE, after(LIVE, failed(), failed()).entry):
        count = 0 if before.failure is None else before.failure.count
        failure = transition(before, busy, NOW, rules).entry.failure
        assert failure is not None
        assert failure.count == count
        assert min(60.0, retry_min) <= failure.retry_at - NOW <= 1.25 * min(60.0, retry_min)


def test_failures_of_another_id_do_not_count() -> None:
    entry = after(BARE, failed("1"), failed("1"), failed("2")).entry
    assert entry.failure is not None
    assert entry.failure.count == 1


def test_a_live_policy_is_tried_for_several_times_before_it_ends() -> None:
    entry, now, tries = LIVE, NOW + WEEK - 4 * 3600, 0
    while entry.live(now) is not None:
        entry = after(entry, failed(), now=now).entry
        due = next_due(entry, RULES)
        assert due is not None
        assert now + 300 <= due
        now, tries = due, tries + 1
    assert tries >= 8


def test_domains_do_not_retry_in_step() -> None:
    waits = {delays(CacheEntry(f"{name}.example"), 1)[0] for name in "abcdefgh"}
    assert len(waits) == 8


# -- when the refresher is due -----------------------------------------------------------------------------


def test_nothing_held_is_never_due() -> None:
    assert next_due(BARE, RULES) is None


@pytest.mark.parametrize(("max_age", "wait"), [(31557600, DAY), (WEEK, DAY), (3600, 1800)])
def test_a_policy_is_due_daily_or_half_way_through_a_short_life(max_age: int, wait: float) -> None:
    due = next_due(after(BARE, fetched(replace(POLICY, max_age=max_age))).entry, RULES)
    assert due is not None
    assert NOW + 0.9 * wait <= due <= NOW + wait


def test_domains_learned_together_are_not_due_together() -> None:
    entries = [after(CacheEntry(f"{name}.example"), fetched()).entry for name in "abcdefgh"]
    assert len({next_due(entry, RULES) for entry in entries}) == 8


@pytest.mark.parametrize("max_age", [0, 1, 60])
def test_a_very_short_life_is_due_no_sooner_than_a_minute(max_age: int) -> None:
    assert next_due(after(BARE, fetched(replace(POLICY, max_age=max_age))).entry, RULES) == NOW + 60


@pytest.mark.parametrize("event", [TxtFound("1", 300), TxtAbsent(300), TxtFailed("p", "d"), TxtInvalid("p", "d", 1)])
def test_txt_answer_does_not_change_when_a_live_policy_is_due(event: CacheEvent) -> None:
    assert next_due(after(LIVE, event, now=NOW + 50).entry, RULES) == next_due(LIVE, RULES)


def test_after_a_failed_refresh_it_is_due_when_the_back_off_ends() -> None:
    entry = after(LIVE, failed(), now=NOW + DAY).entry
    assert entry.failure is not None
    assert next_due(entry, RULES) == entry.failure.retry_at


def test_a_failed_refresh_counts_though_the_clock_was_set_back_since_the_fetch() -> None:
    entry = after(LIVE, failed(), now=NOW - 1).entry
    assert entry.failure is not None
    assert next_due(entry, RULES) == entry.failure.retry_at


# -- when a lookup needs to ask ----------------------------------------------------------------------------


def test_an_unknown_domain_is_not_settled() -> None:
    assert settled_until(BARE, NOW) <= NOW


def test_a_domain_without_a_record_is_settled_while_that_holds() -> None:
    entry = after(BARE, TxtAbsent(300)).entry
    assert settled_until(entry, NOW) == NOW + 300
    assert settled_until(entry, NOW + 300) <= NOW + 300


def test_live_policy_is_settled_until_the_txt_ttl_ends() -> None:
    assert settled_until(LIVE, NOW) == NOW + 300
    assert settled_until(LIVE, NOW + 301) <= NOW + 301


def test_a_live_policy_is_settled_no_longer_than_it_lives() -> None:
    entry = after(BARE, TxtFound("1", 300), fetched(replace(POLICY, max_age=10))).entry
    assert settled_until(entry, NOW) == NOW + 10


def test_a_record_without_its_policy_is_not_settled() -> None:
    assert settled_until(after(BARE, TxtFound("1", 300)).entry, NOW) <= NOW


def test_a_record_whose_policy_could_not_be_fetched_is_settled_while_it_is_held_back() -> None:
    entry = after(BARE, TxtFound("1", 3600), failed("1")).entry
    assert entry.failure is not None
    assert settled_until(entry, NOW) == entry.failure.retry_at
    assert settled_until(entry, entry.failure.retry_at) <= entry.failure.retry_at


def test_a_look_in_the_future_settles_nothing() -> None:
    assert settled_until(after(BARE, TxtAbsent(300)).entry, NOW - 1) <= NOW - 1


# -- reading it from a store -------------------------------------------------------------------------------


def test_an_entry_of_the_past_is_loaded_as_it_is() -> None:
    entry = after(LIVE, failed()).entry
    assert on_load(entry, NOW) is entry
    assert on_load(BARE, NOW) is BARE


def test_a_policy_fetched_in_the_future_lives_from_now_on_and_is_due() -> None:
    entry = on_load(after(LIVE, failed()).entry, NOW - 1000)
    assert entry.held is not None
    assert (entry.held.fetched_at, entry.held.valid_until) == (NOW - 1000, NOW - 1000 + WEEK)
    assert entry.txt is None
    assert next_due(entry, RULES) == NOW - 1000
    assert after(entry, TxtFound("2", 300), now=NOW - 1000).effects is Effect.FETCH


def test_what_failed_in_the_future_delays_no_refresh_of_an_older_policy() -> None:
    entry = after(LIVE, failed(), TxtFailed("p", "d"), now=NOW + 3 * DAY).entry
    loaded = on_load(entry, NOW + 2 * DAY)
    assert loaded == replace(entry, failure=None, txt=None)
    assert next_due(loaded, RULES) == next_due(LIVE, RULES)
