"""What Postfix is told: an entry, the operator's wishes and the zone, made into a Decision.

The decision table is section 5 of the design. A policy belongs to the next-hop domain alone (RFC 8461 section
3.4), so nothing here looks at a parent domain.
"""

from dataclasses import dataclass
from enum import Enum

from .cache_entry import CacheEntry
from .dane import DaneVerdict
from .mtasts import Mode, StsPolicy
from .precedence import DaneChoice, DaneLevel, DaneMode, Partial, dane_level

__all__ = ["Answer", "Decision", "Dialect", "Override", "Zone", "decide", "effective_mode", "wants_walk"]


class Dialect(Enum):
    """Which attributes the Postfix that asks understands."""

    PLAIN = "plain"
    """Postfix 3.4 to 3.9: match and servername."""

    TLSRPT = "tlsrpt"
    """Postfix 3.10 and later: the policy itself too. An older one defers all mail on reading it."""


@dataclass(frozen=True, slots=True)
class Zone:
    """A map name and its settings. ``default_level`` is Postfix's own smtp_tls_security_level, where known."""

    name: str
    dialect: Dialect = Dialect.PLAIN
    default_level: str | None = None
    dane: DaneMode = DaneMode.OFF
    dane_partial: Partial = Partial.DANE_ONLY


@dataclass(frozen=True, slots=True)
class Override:
    """The operator's word on one policy domain, and why: exactly one of the three is set."""

    reason: str
    skip: bool = False
    treat_as: Mode | None = None
    reply: str | None = None


class Answer(Enum):
    """The kinds of answer; the values are metric labels."""

    NONE = "none"
    SECURE = "secure"
    LEVEL = "level"
    """The operator's own level, with the policy's attributes for the TLS report."""
    DANE = "dane"
    DANE_ONLY = "dane-only"
    FIXED = "fixed"
    TEMP = "temp"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to answer, and the slug of the reason. ``text`` is a fixed reply, a level, or why mail is deferred."""

    answer: Answer
    reason: str
    policy: StsPolicy | None = None
    text: str = ""


def wants_walk(entry: CacheEntry, zone: Zone, override: Override | None, now: float) -> bool:
    """Whether the decision depends on DANE: where an enforce policy would give ``secure``, or always.

    For all other domains Postfix itself does per host what no map can.
    """
    return zone.dane is DaneMode.ALWAYS or (zone.dane is not DaneMode.OFF and _enforces(entry, override, now))


def decide(
    entry: CacheEntry, zone: Zone, override: Override | None, now: float, verdict: DaneVerdict | None = None
) -> Decision:
    """The decision for the entry's domain at ``now``; ``verdict`` is DANE's, where ``wants_walk`` said so."""
    if override is not None and override.skip:
        return Decision(Answer.NONE, "override-skip")
    if override is not None and override.reply is not None:
        return Decision(Answer.FIXED, "override-reply", text=override.reply)
    if verdict is not None:
        choice = dane_level(verdict, _enforces(entry, override, now), zone.dane, zone.dane_partial)
        if choice.level in (DaneLevel.DANE_ONLY, DaneLevel.DANE):
            return _by_dane(choice, zone)
    return _by_policy(entry, zone, override, now)


_ABOVE_DANE = ("encrypt", "fingerprint", "dane-only", "verify", "secure")


def _by_dane(choice: DaneChoice, zone: Zone) -> Decision:
    if choice.level is DaneLevel.DANE_ONLY:
        return Decision(Answer.DANE_ONLY, choice.reason)
    # Where a host has no TLSA records, dane is may: a level below the operator's own must not replace it.
    if zone.default_level in _ABOVE_DANE:
        return Decision(Answer.NONE, choice.reason)
    return Decision(Answer.DANE, choice.reason)


def _by_policy(entry: CacheEntry, zone: Zone, override: Override | None, now: float) -> Decision:
    held = entry.live(now)
    if held is None:
        return Decision(Answer.NONE, _why_none(entry))
    policy = held.policy
    mode = effective_mode(policy, override)
    if mode is Mode.ENFORCE:
        return Decision(Answer.SECURE, "mode-enforce", policy)
    if mode is Mode.NONE:
        return Decision(Answer.NONE, "mode-none", policy)
    if zone.dialect is Dialect.TLSRPT and zone.default_level is not None:
        # Not below the operator's level, and labelled, so that sessions are reported under their policy.
        return Decision(Answer.LEVEL, "mode-testing", policy, zone.default_level)
    return Decision(Answer.NONE, "mode-testing", policy)


def _enforces(entry: CacheEntry, override: Override | None, now: float) -> bool:
    held = entry.live(now)
    return held is not None and effective_mode(held.policy, override) is Mode.ENFORCE


def effective_mode(policy: StsPolicy, override: Override | None) -> Mode:
    """The mode to go by: the operator may tighten or loosen one that has hosts to verify; none stays none."""
    if override is None or override.treat_as is None or policy.mode is Mode.NONE:
        return policy.mode
    return override.treat_as


def _why_none(entry: CacheEntry) -> str:
    if entry.txt is not None and entry.txt.problem is not None:
        return entry.txt.problem
    if entry.failure is not None and entry.txt is not None and entry.txt.record_id == entry.failure.record_id:
        return entry.failure.problem
    return "no-policy"
