"""The broken domains of ``test_each_kind_of_defect_gives_its_slugs_and_outcome``: how each differs from a correct one,
and the findings that the check must have.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mtasts_daemon.policy.dane import MAX_HOSTS
from mtasts_daemon.policy.dns_answer import TlsaRecord
from mtasts_daemon.policy.mtasts import MAX_MX_LINES
from tests.fakes.ca import Flaw
from tests.fakes.check_world import DOMAIN, HOST, NOBODY, CheckWorld
from tests.fakes.https import Behaviour, Framing, Manner
from tests.fakes.probed_smtp import MxBehaviour, MxManner

__all__ = ["KINDS", "Kind", "body", "tlsa_of"]

SECOND = "mx2.example.com"
STS, POLICY_HOST, REPORTS = f"_mta-sts.{DOMAIN}", f"mta-sts.{DOMAIN}", f"_smtp._tls.{DOMAIN}"
Setup = Callable[[CheckWorld], Any]


def body(mode: str = "enforce", *mx: str, max_age: int = 604800) -> bytes:
    lines = ["version: STSv1", f"mode: {mode}", *(f"mx: {host}" for host in mx or (HOST,)), f"max_age: {max_age}", ""]
    return "\n".join(lines).encode()


CORRECT = frozenset({"sts-record-ok", "policy-ok", "smtp-ok", "dane-missing", "tlsrpt-ok"})
"""The findings of a correct domain without DANE."""


@dataclass(frozen=True)
class Kind:
    """A broken domain: its setup, the expected errors and warnings, and the outcome for the three senders.

    ``adds`` are the other findings (of severity note and ok) that a correct domain has not, ``lacks`` those that only
    a correct domain has.
    """

    slugs: str
    outcome: str
    servers: tuple[MxBehaviour, ...] = (MxBehaviour(HOST),)
    policy: Behaviour | None = None
    setup: Setup = field(default=lambda _world: None)
    signed: bool = False
    mine: bool = False
    adds: str = ""
    lacks: str = ""

    @property
    def others(self) -> frozenset[str]:
        """Return the expected findings that are no problems."""
        return CORRECT.difference(self.lacks.split()).union(self.adds.split())

    @property
    def all_slugs(self) -> frozenset[str]:
        """Return all expected findings."""
        return self.others.union(self.slugs.split())


def server(manner: MxManner = MxManner.GOOD, flaw: Flaw = Flaw.GOOD, name: str = HOST, **more: Any) -> MxBehaviour:
    return MxBehaviour(name, manner, flaw, **more)


def tlsa_of(world: CheckWorld, name: str = HOST) -> TlsaRecord:
    certificate = x509.load_pem_x509_certificates(world.ca.issue(name).read_bytes())[0]
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return TlsaRecord(3, 1, 1, hashlib.sha256(spki).digest())


WRONG_TLSA = TlsaRecord(3, 1, 1, bytes(32))
UNUSABLE_TLSA = TlsaRecord(1, 0, 1, bytes(32))
TESTING = Behaviour(body=body("testing"))
NO_POLICY = Behaviour(status=404)


def each(*setups: Setup) -> Setup:
    def setup(world: CheckWorld) -> None:
        for one in setups:
            one(world)

    return setup


def no_record(world: CheckWorld) -> None:
    world.put(STS, "TXT")
    world.put(POLICY_HOST, "A")


def blocked(world: CheckWorld) -> None:
    """Block port 25: neither the MX host nor that of the reference domain can be connected to."""
    world.addresses(HOST, NOBODY)
    world.put("reference.example", "MX", "1 mx.reference.example.")
    world.addresses("mx.reference.example", NOBODY)
    world.reference_domains = ("reference.example",)


# Outcomes of MTA-STS only, DANE first, both: A(uthenticated), U(nauthenticated), D(eferred), R(ejected), ? (unknown).
KINDS: dict[str, Kind] = {
    "good": Kind("", "AAA"),
    # -- TXT
    "txt-missing": Kind(
        "sts-policy-without-record no-transport-security", "UUU", setup=lambda w: w.txt(),
        adds="sts-record-missing", lacks="sts-record-ok policy-ok",
    ),
    "no-policy-at-all": Kind(
        "no-transport-security", "UUU", setup=no_record,
        adds="sts-record-missing", lacks="sts-record-ok policy-ok",
    ),
    "txt-two": Kind(
        "sts-record-multiple", "UUU", setup=lambda w: w.txt("v=STSv1; id=1;", "v=STSv1; id=2;"),
        lacks="sts-record-ok policy-ok",
    ),
    "txt-syntax": Kind(
        "sts-record-syntax", "UUU", setup=lambda w: w.txt("v=STSv1; id=1; ???"),
        lacks="sts-record-ok policy-ok",
    ),
    "txt-no-id": Kind("sts-record-no-id", "UUU", setup=lambda w: w.txt("v=STSv1;"), lacks="sts-record-ok policy-ok"),
    "txt-bad-id": Kind(
        "sts-record-bad-id", "UUU", setup=lambda w: w.txt("v=STSv1; id=2024-01-01;"),
        lacks="sts-record-ok policy-ok",
    ),
    "txt-servfail": Kind(
        "sts-lookup-failed", "UUU",
        setup=lambda w: w.misbehave(STS, "TXT", "servfail"),
        lacks="sts-record-ok policy-ok",
    ),
    "txt-silent": Kind(
        "sts-lookup-failed", "UUU",
        setup=each(lambda w: w.misbehave(STS, "TXT", "silent"), lambda w: w.dns_settings.update(timeout=1.0)),
        lacks="sts-record-ok policy-ok",
    ),
    "txt-alias": Kind(
        "", "AAA",
        setup=each(
            lambda w: w.put(STS, "TXT"),
            lambda w: w.put(STS, "CNAME", "sts.provider.example."),
            lambda w: w.put("sts.provider.example", "TXT", '"v=STSv1; id=1;"'),
        ),
        adds="sts-record-alias",
    ),
    # -- policy host
    "host-missing": Kind(
        "policy-host-not-found", "UUU", setup=lambda w: w.put(POLICY_HOST, "A"),
        lacks="policy-ok",
    ),
    "host-lookup": Kind(
        "policy-host-lookup-failed", "UUU",
        setup=lambda w: w.misbehave(POLICY_HOST, "A", "servfail"),
        lacks="policy-ok",
    ),
    "host-private": Kind(
        "policy-address-refused", "UUU", setup=lambda w: w.put(POLICY_HOST, "A", "10.0.0.1"),
        lacks="policy-ok",
    ),
    "host-down": Kind(
        "policy-connect-failed", "UUU", setup=lambda w: w.put(POLICY_HOST, "A", NOBODY),
        lacks="policy-ok",
    ),
    "host-one-down": Kind(
        "policy-host-address-failed", "AAA",
        setup=lambda w: w.put(POLICY_HOST, "A", NOBODY, "127.0.0.1"),
    ),
    "https-expired": Kind("webpki-expired", "UUU", policy=Behaviour(certificate=Flaw.EXPIRED), lacks="policy-ok"),
    "https-early": Kind(
        "webpki-not-yet-valid", "UUU", policy=Behaviour(certificate=Flaw.NOT_YET_VALID),
        lacks="policy-ok",
    ),
    "https-name": Kind(
        "webpki-name-mismatch", "UUU", policy=Behaviour(certificate=Flaw.WRONG_NAME),
        lacks="policy-ok",
    ),
    "https-self": Kind(
        "webpki-self-signed", "UUU", policy=Behaviour(certificate=Flaw.SELF_SIGNED),
        lacks="policy-ok",
    ),
    "https-untrusted": Kind(
        "webpki-untrusted", "UUU", policy=Behaviour(certificate=Flaw.UNTRUSTED),
        lacks="policy-ok",
    ),
    "https-tls11": Kind("policy-tls-failed", "UUU", policy=Behaviour(manner=Manner.TLS11), lacks="policy-ok"),
    "https-404": Kind("policy-http-status", "UUU", policy=NO_POLICY, lacks="policy-ok"),
    "https-301": Kind(
        "policy-http-redirect", "UUU", policy=Behaviour(status=301, headers=(("Location", "/x"),)),
        lacks="policy-ok",
    ),
    "https-type": Kind("policy-media-type", "UUU", policy=Behaviour(media_type="text/html"), lacks="policy-ok"),
    "https-gzip": Kind("policy-content-encoding", "UUU", policy=Behaviour(gzip=True), lacks="policy-ok"),
    "https-large": Kind(
        "policy-too-large", "UUU", policy=Behaviour(size=70_000, framing=Framing.CLOSE),
        lacks="policy-ok",
    ),
    "https-garbage": Kind("policy-http-malformed", "UUU", policy=Behaviour(manner=Manner.GARBAGE), lacks="policy-ok"),
    "https-silent": Kind(
        "policy-timeout", "UUU", policy=Behaviour(manner=Manner.HANG),
        setup=lambda w: w.https_settings.update(total=1.0),
        lacks="policy-ok",
    ),
    "https-extension": Kind(
        "webpki-invalid", "UUU", policy=Behaviour(certificate=Flaw.CRITICAL_EXTENSION),
        lacks="policy-ok",
    ),
    "https-expiring": Kind(
        "policy-host-certificate-expires", "AAA", policy=Behaviour(body=body(), certificate=Flaw.EXPIRING)
    ),
    "proxy-down": Kind(
        "", "???", setup=lambda w: setattr(w, "behind_dead_proxy", True),
        adds="policy-not-checked", lacks="policy-ok",
    ),
    # -- the policy
    "policy-binary": Kind("policy-not-text", "UUU", policy=Behaviour(body=b"\xff\xfe"), lacks="policy-ok"),
    "policy-line": Kind("policy-line-syntax", "UUU", policy=Behaviour(body=b"<html>\x1b[31m"), lacks="policy-ok"),
    "policy-version": Kind("policy-version", "UUU", policy=Behaviour(body=b"version: STSv2\n"), lacks="policy-ok"),
    "policy-mode": Kind(
        "policy-mode", "UUU", policy=Behaviour(body=b"version: STSv1\nmode: on\n"),
        lacks="policy-ok",
    ),
    "policy-max-age": Kind(
        "policy-max-age", "UUU", policy=Behaviour(body=b"version: STSv1\nmode: enforce\n"),
        lacks="policy-ok",
    ),
    "policy-mx-missing": Kind(
        "policy-mx-missing", "UUU", policy=Behaviour(body=b"version: STSv1\nmode: enforce\nmax_age: 86400\n"),
        lacks="policy-ok",
    ),
    "policy-mx-syntax": Kind(
        "policy-mx-syntax", "UUU", policy=Behaviour(body=body("enforce", "mx.example.com.")),
        lacks="policy-ok",
    ),
    "policy-mx-many": Kind(
        "policy-mx-too-many", "UUU",
        policy=Behaviour(body=body("enforce", *(f"mx{number}.example.com" for number in range(MAX_MX_LINES + 1)))),
        lacks="policy-ok",
    ),
    "policy-short": Kind("policy-max-age-short", "AAA", policy=Behaviour(body=body(max_age=3600))),
    "policy-testing": Kind("", "UUU", policy=TESTING, adds="policy-mode-testing", lacks="policy-ok"),
    "policy-none": Kind(
        "no-transport-security", "UUU", policy=Behaviour(body=body("none")),
        adds="policy-mode-none", lacks="policy-ok",
    ),
    "mismatch-all": Kind(
        "policy-mx-none-match", "DDD", policy=Behaviour(body=body("enforce", "*.example.net")),
        adds="policy-pattern-unused",
    ),
    "mismatch-testing": Kind(
        "policy-mx-none-match", "UUU", policy=Behaviour(body=body("testing", "*.example.net")),
        adds="policy-mode-testing policy-pattern-unused", lacks="policy-ok",
    ),
    "mismatch-one": Kind("policy-mx-mismatch", "AAA", (server(), server(name=SECOND))),
    # -- MX
    "mx-servfail": Kind(
        "mx-lookup-failed tlsrpt-rua-unreachable", "DDD",
        setup=lambda w: w.misbehave(DOMAIN, "MX", "servfail"),
        lacks="smtp-ok dane-missing tlsrpt-ok",
    ),
    "mx-servfail-no-policy": Kind(
        "mx-lookup-failed tlsrpt-rua-unreachable", "DDD",
        setup=each(no_record, lambda w: w.misbehave(DOMAIN, "MX", "servfail")),
        adds="sts-record-missing", lacks="sts-record-ok policy-ok smtp-ok dane-missing tlsrpt-ok",
    ),
    "mx-null": Kind(
        "tlsrpt-rua-unreachable", "RRR", setup=lambda w: w.mx(""),
        adds="mx-null", lacks="smtp-ok dane-missing tlsrpt-ok",
    ),
    "mx-null-first": Kind(
        "mx-null-not-alone tlsrpt-rua-unreachable", "?R?", setup=lambda w: w.mx("", HOST),
        lacks="tlsrpt-ok",
    ),
    "mx-null-last": Kind(
        "mx-null-not-alone no-transport-security tlsrpt-rua-unreachable", "?R?",
        setup=each(no_record, lambda w: w.mx(HOST, "")),
        adds="sts-record-missing", lacks="sts-record-ok policy-ok tlsrpt-ok",
    ),
    "mx-null-and-dane": Kind(
        "mx-null-not-alone tlsrpt-rua-unreachable", "?R?",
        setup=each(lambda w: w.mx("", HOST), lambda w: w.tlsa(HOST, tlsa_of(w))), signed=True,
        adds="dane-ok", lacks="dane-missing tlsrpt-ok",
    ),
    "mx-null-and-no-address": Kind(
        "mx-null-not-alone mx-no-address tlsrpt-rua-unreachable", "RRR",
        setup=each(lambda w: w.mx("", HOST), lambda w: w.addresses(HOST)),
        lacks="smtp-ok tlsrpt-ok",
    ),
    "mx-null-mine": Kind(
        "", "RRR", setup=each(lambda w: w.mx(""), lambda w: w.put(REPORTS, "TXT"), no_record), mine=True,
        adds="mx-null sts-record-missing tlsrpt-missing",
        lacks="sts-record-ok policy-ok smtp-ok dane-missing tlsrpt-ok",
    ),
    "mx-implicit": Kind(
        "mx-missing", "AAA", (server(name=DOMAIN),), Behaviour(body=body("enforce", DOMAIN)),
        setup=lambda w: w.put(DOMAIN, "MX"),
    ),
    "domain-missing": Kind(
        "domain-not-found tlsrpt-rua-unreachable", "RRR",
        setup=each(lambda w: w.misbehave(DOMAIN, "*", "nxdomain"), lambda w: w.put(DOMAIN, "MX"), no_record),
        adds="sts-record-missing", lacks="sts-record-ok policy-ok smtp-ok dane-missing tlsrpt-ok",
    ),
    "mx-no-address": Kind(
        "mx-no-address tlsrpt-rua-unreachable", "RRR", setup=lambda w: w.addresses(HOST),
        lacks="smtp-ok tlsrpt-ok",
    ),
    "mx-one-without-address": Kind(
        "mx-no-address smtp-connect-refused", "DDD", (server(), server(name=SECOND)),
        Behaviour(body=body("enforce", "*.example.com")),
        setup=each(lambda w: w.addresses(HOST), lambda w: w.addresses(SECOND, NOBODY)),
        lacks="smtp-ok",
    ),
    "mx-implicit-without-address": Kind(
        "mx-and-address-missing policy-mx-none-match tlsrpt-rua-unreachable", "RRR",
        setup=lambda w: w.put(DOMAIN, "MX"),
        adds="policy-pattern-unused", lacks="smtp-ok tlsrpt-ok",
    ),
    "mx-implicit-without-address-no-policy": Kind(
        "mx-and-address-missing tlsrpt-rua-unreachable", "RRR",
        setup=each(no_record, lambda w: w.put(DOMAIN, "MX")),
        adds="sts-record-missing", lacks="sts-record-ok policy-ok smtp-ok tlsrpt-ok",
    ),
    "mx-implicit-address-servfail": Kind(
        "mx-missing mx-address-lookup-failed", "DDD", policy=Behaviour(body=body("enforce", DOMAIN)),
        setup=each(lambda w: w.put(DOMAIN, "MX"), lambda w: w.misbehave(DOMAIN, "A", "servfail")),
        lacks="smtp-ok",
    ),
    "mx-address-servfail": Kind(
        "mx-address-lookup-failed", "DDD",
        setup=lambda w: w.misbehave(HOST, "A", "servfail"),
        lacks="smtp-ok",
    ),
    "mx-is-address": Kind(
        "mx-not-hostname policy-mx-none-match tlsrpt-rua-unreachable", "DDD", setup=lambda w: w.mx("192.0.2.1"),
        adds="policy-pattern-unused", lacks="smtp-ok tlsrpt-ok",
    ),
    "mx-is-address-no-policy": Kind(
        "mx-not-hostname no-transport-security tlsrpt-rua-unreachable", "???",
        setup=each(no_record, lambda w: w.mx("192.0.2.1")),
        adds="sts-record-missing", lacks="sts-record-ok policy-ok smtp-ok tlsrpt-ok",
    ),
    "mx-private": Kind("smtp-address-refused", "DDD", setup=lambda w: w.addresses(HOST, "10.1.2.3"), lacks="smtp-ok"),
    "mx-alias": Kind(
        "mx-alias", "AAA",
        setup=each(
            lambda w: w.addresses(HOST),
            lambda w: w.put(HOST, "CNAME", "real.example.com."),
            lambda w: w.addresses("real.example.com", "127.0.0.1"),
        ),
    ),
    "mx-many": Kind(
        "smtp-connect-refused", "AAA", policy=Behaviour(body=body("enforce", "*.example.com")),
        setup=each(
            lambda w: w.mx(HOST, *(f"mx{number}.example.com" for number in range(MAX_HOSTS + 1))),
            lambda w: w.put("*.example.com", "A", NOBODY),
        ),
        adds="mx-more-hosts",
    ),
    "mx-many-addresses": Kind(
        "smtp-address-failed", "AAA",
        setup=lambda w: w.addresses(HOST, "127.0.0.1", *(f"127.9.9.{number}" for number in range(1, 10))),
        adds="mx-more-addresses",
    ),
    # -- SMTP
    "smtp-down": Kind("smtp-connect-refused", "DDD", setup=lambda w: w.addresses(HOST, NOBODY), lacks="smtp-ok"),
    "smtp-one-down": Kind("smtp-address-failed", "AAA", setup=lambda w: w.addresses(HOST, NOBODY, "127.0.0.1")),
    "smtp-unanswered": Kind(
        "smtp-connect-timeout", "DDD", (server(MxManner.UNANSWERED),),
        setup=lambda w: w.smtp_settings.update(connect=1.0),
        lacks="smtp-ok",
    ),
    # connect(2) accepts no link-local address without its interface.
    "smtp-no-interface": Kind(
        "smtp-connect-failed", "DDD", setup=lambda w: w.addresses(HOST, "fe80::1"),
        lacks="smtp-ok",
    ),
    # Nor, for TCP, a broadcast address.
    "smtp-no-route": Kind(
        "", "???", setup=lambda w: w.addresses(HOST, "127.255.255.255"),
        adds="smtp-no-route", lacks="smtp-ok",
    ),
    "smtp-busy": Kind(
        "", "???", setup=lambda w: w.smtp_settings.update(per_address=0),
        adds="smtp-busy", lacks="smtp-ok",
    ),
    "smtp-blocked": Kind("", "???", setup=blocked, adds="port25-blocked", lacks="smtp-ok"),
    "smtp-off": Kind("", "???", setup=lambda w: setattr(w, "port25", False), adds="mx-not-probed", lacks="smtp-ok"),
    "smtp-long": Kind("smtp-too-large", "DDD", (server(MxManner.LONG),), lacks="smtp-ok"),
    "no-starttls": Kind("starttls-not-offered", "DDD", (server(MxManner.NO_STARTTLS),), lacks="smtp-ok"),
    "no-starttls-testing": Kind(
        "starttls-not-offered", "UUU", (server(MxManner.NO_STARTTLS),), TESTING,
        adds="policy-mode-testing", lacks="policy-ok smtp-ok",
    ),
    "starttls-454": Kind("starttls-rejected", "DDD", (server(MxManner.REJECT_STARTTLS),), lacks="smtp-ok"),
    "tls-1.1": Kind("tls-version-old", "DDD", (server(MxManner.TLS11),), lacks="smtp-ok"),
    "tls-garbage": Kind("tls-handshake-failed", "DDD", (server(MxManner.GARBAGE_TLS),), lacks="smtp-ok"),
    "injection": Kind("starttls-injection", "DDD", (server(MxManner.INJECT),), lacks="smtp-ok"),
    "cert-expired": Kind("certificate-expired", "DDD", (server(flaw=Flaw.EXPIRED),), lacks="smtp-ok"),
    "cert-early": Kind("certificate-not-yet-valid", "DDD", (server(flaw=Flaw.NOT_YET_VALID),), lacks="smtp-ok"),
    "cert-name": Kind("certificate-name-mismatch", "DDD", (server(flaw=Flaw.WRONG_NAME),), lacks="smtp-ok"),
    "cert-cn-only": Kind("certificate-name-mismatch", "DDD", (server(flaw=Flaw.CN_ONLY),), lacks="smtp-ok"),
    "cert-self": Kind("certificate-self-signed", "DDD", (server(flaw=Flaw.SELF_SIGNED),), lacks="smtp-ok"),
    "cert-untrusted": Kind("certificate-untrusted", "DDD", (server(flaw=Flaw.UNTRUSTED),), lacks="smtp-ok"),
    "cert-extension": Kind("certificate-invalid", "DDD", (server(flaw=Flaw.CRITICAL_EXTENSION),), lacks="smtp-ok"),
    "cert-expiring": Kind("certificate-expires", "AAA", (server(flaw=Flaw.EXPIRING),)),
    "cert-testing": Kind(
        "certificate-expired", "UUU", (server(flaw=Flaw.EXPIRED),), TESTING,
        adds="policy-mode-testing", lacks="policy-ok smtp-ok",
    ),
    "cert-no-policy": Kind(
        "no-transport-security", "UUU", (server(flaw=Flaw.SELF_SIGNED),), setup=no_record,
        adds="certificate-self-signed sts-record-missing", lacks="sts-record-ok policy-ok smtp-ok",
    ),
    "greeting-554": Kind("smtp-greeting-rejected", "???", (server(MxManner.GREETING_554),), lacks="smtp-ok"),
    "ehlo-550": Kind("smtp-ehlo-rejected", "DDD", (server(MxManner.EHLO_550),), lacks="smtp-ok"),
    "ehlo-tls-550": Kind("smtp-ehlo-tls-failed", "DDD", (server(MxManner.EHLO_TLS_550),), lacks="smtp-ok"),
    "not-smtp": Kind("smtp-protocol", "DDD", (server(MxManner.GARBAGE),), lacks="smtp-ok"),
    "closes": Kind("smtp-closed", "DDD", (server(MxManner.CLOSE),), lacks="smtp-ok"),
    "silent": Kind(
        "smtp-timeout", "DDD", (server(MxManner.SILENT),), setup=lambda w: w.smtp_settings.update(total=1.0),
        lacks="smtp-ok",
    ),
    "backup-good": Kind(
        "certificate-expired", "AAA", (server(flaw=Flaw.EXPIRED), server(name=SECOND)),
        Behaviour(body=body("enforce", "*.example.com")),
    ),
    "requiretls": Kind("", "AAA", (server(requiretls=True),), adds="requiretls-announced"),
    "requiretls-stripped": Kind(
        "requiretls-partial", "AAA", (server(requiretls=True), server(name=SECOND)),
        Behaviour(body=body("enforce", "*.example.com")),
    ),
    # -- DANE
    "dane-good": Kind(
        "", "AAA", setup=lambda w: w.tlsa(HOST, tlsa_of(w)), signed=True,
        adds="dane-ok", lacks="dane-missing",
    ),
    "dane-mismatch": Kind(
        "dane-mismatch", "ADD", setup=lambda w: w.tlsa(HOST, WRONG_TLSA), signed=True,
        lacks="dane-missing",
    ),
    "dane-unusable": Kind(
        "dane-unusable", "AAA", setup=lambda w: w.tlsa(HOST, UNUSABLE_TLSA), signed=True,
        lacks="dane-missing",
    ),
    "dane-self-signed": Kind(
        "certificate-self-signed", "DAD", (server(flaw=Flaw.SELF_SIGNED),),
        setup=lambda w: w.tlsa(HOST, tlsa_of(w)), signed=True,
        adds="dane-ok", lacks="smtp-ok dane-missing",
    ),
    "dane-only-domain": Kind(
        "", "UAA", (server(flaw=Flaw.SELF_SIGNED),), signed=True,
        setup=each(no_record, lambda w: w.tlsa(HOST, tlsa_of(w))),
        adds="certificate-self-signed dane-ok sts-record-missing", lacks="sts-record-ok policy-ok smtp-ok dane-missing",
    ),
    "dane-only-smtp-off": Kind(
        "", "???", signed=True,
        setup=each(no_record, lambda w: w.tlsa(HOST, tlsa_of(w)), lambda w: setattr(w, "port25", False)),
        adds="mx-not-probed sts-record-missing", lacks="sts-record-ok policy-ok smtp-ok dane-missing",
    ),
    "dane-only-smtp-blocked": Kind(
        "", "???", signed=True, setup=each(no_record, lambda w: w.tlsa(HOST, tlsa_of(w)), blocked),
        adds="port25-blocked sts-record-missing", lacks="sts-record-ok policy-ok smtp-ok dane-missing",
    ),
    "dane-no-starttls": Kind(
        "dane-no-starttls starttls-not-offered", "UDD", (server(MxManner.NO_STARTTLS),), signed=True,
        setup=each(no_record, lambda w: w.tlsa(HOST, WRONG_TLSA)),
        adds="sts-record-missing", lacks="sts-record-ok policy-ok smtp-ok dane-missing",
    ),
    "dane-servfail": Kind(
        "dane-lookup-failed", "ADD", signed=True,
        setup=lambda w: w.misbehave(f"_25._tcp.{HOST}", "TLSA", "servfail"),
        lacks="dane-missing",
    ),
    "dane-partial": Kind(
        "", "AAA", (server(), server(name=SECOND)), Behaviour(body=body("enforce", "*.example.com")),
        setup=lambda w: w.tlsa(SECOND, tlsa_of(w)), signed=True,
        adds="dane-ok dane-partial", lacks="dane-missing",
    ),
    "dane-not-validated": Kind(
        "", "A??", signed=True,
        setup=each(lambda w: w.tlsa(HOST, tlsa_of(w)), lambda w: setattr(w, "validates", False)),
        adds="dane-not-checked", lacks="dane-missing",
    ),
    # With --mine, a certificate of the authority of the tests lacks 30 days.
    "dane-mine": Kind(
        "certificate-expires-soon", "AAA", setup=lambda w: w.tlsa(HOST, tlsa_of(w)), signed=True, mine=True,
        adds="dane-next-key dane-ok mx-ipv6-advised", lacks="dane-missing",
    ),
    # -- TLSRPT
    "tlsrpt-two": Kind(
        "tlsrpt-record-multiple", "AAA",
        setup=lambda w: w.reports("v=TLSRPTv1;rua=mailto:a@b.c", "v=TLSRPTv1;rua=mailto:d@e.f"),
        lacks="tlsrpt-ok",
    ),
    "tlsrpt-no-rua": Kind(
        "tlsrpt-record-no-rua", "AAA",
        setup=lambda w: w.reports("v=TLSRPTv1;"),
        lacks="tlsrpt-ok",
    ),
    "tlsrpt-bad-rua": Kind(
        "tlsrpt-rua-invalid", "AAA",
        setup=lambda w: w.reports("v=TLSRPTv1; rua=ftp://x, mailto:r@example.com"),
        lacks="tlsrpt-ok",
    ),
    "tlsrpt-no-mx": Kind(
        "tlsrpt-rua-unreachable", "AAA",
        setup=lambda w: w.reports("v=TLSRPTv1; rua=mailto:r@no-such.example"),
        lacks="tlsrpt-ok",
    ),
    "tlsrpt-https-down": Kind(
        "tlsrpt-rua-unreachable", "AAA",
        setup=each(
            lambda w: w.reports("v=TLSRPTv1; rua=https://report.example/v1"),
            lambda w: w.put("report.example", "A", NOBODY),
        ),
        lacks="tlsrpt-ok",
    ),
    "tlsrpt-servfail": Kind(
        "tlsrpt-lookup-failed", "AAA", setup=lambda w: w.misbehave(REPORTS, "TXT", "servfail"),
        lacks="tlsrpt-ok",
    ),
    "tlsrpt-syntax": Kind(
        "tlsrpt-record-syntax", "AAA", setup=lambda w: w.reports(r"v=TLSRPTv1; rua=mailto:b\195\188ro@example.com"),
        lacks="tlsrpt-ok",
    ),
    "tlsrpt-missing": Kind(
        "", "AAA", setup=lambda w: w.put(REPORTS, "TXT"),
        adds="tlsrpt-missing", lacks="tlsrpt-ok",
    ),
    "tlsrpt-missing-mine": Kind(
        "tlsrpt-advised certificate-expires-soon", "AAA", mine=True,
        setup=lambda w: w.put(REPORTS, "TXT"),
        adds="mx-ipv6-advised tlsrpt-missing", lacks="tlsrpt-ok",
    ),
    # -- advice
    "max-age-mine": Kind(
        "policy-max-age-advised certificate-expires-soon", "AAA",
        policy=Behaviour(body=body(max_age=90_000)), mine=True,
        adds="mx-ipv6-advised",
    ),
    "testing-mine": Kind(
        "policy-testing-long certificate-expires-soon", "UUU", policy=TESTING, mine=True,
        adds="mx-ipv6-advised policy-mode-testing", lacks="policy-ok",
    ),
    # -- this host
    "dns-down": Kind(
        "", "???",
        setup=each(
            lambda w: setattr(w, "dns_answers", False),
            lambda w: setattr(w, "validates", None),
            lambda w: w.dns_settings.update(timeout=1.0),
        ),
        adds="dns-unavailable", lacks="sts-record-ok policy-ok smtp-ok dane-missing tlsrpt-ok",
    ),
}  # fmt: skip
