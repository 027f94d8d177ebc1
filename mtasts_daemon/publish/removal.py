"""Removal: mode none until no sender can hold an earlier policy, then no records (RFC 8461 section 8.3). Pure.

``now`` is the time, ``served`` that of the ``ServingClock``, by which a removal waits.
"""

from dataclasses import dataclass, replace
from enum import Enum

from ..policy.mtasts import Mode
from .policy_text import PublishedPolicy, make_policy
from .state import DomainState, PublishPhase, with_policy

__all__ = ["RemovalProgress", "RemovalStep", "begin_removal", "finish_removal", "removal_policy", "removal_step"]

_NONE_MAX_AGE = 86400


class RemovalStep(Enum):
    """What a removal waits for; the values are stable."""

    WAIT = "wait"
    """Senders may hold an earlier policy."""
    DELETE_RECORDS = "delete-records"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class RemovalProgress:
    """The step, and its earliest end by the serving clock."""

    step: RemovalStep
    until: float = 0.0


def removal_policy() -> PublishedPolicy:
    """Return the policy that is served during a removal."""
    return make_policy(Mode.NONE, (), _NONE_MAX_AGE)


def begin_removal(state: DomainState, now: float, served: float, assumed_age: float = 0.0) -> DomainState:
    """Return the state with mode none being served; the same state if a removal is under way or done.

    ``assumed_age`` is the max_age of a policy that senders may hold although the state does not know it.
    """
    if state.phase in (PublishPhase.REMOVING, PublishPhase.REMOVED):
        return state
    if state.text is None and not assumed_age:
        return replace(state, phase=PublishPhase.REMOVED, phase_since=now)
    begun = replace(state, phase=PublishPhase.REMOVING, phase_since=now)
    if assumed_age:
        begun = replace(begun, held_until=max(begun.held_until, served + assumed_age))
    return with_policy(begun, removal_policy(), now, served)


def removal_step(state: DomainState, served: float) -> RemovalProgress | None:
    """Return what the removal waits for; None if there is none."""
    if state.phase is PublishPhase.REMOVED:
        return RemovalProgress(RemovalStep.DONE)
    if state.phase is not PublishPhase.REMOVING:
        return None
    # A sender that holds an earlier policy learns of mode none from the new id only if it sees that id.
    if served < state.held_until:
        return RemovalProgress(RemovalStep.WAIT, state.held_until)
    return RemovalProgress(RemovalStep.DELETE_RECORDS)


def finish_removal(state: DomainState, now: float, served: float) -> DomainState:
    """Return the state after the TXT record is gone: nothing is served. Raises ``ValueError`` if it is too early."""
    progress = removal_step(state, served)
    if progress is None or progress.step is not RemovalStep.DELETE_RECORDS:
        raise ValueError("senders may still hold a policy")
    return replace(state, text=None, phase=PublishPhase.REMOVED, phase_since=now, dns_id="")
