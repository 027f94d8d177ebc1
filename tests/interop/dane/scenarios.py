"""The states of a signed domain, and the requirements of RFC 7672 and RFC 8461 section 2 for each."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from mtasts_daemon.policy.dane import HostStatus, MxStatus
from mtasts_daemon.policy.dns_answer import RRType
from mtasts_daemon.policy.precedence import DaneLevel
from tests.fakes.ca import Flaw
from tests.fakes.smtp import MailSink
from tests.interop.dane.signed_world import SignedWorld

__all__ = ["SCENARIOS", "UNSIGNED", "Scenario"]

UNSIGNED: Final = "unsigned"
"""Nothing below this label is signed."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """``prepare`` publishes the domain (and its enforce policy, if it has one) and returns its mail exchangers.

    ``hosts`` are in order of preference. ``level`` is that of a zone with ``dane: always``. ``takes`` is the exchanger
    that gets the mail, counted from 0; None: the mail is deferred. ``logged`` is a pattern for Postfix's log line.
    """

    name: str
    prepare: Callable[[SignedWorld, str], Sequence[MailSink]]
    hosts: tuple[HostStatus, ...]
    level: DaneLevel
    takes: int | None
    logged: str = r"Verified TLS connection established to mx\.{domain}\["
    policy: bool = True
    mx: MxStatus = MxStatus.SECURE
    signed: bool = True

    def domain(self, suffix: str) -> str:
        """Return the scenario's domain below ``suffix``."""
        return f"{self.name}.{suffix}" if self.signed else f"{self.name}.{UNSIGNED}.{suffix}"

    def said(self, suffix: str) -> str:
        """Return the pattern for the line in Postfix's log."""
        return self.logged.replace("{domain}", re.escape(self.domain(suffix))).replace("{suffix}", re.escape(suffix))


def _one(world: SignedWorld, domain: str, flaw: Flaw | None = Flaw.GOOD, *, policy: bool = True) -> MailSink:
    exchanger = world.exchanger(f"mx.{domain}", flaw)
    world.send_mail_for(domain, exchanger)
    if policy:
        world.publish(domain, "enforce", [exchanger.name])
    return exchanger


def _two(world: SignedWorld, domain: str, first: Flaw = Flaw.GOOD, *, policy: bool = True) -> tuple[MailSink, MailSink]:
    exchangers = world.exchanger(f"mx1.{domain}", first), world.exchanger(f"mx2.{domain}")
    world.send_mail_for(domain, *exchangers)
    if policy:
        world.publish(domain, "enforce", [f"*.{domain}"])
    return exchangers


def _dane_ee(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    # The policy alone would defer: the certificate is self-signed. DANE-EE ignores that (RFC 7672 section 3.1.1).
    exchanger = _one(world, domain, Flaw.SELF_SIGNED)
    world.tlsa(exchanger)
    return [exchanger]


def _dane_ee_without_policy(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    exchanger = _one(world, domain, Flaw.SELF_SIGNED, policy=False)
    world.tlsa(exchanger)
    return [exchanger]


def _dane_ee_certificate(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    exchanger = _one(world, domain)
    world.tlsa(exchanger, "3 0 2")
    return [exchanger]


def _dane_ee_full(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    exchanger = _one(world, domain)
    world.tlsa(exchanger, "3 1 0")
    return [exchanger]


def _dane_ee_mismatch(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    exchanger = _one(world, domain)
    world.tlsa(exchanger, wrong=True)
    return [exchanger]


def _dane_ta(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    exchanger = _one(world, domain)
    world.tlsa(exchanger, "2 0 1")
    return [exchanger]


def _dane_ta_wrong_name(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    # Unlike DANE-EE, DANE-TA checks the name (RFC 7672 section 3.1.2).
    exchanger = _one(world, domain, Flaw.WRONG_NAME)
    world.tlsa(exchanger, "2 1 1")
    return [exchanger]


def _unusable(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    exchanger = _one(world, domain)
    world.tlsa(exchanger, "1 1 1")
    return [exchanger]


def _unusable_and_bad(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    exchanger = _one(world, domain, Flaw.SELF_SIGNED)
    world.tlsa(exchanger, "1 1 1")
    return [exchanger]


def _unusable_without_policy(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    exchanger = _one(world, domain, Flaw.SELF_SIGNED, policy=False)
    world.tlsa(exchanger, "1 1 1")
    return [exchanger]


def _unusable_in_the_clear(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    exchanger = world.exchanger(f"mx.{domain}", None)
    world.send_mail_for(domain, exchanger)
    world.records(f"_25._tcp.{exchanger.name}", f"TLSA 1 1 1 {'00' * 32}")
    return [exchanger]


def _one_of_two(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    exchangers = _two(world, domain)
    world.tlsa(exchangers[1])
    return exchangers


def _one_of_two_without_policy(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    exchangers = _two(world, domain, Flaw.SELF_SIGNED, policy=False)
    world.tlsa(exchangers[1])
    return exchangers


def _no_tlsa(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    return [_one(world, domain)]


def _unsigned_domain(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    # Its TLSA record is wrong and must be ignored (RFC 7672 section 2.2.1).
    exchanger = world.exchanger(f"mx-of-{domain.replace(f'.{UNSIGNED}', '')}")
    world.send_mail_for(domain, exchanger)
    world.publish(domain, "enforce", [exchanger.name])
    world.tlsa(exchanger, wrong=True)
    return [exchanger]


def _unsigned_domain_without_policy(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    exchanger = world.exchanger(f"mx-of-{domain}", Flaw.SELF_SIGNED)
    world.send_mail_for(domain, exchanger)
    world.tlsa(exchanger)
    return [exchanger]


def _forged_mx(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    forged = world.exchanger(f"forged-for-{domain}")
    world.send_mail_for(domain, forged)
    world.publish(domain, "enforce", [f"mx.{domain}"])
    return [forged]


def _unsigned_host(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    label, suffix = domain.split(".", 1)
    exchanger = world.exchanger(f"mx.{label}.{UNSIGNED}.{suffix}")
    world.send_mail_for(domain, exchanger)
    world.publish(domain, "enforce", [exchanger.name])
    world.tlsa(exchanger, wrong=True)
    return [exchanger]


def _bogus_tlsa(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    exchanger = _one(world, domain)
    world.tlsa(exchanger)
    world.spoil(f"_25._tcp.{exchanger.name}", RRType.TLSA)
    return [exchanger]


def _bogus_tlsa_of_one(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    exchangers = _two(world, domain)
    for exchanger in exchangers:
        world.tlsa(exchanger)
    world.spoil(f"_25._tcp.{exchangers[0].name}", RRType.TLSA)
    return exchangers


def _bogus_address_of_one(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    exchangers = _two(world, domain)
    world.spoil(exchangers[0].name, RRType.A)
    return exchangers


def _bogus_aaaa(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    exchanger = _one(world, domain)
    world.records(exchanger.name, f"A {exchanger.address[0]}", "AAAA 2001:db8::1")
    world.spoil(exchanger.name, RRType.AAAA)
    world.tlsa(exchanger)
    return [exchanger]


def _bogus_aaaa_of_one(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    exchangers = _two(world, domain)
    for exchanger in exchangers:
        world.tlsa(exchanger)
    world.records(exchangers[0].name, f"A {exchangers[0].address[0]}", "AAAA 2001:db8::1")
    world.spoil(exchangers[0].name, RRType.AAAA)
    return exchangers


def _bogus_mx(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    exchanger = _one(world, domain)
    world.spoil(domain, RRType.MX)
    return [exchanger]


def _alias(world: SignedWorld, domain: str, host: str, base: str) -> Sequence[MailSink]:
    exchanger = world.exchanger(host)
    world.records(f"mx.{domain}", f"CNAME {host}.")
    world.records(domain, f"MX 10 mx.{domain}.")
    world.publish(domain, "enforce", [f"mx.{domain}"])
    world.tlsa(exchanger, base=base)
    return [exchanger]


def _secure_alias(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    return _alias(world, domain, f"host.{domain}", f"host.{domain}")


def _secure_alias_by_its_own_name(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    return _alias(world, domain, f"host.{domain}", f"mx.{domain}")


def _secure_alias_to_an_unsigned_host(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    label, suffix = domain.split(".", 1)
    return _alias(world, domain, f"host.{label}.{UNSIGNED}.{suffix}", f"mx.{domain}")


def _implicit_mx(world: SignedWorld, domain: str) -> Sequence[MailSink]:
    exchanger = world.exchanger(domain)
    world.publish(domain, "enforce", [domain])
    world.tlsa(exchanger)
    return [exchanger]


_U, _X, _N, _E = HostStatus.USABLE, HostStatus.UNUSABLE, HostStatus.NONE, HostStatus.ERROR
_ONLY, _DANE, _SECURE = DaneLevel.DANE_ONLY, DaneLevel.DANE, DaneLevel.SECURE
_INSECURE = MxStatus.INSECURE

_REFUSED = r"certificate verification failed for mx\.{domain}\[.*: "
_UNTRUSTED = r"Untrusted TLS connection established to mx\.{domain}\["
_SECOND = r"Verified TLS connection established to mx2\.{domain}\["
_FIRST = r"Untrusted TLS connection established to mx1\.{domain}\["
_FIRST_VERIFIED = r"Verified TLS connection established to mx1\.{domain}\["
_MX_OF = r"Verified TLS connection established to mx-of-unsigned-domain\.{suffix}\["
_UNSIGNED_HOST = rf"Verified TLS connection established to mx\.unsigned-host\.{UNSIGNED}\.{{suffix}}\["
# Postfix 3.10 does not even connect to it.
_FORGED = r"(certificate verification failed for |MX name ')forged-for-{domain}['\[]"
_NOT_OFFERED = r"status=deferred \(TLS is required, but was not offered by host mx\.{domain}\["
_DEAD_DNS = r"status=deferred .*Name service error for name={domain} type=MX"
_DEAD_TLSA = r"status=deferred \(TLSA lookup error for mx\.{domain}:25\)"

SCENARIOS: Final = (
    Scenario("dane-ee", _dane_ee, (_U,), _ONLY, 0),
    Scenario("dane-ee-certificate", _dane_ee_certificate, (_U,), _ONLY, 0),
    Scenario("dane-ee-full-key", _dane_ee_full, (_U,), _ONLY, 0),
    Scenario("dane-ee-without-policy", _dane_ee_without_policy, (_U,), _ONLY, 0, policy=False),
    Scenario("dane-ee-mismatch", _dane_ee_mismatch, (_U,), _ONLY, None, f"{_REFUSED}num=65:"),
    Scenario("dane-ta", _dane_ta, (_U,), _ONLY, 0),
    Scenario("dane-ta-wrong-name", _dane_ta_wrong_name, (_U,), _ONLY, None, f"{_REFUSED}num=62:hostname mismatch"),
    Scenario("unusable", _unusable, (_X,), _SECURE, 0),
    Scenario("unusable-and-bad", _unusable_and_bad, (_X,), _SECURE, None, f"{_REFUSED}self-signed certificate"),
    Scenario("unusable-without-policy", _unusable_without_policy, (_X,), _DANE, 0, _UNTRUSTED, policy=False),
    Scenario("unusable-in-the-clear", _unusable_in_the_clear, (_X,), _DANE, None, _NOT_OFFERED, policy=False),
    Scenario("one-of-two", _one_of_two, (_N, _U), _ONLY, 1, _SECOND),
    Scenario("one-of-two-without-policy", _one_of_two_without_policy, (_N, _U), _DANE, 0, _FIRST, policy=False),
    Scenario("no-tlsa", _no_tlsa, (_N,), _SECURE, 0),
    Scenario("unsigned-domain", _unsigned_domain, (_N,), _SECURE, 0, _MX_OF, mx=_INSECURE, signed=False),
    Scenario(
        "unsigned-domain-without-policy",
        _unsigned_domain_without_policy,
        (_N,),
        DaneLevel.NOTFOUND,
        0,
        r" TLS connection established to mx-of-{domain}\[",
        policy=False,
        mx=_INSECURE,
        signed=False,
    ),
    Scenario("forged-mx", _forged_mx, (_N,), _SECURE, None, _FORGED, mx=_INSECURE, signed=False),
    Scenario("unsigned-host", _unsigned_host, (_N,), _SECURE, 0, _UNSIGNED_HOST),
    Scenario("bogus-tlsa", _bogus_tlsa, (_E,), _ONLY, None, _DEAD_TLSA),
    Scenario("bogus-tlsa-of-one", _bogus_tlsa_of_one, (_E, _U), _ONLY, 1, _SECOND),
    Scenario("bogus-address-of-one", _bogus_address_of_one, (_E, _N), _SECURE, 1, _SECOND),
    Scenario("bogus-aaaa", _bogus_aaaa, (_U,), _ONLY, 0),
    Scenario("bogus-aaaa-of-one", _bogus_aaaa_of_one, (_U, _U), _ONLY, 0, _FIRST_VERIFIED),
    Scenario("bogus-mx", _bogus_mx, (), _SECURE, None, _DEAD_DNS, mx=MxStatus.FAILED),
    Scenario("secure-alias", _secure_alias, (_U,), _ONLY, 0),
    Scenario("secure-alias-own-name", _secure_alias_by_its_own_name, (_U,), _ONLY, 0),
    Scenario("secure-alias-unsigned-host", _secure_alias_to_an_unsigned_host, (_U,), _ONLY, 0),
    Scenario("implicit-mx", _implicit_mx, (_U,), _ONLY, 0, r"Verified TLS connection established to {domain}\["),
)
