"""Compare policies: can the new one make senders defer mail that the old one permits? Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from ..policy.mtasts import Mode, MxPattern, StsPolicy

__all__ = ["Tightening", "TighteningKind", "tightenings"]


class TighteningKind(Enum):
    """In which respect a policy is stricter than the one before; the values are stable."""

    MODE = "mode"
    MX = "mx"
    MAX_AGE = "max-age"


@dataclass(frozen=True, slots=True)
class Tightening:
    """One respect in which a policy is stricter, with a sentence for people."""

    kind: TighteningKind
    sentence: str


def tightenings(before: StsPolicy | None, after: StsPolicy) -> tuple[Tightening, ...]:
    """Return in which respects ``after`` is stricter than what senders know, nothing or ``before``.

    Only mode enforce defers mail (RFC 8461 section 5), so modes none and testing alone are never stricter. Fewer
    patterns are stricter, in testing too: the missing hosts would be reported as failures. With enforce a longer
    max_age is stricter, because a mistake lasts longer.
    """
    found: list[Tightening] = []
    if after.mode is Mode.ENFORCE and (before is None or before.mode is not Mode.ENFORCE):
        was = "nothing" if before is None else f"mode {before.mode.value}"
        found.append(Tightening(TighteningKind.MODE, f"mode enforce after {was}"))
    if before is not None and Mode.NONE not in (before.mode, after.mode):
        dropped = [pattern.text for pattern in before.mx if not _covers(after.mx, pattern)]
        if dropped:
            listed = ", ".join(dropped[:8]) + (f" and {len(dropped) - 8} more" if len(dropped) > 8 else "")
            found.append(Tightening(TighteningKind.MX, f"no longer permits {listed}"))
        if before.mode is after.mode is Mode.ENFORCE and after.max_age > before.max_age:
            sentence = f"max_age {after.max_age} after {before.max_age}"
            found.append(Tightening(TighteningKind.MAX_AGE, sentence))
    return tuple(found)


def _covers(patterns: Iterable[MxPattern], one: MxPattern) -> bool:
    """Return True if every host that ``one`` permits is permitted by one of ``patterns``."""
    return any(one.text == other.text or (not one.wildcard and other.permits(one.text)) for other in patterns)
