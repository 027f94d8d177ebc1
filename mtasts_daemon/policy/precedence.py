"""Which of DANE and MTA-STS decides: the table in section 5 of the design, as one function.

MTA-STS never overrides a DANE validation that fails (RFC 8461 section 2), and one dead MX host never decides for the
others: an error is passed over wherever another host has an answer.
"""

from dataclasses import dataclass
from enum import Enum

from .dane import DaneVerdict, HostStatus, MxStatus

__all__ = ["DaneChoice", "DaneLevel", "DaneMode", "Partial", "auto_mode", "dane_level"]


class DaneMode(Enum):
    """A zone's ``dane``, as the operator wrote it."""

    AUTO = "auto"
    """On or off by what this host's resolver and Postfix are set to. Whoever finds that out passes the outcome on."""
    ON = "on"
    """For domains with an enforce policy: for all others Postfix itself does what no map can, per host."""
    ALWAYS = "always"
    """For every domain, where Postfix's own level cannot be dane."""
    OFF = "off"


class Partial(Enum):
    """A zone's ``dane.partial``: what is demanded where some hosts have usable TLSA records and some have none."""

    DANE_ONLY = "dane-only"
    """Deliver to the hosts with DANE alone: neither DANE nor the policy is overridden."""
    SECURE = "secure"
    """Deliver by the policy to all of them, a departure from RFC 8461 section 2."""


_TOLD_TO_VALIDATE = ("query", "querywithtlsrpt")


def auto_mode(map_name: str, dns_support_level: str | None) -> DaneMode:
    """What ``auto`` is for a zone, given this host's smtp_dns_support_level; None where no main.cf can be read.

    Without ``dnssec`` there, Postfix defers all mail on ``dane-only``. The users of postfix-tlspol's map names were
    told to set it.
    """
    if dns_support_level is None:
        return DaneMode.ON if map_name.lower() in _TOLD_TO_VALIDATE else DaneMode.OFF
    return DaneMode.ON if dns_support_level.strip().lower() == "dnssec" else DaneMode.OFF


class DaneLevel(Enum):
    """What Postfix is to be told."""

    DANE_ONLY = "dane-only"
    DANE = "dane"
    SECURE = "secure"
    """The policy, as without DANE."""
    NOTFOUND = "notfound"
    """Postfix's own level, as without a policy."""


@dataclass(frozen=True, slots=True)
class DaneChoice:
    """The level, and the slug of the row of the table that it comes from."""

    level: DaneLevel
    reason: str


def dane_level(
    verdict: DaneVerdict | None, has_enforce_policy: bool, mode: DaneMode, partial: Partial = Partial.DANE_ONLY
) -> DaneChoice:
    """The level for a next-hop with ``verdict``, which is to come from ``combine``; None where no walk was made.

    ``has_enforce_policy`` says that a policy in force would give ``secure``. ``AUTO`` counts as on here.
    """
    without_dane = DaneLevel.SECURE if has_enforce_policy else DaneLevel.NOTFOUND
    if mode is DaneMode.OFF:
        return DaneChoice(without_dane, "dane-off")
    if not has_enforce_policy and mode is not DaneMode.ALWAYS:
        return DaneChoice(without_dane, "dane-left-to-postfix")
    if verdict is None or verdict.mx is MxStatus.FAILED:
        # Without a policy Postfix meets the same failure itself; with one, a dead DNS is no reason to defer.
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
        # There is nothing to authenticate by, so nothing that the policy would override; dane still demands TLS.
        return DaneChoice(DaneLevel.SECURE if has_enforce_policy else DaneLevel.DANE, "dane-unusable")
    if HostStatus.NONE in found:
        return DaneChoice(without_dane, "dane-none")
    if HostStatus.ERROR in found:
        # Postfix asks again for each host, says which lookup fails, and recovers by itself.
        return DaneChoice(mixed, "dane-all-hosts-failed")
    return DaneChoice(without_dane, "dane-no-hosts")
