"""The state of one published domain as a frozen value, and how publishing changes it. Pure.

Times are seconds since the epoch; those called ``served`` and ``held_until`` are of the ``ServingClock``.
"""

from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache

from ..policy.mtasts import Mode
from .policy_text import PublishedPolicy

__all__ = ["DomainState", "PublishPhase", "held_until", "with_policy"]


class PublishPhase(Enum):
    """The phase of a domain's rollout or removal; the values are stored."""

    DIRECT = "direct"
    """No rollout: what the configuration says is published."""
    TESTING = "testing"
    ENFORCE_DAY = "enforce-day"
    COMPLETE = "complete"
    REMOVING = "removing"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class DomainState:
    """A published domain. ``text`` is the policy being served since ``live_since``, None if there is none."""

    domain: str
    text: bytes | None = None
    live_since: float = 0.0
    held_until: float = 0.0
    """Until then, by the serving clock, senders may hold a policy that was served before the present one."""
    phase: PublishPhase = PublishPhase.DIRECT
    phase_since: float = 0.0
    mx_hosts: tuple[str, ...] | None = None
    """MX hosts as last seen, for ``mx: auto``; None if they were never seen."""
    forced_id: str = ""
    """Id of the policy that was published by force, and the reason."""
    forced_reason: str = ""
    dns_id: str = ""
    """Id that ``publish apply`` last wrote to DNS; not empty: the daemon keeps the TXT record in step."""

    @property
    def live(self) -> PublishedPolicy | None:
        """The policy being served."""
        return None if self.text is None else _parsed(self.text)

    @property
    def dns_is_outdated(self) -> bool:
        """The daemon wrote a TXT record, and it is not that of the policy being served."""
        return bool(self.dns_id) and self.live is not None and self.live.id != self.dns_id


# Many domains have the same text.
@lru_cache(maxsize=4096)
def _parsed(text: bytes) -> PublishedPolicy:
    return PublishedPolicy.from_text(text)


def held_until(state: DomainState, served: float) -> float:
    """Return until when senders may hold any policy of the domain that binds them, if the last fetch is now.

    A sender may fetch a policy at the last moment that it is served and keeps it for its max_age (RFC 8461 section
    3.2). Mode none binds no sender.
    """
    live = state.live
    if live is None or live.policy.mode is Mode.NONE:
        return state.held_until
    return max(state.held_until, served + live.policy.max_age)


def with_policy(state: DomainState, policy: PublishedPolicy, now: float, served: float) -> DomainState:
    """Return the state with ``policy`` being served from ``now`` on; the same state if it is already."""
    if state.text == policy.text:
        return state
    if state.forced_id != policy.id:
        state = replace(state, forced_id="", forced_reason="")
    return replace(state, text=policy.text, live_since=now, held_until=held_until(state, served))
