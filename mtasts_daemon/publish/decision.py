"""Decide which policy a domain gets, and whether it may go live without the gate. Pure."""

from dataclasses import dataclass
from enum import Enum

from ..config.sections.publish import PublishedDomainSettings
from ..errors import PolicySyntaxError
from ..policy.mtasts import Mode
from .policy_text import PublishedPolicy, make_policy
from .removal import removal_policy
from .rollout import policy_of_phase
from .state import DomainState, PublishPhase
from .strictness import Tightening, tightenings

__all__ = ["Outcome", "PublishDecision", "decide"]


class Outcome(Enum):
    """The action that a domain needs; the values are stable."""

    UNCHANGED = "unchanged"
    PUBLISH = "publish"
    GATED = "gated"
    """The policy is stricter: the gate decides."""
    MX_UNKNOWN = "mx-unknown"
    """``mx: auto``, and the MX records have never been seen."""
    WAITING = "waiting"
    """The domain that this one delegates to has no policy yet."""
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class PublishDecision:
    """The outcome; ``policy`` is the one to publish, ``tightenings`` say why the gate decides.

    ``interim`` is published while the gate keeps ``policy`` back: the present one, with the MX hosts of both, so that
    a host that replaces another is permitted at once.
    """

    outcome: Outcome
    policy: PublishedPolicy | None = None
    tightenings: tuple[Tightening, ...] = ()
    interim: PublishedPolicy | None = None


def decide(
    settings: PublishedDomainSettings | None, state: DomainState, delegate: PublishedPolicy | None = None
) -> PublishDecision:
    """Return what to do about a domain; ``delegate`` is the policy that ``delegate_to`` is served with.

    Without settings (a domain that is no longer configured) the policy stays: senders hold it.
    """
    if state.phase is PublishPhase.REMOVED or (settings is None and state.phase is not PublishPhase.REMOVING):
        return PublishDecision(Outcome.UNCHANGED, state.live)
    try:
        policy = _target(settings, state, delegate)
    except PolicySyntaxError:
        return PublishDecision(Outcome.INVALID)
    if isinstance(policy, Outcome):
        return PublishDecision(policy)
    if policy.text == state.text:
        return PublishDecision(Outcome.UNCHANGED, policy)
    live = state.live
    stricter = tightenings(live.policy if live is not None else None, policy.policy)
    if not stricter:
        return PublishDecision(Outcome.PUBLISH, policy)
    return PublishDecision(Outcome.GATED, policy, stricter, _interim(live, policy))


def _interim(live: PublishedPolicy | None, policy: PublishedPolicy) -> PublishedPolicy | None:
    if live is None or Mode.NONE in (live.policy.mode, policy.policy.mode):
        return None
    patterns = [pattern.text for pattern in (*live.policy.mx, *policy.policy.mx)]
    both = make_policy(live.policy.mode, patterns, live.policy.max_age)
    return None if both.text == live.text else both


def _target(
    settings: PublishedDomainSettings | None, state: DomainState, delegate: PublishedPolicy | None
) -> PublishedPolicy | Outcome:
    if state.phase is PublishPhase.REMOVING or settings is None:
        return removal_policy()
    if settings.delegate_to is not None:
        return delegate if delegate is not None else Outcome.WAITING
    mode = Mode(settings.mode)
    mx = state.mx_hosts if settings.mx == "auto" else settings.mx
    if not mx and mode is not Mode.NONE:
        return Outcome.MX_UNKNOWN
    return policy_of_phase(make_policy(mode, mx or (), settings.max_age), state.phase)
