"""Join the states that were kept in memory, because the file could not be used, with those of the file. Pure.

Senders may hold the policies of both. The policy being served stays, and a policy that only the file knows is served
again. A removal continues, whether the file or memory knows it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from .removal import begin_removal
from .state import DomainState, PublishPhase, held_until

__all__ = ["joined", "joined_states"]

_REMOVAL = (PublishPhase.REMOVING, PublishPhase.REMOVED)
_ROLLOUT = (PublishPhase.DIRECT, PublishPhase.TESTING, PublishPhase.ENFORCE_DAY, PublishPhase.COMPLETE)


def joined(stored: DomainState, memory: DomainState, now: float, served: float) -> DomainState:
    """Return the state that a domain continues with. ``served`` and the times of both are of the file's clock."""
    hosts = memory.mx_hosts if memory.mx_hosts is not None else stored.mx_hosts
    state = replace(stored, mx_hosts=hosts, dns_id=memory.dns_id or stored.dns_id)
    if memory.text is not None:
        state = replace(
            state,
            text=memory.text,
            live_since=memory.live_since,
            held_until=max(held_until(stored, served), memory.held_until),
            forced_id=memory.forced_id,
            forced_reason=memory.forced_reason,
        )
    if not any(one.phase in _REMOVAL for one in (stored, memory)):
        further = max(stored, memory, key=lambda one: _ROLLOUT.index(one.phase))
        return replace(state, phase=further.phase, phase_since=further.phase_since)
    if state.text is None:
        return state if stored.phase in _REMOVAL else begin_removal(state, now, served)
    return begin_removal(replace(state, phase=PublishPhase.DIRECT), now, served)


def joined_states(
    stored: Iterable[DomainState], memory: Mapping[str, DomainState], shift: float, now: float, served: float
) -> dict[str, DomainState]:
    """Return the states of all domains by name. May run on a thread.

    ``shift`` is the time of the file's clock minus that of the clock in memory.
    """
    found = {
        name: replace(state, held_until=state.held_until + shift) if state.held_until else state
        for name, state in memory.items()
    }
    for state in stored:
        known = found.get(state.domain)
        found[state.domain] = state if known is None else joined(state, known, now, served)
    return found
