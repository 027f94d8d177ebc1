"""Removal: no sender keeps a policy that is no longer served."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtasts_daemon.policy.mtasts import Mode
from mtasts_daemon.publish import removal
from mtasts_daemon.publish import state as published
from mtasts_daemon.publish.policy_text import PublishedPolicy, make_policy
from mtasts_daemon.publish.removal import RemovalStep, removal_step
from mtasts_daemon.publish.state import DomainState, PublishPhase

NOW = 1_800_000_000.0
DAY = 86400
ENFORCE = make_policy(Mode.ENFORCE, ["mx.example.com"], 30 * DAY)
SHORT = make_policy(Mode.ENFORCE, ["mx.example.com"], DAY)


def with_policy(state: DomainState, policy: PublishedPolicy, now: float) -> DomainState:
    return published.with_policy(state, policy, now, now)


def begin_removal(state: DomainState, now: float) -> DomainState:
    return removal.begin_removal(state, now, now)


def finish_removal(state: DomainState, now: float) -> DomainState:
    return removal.finish_removal(state, now, now)


def step(state: DomainState, now: float) -> RemovalStep:
    progress = removal_step(state, now)
    assert progress is not None
    return progress.step


def test_removal_serves_none_until_the_largest_max_age_has_passed() -> None:
    state = begin_removal(with_policy(DomainState("example.com"), ENFORCE, NOW), NOW + 5)
    live = state.live
    assert live is not None
    assert live.policy.mode is Mode.NONE
    assert step(state, NOW + 4 + 30 * DAY) is RemovalStep.WAIT
    assert step(state, NOW + 5 + 30 * DAY) is RemovalStep.DELETE_RECORDS


def test_removal_waits_for_a_longer_policy_served_before() -> None:
    state = with_policy(DomainState("example.com"), ENFORCE, NOW)
    state = with_policy(state, SHORT, NOW + DAY)
    state = begin_removal(state, NOW + 2 * DAY)
    # The long one could be fetched until NOW + 1 day.
    assert state.held_until == NOW + DAY + 30 * DAY


def test_removal_ends_only_when_it_is_time() -> None:
    state = begin_removal(with_policy(DomainState("example.com"), SHORT, NOW), NOW)
    with pytest.raises(ValueError, match="may still hold"):
        finish_removal(state, NOW + DAY - 1)
    done = finish_removal(state, NOW + DAY)
    assert (done.text, done.phase) == (None, PublishPhase.REMOVED)
    assert step(done, NOW + DAY) is RemovalStep.DONE
    with pytest.raises(ValueError, match="may still hold"):
        finish_removal(done, NOW + 2 * DAY)


def test_removal_of_what_was_never_published_is_done_at_once() -> None:
    assert begin_removal(DomainState("example.com"), NOW).phase is PublishPhase.REMOVED


def test_removal_is_begun_once() -> None:
    state = begin_removal(with_policy(DomainState("example.com"), SHORT, NOW), NOW)
    assert begin_removal(state, NOW + 99) is state


@given(
    st.lists(st.tuples(st.sampled_from(list(Mode)), st.integers(60, 40 * DAY), st.integers(0, 50 * DAY)), max_size=8)
)
def test_no_sender_holds_a_binding_policy_when_the_records_go(history: list[tuple[Mode, int, int]]) -> None:
    """Any policy fetched at any time has expired at the sender when the removal ends."""
    state, now, served = DomainState("example.com"), NOW, []
    for mode, max_age, lasts in history:
        state = with_policy(state, make_policy(mode, ["mx.example.com"], max_age), now)
        now += lasts
        live = state.live
        assert live is not None
        if live.policy.mode is not Mode.NONE:
            served.append(now + live.policy.max_age)  # fetched at the last moment
    state = begin_removal(state, now)
    if state.phase is PublishPhase.REMOVED:
        assert served == []
        return
    assert state.held_until == max(served, default=0.0)
    assert (step(state, max(served, default=now)) is RemovalStep.DELETE_RECORDS) or not served


def test_publishing_the_same_text_again_changes_nothing() -> None:
    state = with_policy(DomainState("example.com"), SHORT, NOW)
    assert with_policy(state, SHORT, NOW + 99) is state
