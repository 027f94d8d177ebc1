"""Rollout from no policy to an enforced one: testing, enforce with a max_age of a day, enforce. Pure.

The steps limit the cost of a mistake: testing defers no mail, and with a max_age of a day senders drop a wrong policy
within a day. A step needs evidence: the gate, and days on which trusted senders reported sessions and no failure. Days
without reports prove nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..policy.mtasts import Mode
from ..text import utc_day
from .policy_text import PublishedPolicy, make_policy
from .state import DomainState, PublishPhase

__all__ = [
    "DayReports",
    "RolloutEvidence",
    "RolloutStep",
    "begin_rollout",
    "next_phase",
    "next_step",
    "policy_of_phase",
]

_DAY = 86400
_ORDER = (PublishPhase.TESTING, PublishPhase.ENFORCE_DAY, PublishPhase.COMPLETE)


@dataclass(frozen=True, slots=True)
class DayReports:
    """Sessions of one UTC day in trusted reports."""

    successful: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class RolloutEvidence:
    """Evidence for the next step. ``days`` maps UTC days (``YYYY-MM-DD``) to the reported sessions.

    ``gate_problems`` is None if the gate was not checked yet; ``clean_days`` is how many days are needed.
    """

    clean_days: int
    gate_problems: Sequence[str] | None = None
    days: Mapping[str, DayReports] | None = None


@dataclass(frozen=True, slots=True)
class RolloutStep:
    """The next step. ``missing`` has a sentence for each missing condition; ``ready`` if there is none."""

    to: PublishPhase
    missing: tuple[str, ...]
    clean: int
    """Clean days so far."""

    @property
    def ready(self) -> bool:
        """True if the step may be taken."""
        return not self.missing


def policy_of_phase(target: PublishedPolicy, phase: PublishPhase) -> PublishedPolicy:
    """Return the policy of a phase on the way to ``target``."""
    policy = target.policy
    if policy.mode is not Mode.ENFORCE or phase not in (PublishPhase.TESTING, PublishPhase.ENFORCE_DAY):
        return target
    mode = Mode.TESTING if phase is PublishPhase.TESTING else Mode.ENFORCE
    return make_policy(mode, [pattern.text for pattern in policy.mx], min(policy.max_age, _DAY))


def begin_rollout(state: DomainState, now: float) -> DomainState:
    """Return the state at the first phase that does not weaken the present policy, unless a rollout is under way."""
    if state.phase in _ORDER:
        return state
    live = state.live
    enforced = live is not None and live.policy.mode is Mode.ENFORCE
    return replace(state, phase=PublishPhase.ENFORCE_DAY if enforced else PublishPhase.TESTING, phase_since=now)


def next_phase(state: DomainState, now: float) -> DomainState:
    """Return the state in the next phase; the same state at the end."""
    if state.phase not in _ORDER[:-1]:
        return state
    return replace(state, phase=_ORDER[_ORDER.index(state.phase) + 1], phase_since=now)


def next_step(state: DomainState, evidence: RolloutEvidence) -> RolloutStep | None:
    """Return the next step with its missing conditions; None if no rollout is under way."""
    if state.phase not in _ORDER[:-1]:
        return None
    missing: list[str] = []
    if evidence.gate_problems is None:
        missing.append("the MX hosts have not been checked yet")
    elif evidence.gate_problems:
        missing.append(f"the check found {len(evidence.gate_problems)} problems: {evidence.gate_problems[0]}")
    clean, sentence = _clean_days(state.phase_since, evidence)
    if sentence:
        missing.append(sentence)
    return RolloutStep(_ORDER[_ORDER.index(state.phase) + 1], tuple(missing), clean)


def _clean_days(since: float, evidence: RolloutEvidence) -> tuple[int, str]:
    """Return the number of clean days after the last failure, and a sentence if they do not suffice.

    The day on which the phase began does not count: part of it was under the policy before.
    """
    if evidence.days is None:
        return 0, "TLS reports are not received here, so nothing shows whether senders succeed"
    first = utc_day(since)
    clean, failed_on = 0, ""
    for day, reports in sorted(evidence.days.items()):
        if day <= first:
            continue
        if reports.failed:
            clean, failed_on = 0, day
        elif reports.successful:
            clean += 1
    if clean >= evidence.clean_days:
        return clean, ""
    after = f" since the failures of {failed_on}" if failed_on else ""
    return clean, f"{clean} of {evidence.clean_days} days with reports and without failures{after}"
