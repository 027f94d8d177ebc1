"""The steps from testing to enforce, and what each needs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtasts_daemon.policy.mtasts import Mode
from mtasts_daemon.publish.policy_text import make_policy
from mtasts_daemon.publish.rollout import (
    DayReports,
    RolloutEvidence,
    begin_rollout,
    next_phase,
    next_step,
    policy_of_phase,
)
from mtasts_daemon.publish.state import DomainState, PublishPhase, with_policy
from mtasts_daemon.publish.strictness import tightenings

DAY = 86400.0
PHASES = (PublishPhase.TESTING, PublishPhase.ENFORCE_DAY, PublishPhase.COMPLETE)
NOW = 1_800_000_000.0  # 2027-01-15
TARGET = make_policy(Mode.ENFORCE, ["mx.example.com"], 30 * DAY)
CLEAN, FAILED, SILENT = DayReports(10, 0), DayReports(10, 1), DayReports(0, 0)


def evidence(*days: DayReports, first: int = 16, problems: tuple[str, ...] | None = ()) -> RolloutEvidence:
    return RolloutEvidence(3, problems, {f"2027-01-{first + at:02d}": one for at, one in enumerate(days)})


def test_rollout_publishes_testing_then_a_day_then_the_target() -> None:
    policies = [
        policy_of_phase(TARGET, phase).policy
        for phase in (PublishPhase.TESTING, PublishPhase.ENFORCE_DAY, PublishPhase.COMPLETE)
    ]
    assert [(policy.mode, policy.max_age) for policy in policies] == [
        (Mode.TESTING, 86400),
        (Mode.ENFORCE, 86400),
        (Mode.ENFORCE, 2592000),
    ]


def test_rollout_never_lengthens_a_short_target() -> None:
    short = make_policy(Mode.ENFORCE, ["mx.example.com"], 3600)
    assert policy_of_phase(short, PublishPhase.TESTING).policy.max_age == 3600


def test_rollout_begins_where_it_weakens_nothing() -> None:
    assert begin_rollout(DomainState("example.com"), NOW).phase is PublishPhase.TESTING
    enforced = with_policy(DomainState("example.com"), TARGET, NOW, NOW)
    assert begin_rollout(enforced, NOW).phase is PublishPhase.ENFORCE_DAY
    under_way = begin_rollout(DomainState("example.com"), NOW)
    assert begin_rollout(under_way, NOW + 1) is under_way


def test_rollout_ends_complete() -> None:
    state = begin_rollout(DomainState("example.com"), NOW)
    state = next_phase(next_phase(state, NOW + 1), NOW + 2)
    assert (state.phase, state.phase_since) == (PublishPhase.COMPLETE, NOW + 2)
    assert next_phase(state, NOW + 3) is state
    assert next_step(state, evidence()) is None


@pytest.mark.parametrize(
    ("days", "clean"),
    [
        ((CLEAN, CLEAN, CLEAN), 3),
        ((CLEAN, SILENT, CLEAN, SILENT, CLEAN), 3),
        ((FAILED, CLEAN, CLEAN, CLEAN), 3),
        ((CLEAN, CLEAN, CLEAN, FAILED), 0),
        ((CLEAN, CLEAN), 2),
        ((SILENT,) * 9, 0),
        ((), 0),
    ],
)
def test_step_needs_days_with_reports_after_the_last_failure(days: tuple[DayReports, ...], clean: int) -> None:
    step = next_step(begin_rollout(DomainState("example.com"), NOW), evidence(*days))
    assert step is not None
    assert (step.to, step.clean, step.ready) == (PublishPhase.ENFORCE_DAY, clean, clean >= 3)


def test_step_ignores_days_before_the_phase() -> None:
    step = next_step(begin_rollout(DomainState("example.com"), NOW), evidence(CLEAN, CLEAN, CLEAN, first=13))
    assert step is not None
    assert step.missing == ("0 of 3 days with reports and without failures",)


def test_step_without_any_evidence_is_never_ready() -> None:
    step = next_step(begin_rollout(DomainState("example.com"), NOW), RolloutEvidence(3))
    assert step is not None
    assert step.missing == (
        "the MX hosts have not been checked yet",
        "TLS reports are not received here, so nothing shows whether senders succeed",
    )


def test_step_waits_for_the_gate() -> None:
    found = evidence(CLEAN, CLEAN, CLEAN, problems=("mx.example.com: the certificate has expired",))
    step = next_step(begin_rollout(DomainState("example.com"), NOW), found)
    assert step is not None
    assert step.missing == ("the check found 1 problems: mx.example.com: the certificate has expired",)


@given(st.sampled_from([PublishPhase.TESTING, PublishPhase.ENFORCE_DAY]))
def test_each_step_tightens_in_one_respect(phase: PublishPhase) -> None:
    after = next_phase(DomainState("example.com", phase=phase), NOW).phase
    assert len(tightenings(policy_of_phase(TARGET, phase).policy, policy_of_phase(TARGET, after).policy)) == 1
