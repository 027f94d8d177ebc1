"""Decide between DANE and MTA-STS: the table of docs/architecture.md as one function.

MTA-STS never overrides a failed DANE validation (RFC 8461 section 2). One unreachable name server never decides: errors
are ignored if another host has an answer.
"""

from enum import Enum
from typing import NamedTuple

from .dane import DaneVerdict, HostStatus, MxStatus

__all__ = ["DaneChoice", "DaneLevel", "DaneMode", "Partial", "auto_mode", "dane_level"]


class DaneMode(Enum):
    """The configured ``dane`` of a zone."""

    AUTO = "auto"
    """On or off, depending on the settings of this host's Postfix; see ``auto_mode``."""
    ON = "on"
    """For domains with an enforce policy. For other domains Postfix applies DANE itself, per host."""
    ALWAYS = "always"
    """For every domain, if the level of Postfix cannot be dane."""
    OFF = "off"


class Partial(Enum):
    """The configured ``dane_partial``: the level if some hosts have usable TLSA records and some have none."""

    DANE_ONLY = "dane-only"
    """Deliver only to the hosts with DANE: neither DANE nor the policy is overridden."""
    SECURE = "secure"
    """Deliver to all hosts by the policy; departs from RFC 8461 section 2."""


_NAMES_WITH_DNSSEC = ("query", "querywithtlsrpt")


def auto_mode(map_name: str, dns_support_level: str | None) -> DaneMode:
    """Return the mode of ``auto``, given this host's smtp_dns_support_level (None: no main.cf can be read).

    Without ``dnssec`` Postfix defers all mail for ``dane-only``. The documentation of postfix-tlspol, whose map names
    these are, requires it.
    """
    if dns_support_level is None:
        return DaneMode.ON if map_name.lower() in _NAMES_WITH_DNSSEC else DaneMode.OFF
    return DaneMode.ON if dns_support_level.strip().lower() == "dnssec" else DaneMode.OFF


class DaneLevel(Enum):
    """The level for Postfix."""

    DANE_ONLY = "dane-only"
    DANE = "dane"
    SECURE = "secure"
    """The MTA-STS policy."""
    NOTFOUND = "notfound"
    """No policy: the level of Postfix applies."""


class DaneChoice(NamedTuple):
    """The level, and the slug of its row in the table."""

    level: DaneLevel
    reason: str


def dane_level(
    verdict: DaneVerdict | None, has_enforce_policy: bool, mode: DaneMode, partial: Partial = Partial.DANE_ONLY
) -> DaneChoice:
    """Return the level for a next hop. ``verdict`` comes from ``apply_fallback``; None if there is none.

    ``has_enforce_policy`` is true if a live policy would give ``secure``. ``AUTO`` counts as on.
    """
    without_dane = DaneLevel.SECURE if has_enforce_policy else DaneLevel.NOTFOUND
    if mode is DaneMode.OFF:
        return DaneChoice(without_dane, "dane-off")
    if not has_enforce_policy and mode is not DaneMode.ALWAYS:
        return DaneChoice(without_dane, "dane-left-to-postfix")
    if verdict is None or verdict.mx is MxStatus.FAILED:
        # Without a policy Postfix sees the same failure itself; with one, a DNS failure must not defer mail.
        return DaneChoice(without_dane, "dane-mx-failed")
    if verdict.mx is MxStatus.INSECURE:
        return DaneChoice(without_dane, "dane-mx-insecure")
    return _by_hosts(verdict, has_enforce_policy, partial, without_dane)


def _by_hosts(verdict: DaneVerdict, has_enforce_policy: bool, partial: Partial, without_dane: DaneLevel) -> DaneChoice:
    found = {host.status for host in verdict.hosts} - {HostStatus.ABSENT}
    mixed = DaneLevel.DANE_ONLY if has_enforce_policy else DaneLevel.DANE
    if HostStatus.USABLE in found:
        if HostStatus.NONE in found:
            departs = has_enforce_policy and partial is Partial.SECURE
            return DaneChoice(DaneLevel.SECURE if departs else mixed, "dane-usable-and-none")
        if HostStatus.UNUSABLE in found:
            return DaneChoice(mixed, "dane-usable-and-unusable")
        return DaneChoice(DaneLevel.DANE_ONLY, "dane-usable")
    if HostStatus.UNUSABLE in found:
        # No record can authenticate the host, so the policy overrides nothing; dane still requires TLS.
        return DaneChoice(DaneLevel.SECURE if has_enforce_policy else DaneLevel.DANE, "dane-unusable")
    if HostStatus.NONE in found:
        return DaneChoice(without_dane, "dane-none")
    if HostStatus.ERROR in found:
        # Postfix queries again for each host, logs the failing lookup, and recovers automatically.
        return DaneChoice(mixed, "dane-all-hosts-failed")
    return DaneChoice(without_dane, "dane-no-hosts")
