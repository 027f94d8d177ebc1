"""The next step of a lookup, as a pure function of the policy domain's slot."""

from enum import Enum
from typing import Final, NamedTuple

from ..policy.cache_entry import CacheEntry, settled_until
from ..policy.decision import Answer, Decision, Override, Zone, decide, needs_dane
from .policy_cache import CacheSlot

__all__ = ["FOREVER", "WAIT", "PlannedAnswer", "Wait", "plan"]

FOREVER = float("inf")


class Wait(Enum):
    """The lookup waits for the flight of its policy domain; the caller begins one if none is under way."""

    FOR_POLICY = "policy"


WAIT: Final = Wait.FOR_POLICY


class PlannedAnswer(NamedTuple):
    """The lookup is answered from ``entry``, as it stood at ``judged_at``.

    ``decision`` is None if it depends on DANE. It holds until ``settled_until``; both moments are wall-clock seconds.
    With ``refresh``, the caller begins a flight next to the answer.
    """

    entry: CacheEntry
    judged_at: float
    settled_until: float
    decision: Decision | None = None
    refresh: bool = False


def plan(
    slot: CacheSlot, zone: Zone, override: Override | None, now: float, *, dane: bool, waited: bool = False
) -> PlannedAnswer | Wait:
    """Return what a lookup in ``zone`` does at ``now``.

    ``waited`` is True if it has waited for the policy's flight, which is then not waited for again. ``dane`` is
    False if the resolver does not validate.
    """
    entry, flight = slot.entry, slot.flight
    if override is not None and override.treat_as is None:
        fixed = entry or CacheEntry(slot.domain)
        return PlannedAnswer(fixed, now, FOREVER, decide(fixed, zone, override, now))
    if not waited and flight is not None and flight.committing and not flight.deadline_passed:
        return WAIT
    live = entry is not None and entry.live(now) is not None
    settled = now if entry is None or slot.read_pending else settled_until(entry, now)
    refresh = settled <= now and not waited
    if refresh and not live and not (flight is not None and flight.deadline_passed):
        return WAIT
    known = entry or CacheEntry(slot.domain)
    if slot.read_pending:
        # The policy that the store may have must not be lost to a disk that is slow or fails.
        return PlannedAnswer(known, now, now, _unreadable(slot), refresh)
    if dane and needs_dane(known, zone, override, now):
        return PlannedAnswer(known, now, settled, None, refresh)
    return PlannedAnswer(known, now, settled, decide(known, zone, override, now), refresh)


def _unreadable(slot: CacheSlot) -> Decision:
    cause = slot.read_failure or "the policy store did not answer in time"
    return Decision(Answer.TEMP, "store-unreadable", text=f"mtasts-daemon: {slot.domain}: {cause}")
