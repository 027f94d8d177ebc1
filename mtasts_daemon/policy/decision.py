"""Decide the answer to Postfix from a cache entry, an override, the zone and a DANE verdict.

A policy belongs to the next-hop domain alone (RFC 8461 section 3.4); parent domains are not considered. The table of
DANE is in ``precedence``.
"""

from enum import Enum
from typing import NamedTuple

from .cache_entry import CacheEntry
from .dane import DaneVerdict
from .mtasts import Mode, StsPolicy
from .precedence import DaneChoice, DaneLevel, DaneMode, Partial, dane_level

__all__ = ["Answer", "Decision", "Dialect", "Override", "Zone", "decide", "effective_mode", "needs_dane"]


class Dialect(Enum):
    """The attributes that the version of Postfix understands."""

    PLAIN = "plain"
    """Postfix 3.4 to 3.9: match and servername."""

    TLSRPT = "tlsrpt"
    """Postfix 3.10 and later: also the policy for TLS reports. Older versions defer all mail if they get it."""


class Zone(NamedTuple):
    """A map name and its settings. ``default_level`` is Postfix's smtp_tls_security_level, if known."""

    name: str
    dialect: Dialect = Dialect.PLAIN
    default_level: str | None = None
    dane: DaneMode = DaneMode.OFF
    dane_partial: Partial = Partial.DANE_ONLY


class Override(NamedTuple):
    """The operator's exception for one policy domain, with the reason: exactly one of the three is set."""

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


class Decision(NamedTuple):
    """The answer and the slug of the reason. ``text`` is a fixed reply, a level, or the cause of a deferral."""

    answer: Answer
    reason: str
    policy: StsPolicy | None = None
    text: str = ""


def needs_dane(entry: CacheEntry, zone: Zone, override: Override | None, now: float) -> bool:
    """Return True if the decision depends on DANE: if an enforce policy would give ``secure``, or with ``always``.

    For other domains Postfix applies DANE itself, per host.
    """
    return zone.dane is DaneMode.ALWAYS or (zone.dane is not DaneMode.OFF and _enforces(entry, override, now))


def decide(
    entry: CacheEntry, zone: Zone, override: Override | None, now: float, verdict: DaneVerdict | None = None
) -> Decision:
    """Return the decision for the entry's domain at ``now``; ``verdict`` is needed if ``needs_dane`` is true."""
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
    # For a host without TLSA records dane means may, which must not replace a higher level of the operator.
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
        # The operator's own level, with the policy's attributes, so that sessions are reported under the policy.
        return Decision(Answer.LEVEL, "mode-testing", policy, zone.default_level)
    return Decision(Answer.NONE, "mode-testing", policy)


def _enforces(entry: CacheEntry, override: Override | None, now: float) -> bool:
    held = entry.live(now)
    return held is not None and effective_mode(held.policy, override) is Mode.ENFORCE


def effective_mode(policy: StsPolicy, override: Override | None) -> Mode:
    """Return the mode to apply: an override changes testing and enforce, but not none."""
    if override is None or override.treat_as is None or policy.mode is Mode.NONE:
        return policy.mode
    return override.treat_as


def _why_none(entry: CacheEntry) -> str:
    if entry.txt is not None and entry.txt.problem is not None:
        return entry.txt.problem
    if entry.failure is not None and entry.txt is not None and entry.txt.record_id == entry.failure.record_id:
        return entry.failure.problem
    return "no-policy"
