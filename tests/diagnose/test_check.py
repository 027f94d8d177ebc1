"""Every kind of broken domain on loopback, with the expected slugs and conclusions."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mtasts_daemon import errors
from mtasts_daemon.config import Config
from mtasts_daemon.diagnose.check.checker import DomainChecker
from mtasts_daemon.diagnose.check.result import CheckResult, judge
from mtasts_daemon.notify.alert import Severity
from mtasts_daemon.policy.dns_answer import MxRecord, RRType, TlsaRecord
from tests.fakes.ca import Ca, Flaw
from tests.fakes.check_world import DOMAIN, HOST, CheckWorld
from tests.fakes.https import Behaviour, Framing, Manner
from tests.fakes.probed_smtp import MxBehaviour, MxManner

SECOND = "mx2.example.com"
Setup = Callable[[CheckWorld], Any]


def body(mode: str = "enforce", *mx: str, max_age: int = 604800) -> bytes:
    lines = ["version: STSv1", f"mode: {mode}", *(f"mx: {host}" for host in mx or (HOST,)), f"max_age: {max_age}", ""]
    return "\n".join(lines).encode()


@dataclass(frozen=True)
class Kind:
    """A broken domain: its setup, the expected errors and warnings, and the outcome for the three senders."""

    slugs: str
    outcome: str
    servers: tuple[MxBehaviour, ...] = (MxBehaviour(HOST),)
    policy: Behaviour | None = None
    setup: Setup = field(default=lambda _world: None)
    signed: bool = False
    mine: bool = False


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
    world.resolver.forget(f"_mta-sts.{DOMAIN}", RRType.TXT)
    world.resolver.forget(f"mta-sts.{DOMAIN}", RRType.A)


def reports(world: CheckWorld, records: list[bytes]) -> None:
    world.resolver.put(f"_smtp._tls.{DOMAIN}", RRType.TXT, records)


# Outcomes of MTA-STS only, DANE first, both: A(uthenticated), U(nauthenticated), D(eferred), R(ejected), ? (unknown).
KINDS: dict[str, Kind] = {
    "good": Kind("", "AAA"),
    # -- TXT
    "txt-missing": Kind("sts-policy-without-record no-transport-security", "UUU", setup=lambda w: w.txt()),
    "no-policy-at-all": Kind("no-transport-security", "UUU", setup=no_record),
    "txt-two": Kind("sts-record-multiple", "UUU", setup=lambda w: w.txt(b"v=STSv1; id=1;", b"v=STSv1; id=2;")),
    "txt-syntax": Kind("sts-record-syntax", "UUU", setup=lambda w: w.txt(b"v=STSv1; id=1; ???")),
    "txt-no-id": Kind("sts-record-no-id", "UUU", setup=lambda w: w.txt(b"v=STSv1;")),
    "txt-bad-id": Kind("sts-record-bad-id", "UUU", setup=lambda w: w.txt(b"v=STSv1; id=2024-01-01;")),
    "txt-servfail": Kind(
        "sts-lookup-failed", "UUU",
        setup=lambda w: w.resolver.fail(f"_mta-sts.{DOMAIN}", RRType.TXT, errors.DnsServerFailure()),
    ),
    "txt-silent": Kind(
        "sts-lookup-failed", "UUU",
        setup=lambda w: w.resolver.fail(f"_mta-sts.{DOMAIN}", RRType.TXT, errors.DnsTimeout()),
    ),
    # -- policy host
    "host-missing": Kind(
        "policy-host-not-found", "UUU", setup=lambda w: w.resolver.forget(f"mta-sts.{DOMAIN}", RRType.A)
    ),
    "host-lookup": Kind(
        "policy-host-lookup-failed", "UUU",
        setup=lambda w: w.resolver.fail(f"mta-sts.{DOMAIN}", RRType.A, errors.DnsServerFailure()),
    ),
    "host-private": Kind(
        "policy-address-refused", "UUU", setup=lambda w: w.resolver.put(f"mta-sts.{DOMAIN}", RRType.A, ["10.0.0.1"])
    ),
    "host-down": Kind(
        "policy-connect-failed", "UUU", setup=lambda w: w.resolver.put(f"mta-sts.{DOMAIN}", RRType.A, ["127.9.9.9"])
    ),
    "host-one-down": Kind(
        "policy-host-address-failed", "AAA",
        setup=lambda w: w.resolver.put(f"mta-sts.{DOMAIN}", RRType.A, ["127.9.9.9", "127.0.0.1"]),
    ),
    "https-expired": Kind("webpki-expired", "UUU", policy=Behaviour(certificate=Flaw.EXPIRED)),
    "https-early": Kind("webpki-not-yet-valid", "UUU", policy=Behaviour(certificate=Flaw.NOT_YET_VALID)),
    "https-name": Kind("webpki-name-mismatch", "UUU", policy=Behaviour(certificate=Flaw.WRONG_NAME)),
    "https-self": Kind("webpki-self-signed", "UUU", policy=Behaviour(certificate=Flaw.SELF_SIGNED)),
    "https-untrusted": Kind("webpki-untrusted", "UUU", policy=Behaviour(certificate=Flaw.UNTRUSTED)),
    "https-tls11": Kind("policy-tls-failed", "UUU", policy=Behaviour(manner=Manner.TLS11)),
    "https-404": Kind("policy-http-status", "UUU", policy=NO_POLICY),
    "https-301": Kind("policy-http-redirect", "UUU", policy=Behaviour(status=301, headers=(("Location", "/x"),))),
    "https-type": Kind("policy-media-type", "UUU", policy=Behaviour(media_type="text/html")),
    "https-gzip": Kind("policy-content-encoding", "UUU", policy=Behaviour(gzip=True)),
    "https-large": Kind("policy-too-large", "UUU", policy=Behaviour(size=70_000, framing=Framing.CLOSE)),
    "https-garbage": Kind("policy-http-malformed", "UUU", policy=Behaviour(manner=Manner.GARBAGE)),
    # -- the policy
    "policy-binary": Kind("policy-not-text", "UUU", policy=Behaviour(body=b"\xff\xfe")),
    "policy-line": Kind("policy-line-syntax", "UUU", policy=Behaviour(body=b"<html>\x1b[31m")),
    "policy-version": Kind("policy-version", "UUU", policy=Behaviour(body=b"version: STSv2\n")),
    "policy-mode": Kind("policy-mode", "UUU", policy=Behaviour(body=b"version: STSv1\nmode: on\n")),
    "policy-max-age": Kind("policy-max-age", "UUU", policy=Behaviour(body=b"version: STSv1\nmode: enforce\n")),
    "policy-mx-missing": Kind(
        "policy-mx-missing", "UUU", policy=Behaviour(body=b"version: STSv1\nmode: enforce\nmax_age: 86400\n")
    ),
    "policy-mx-syntax": Kind("policy-mx-syntax", "UUU", policy=Behaviour(body=body("enforce", "mx.example.com."))),
    "policy-short": Kind("policy-max-age-short", "AAA", policy=Behaviour(body=body(max_age=3600))),
    "policy-testing": Kind("", "UUU", policy=TESTING),
    "policy-none": Kind("no-transport-security", "UUU", policy=Behaviour(body=body("none"))),
    "mismatch-all": Kind("policy-mx-none-match", "DDD", policy=Behaviour(body=body("enforce", "*.example.net"))),
    "mismatch-testing": Kind("policy-mx-none-match", "UUU", policy=Behaviour(body=body("testing", "*.example.net"))),
    "mismatch-one": Kind("policy-mx-mismatch", "AAA", (server(), server(name=SECOND))),
    # -- MX
    "mx-servfail": Kind(
        "mx-lookup-failed tlsrpt-rua-unreachable", "DDD",
        setup=lambda w: w.resolver.fail(DOMAIN, RRType.MX, errors.DnsServerFailure())
    ),
    "mx-null": Kind("tlsrpt-rua-unreachable", "RRR", setup=lambda w: w.mx("")),
    "mx-implicit": Kind(
        "mx-missing", "AAA", (server(name=DOMAIN),), Behaviour(body=body("enforce", DOMAIN)),
        setup=lambda w: w.resolver.put(DOMAIN, RRType.MX, []),
    ),
    "domain-missing": Kind(
        "domain-not-found tlsrpt-rua-unreachable", "RRR",
        setup=each(lambda w: w.resolver.forget(DOMAIN, RRType.MX), no_record),
    ),
    "mx-no-address": Kind(
        "mx-no-address tlsrpt-rua-unreachable", "DDD", setup=lambda w: w.addresses(HOST)
    ),
    "mx-address-servfail": Kind(
        "mx-address-lookup-failed", "DDD",
        setup=lambda w: w.resolver.fail(HOST, RRType.A, errors.DnsServerFailure()),
    ),
    "mx-is-address": Kind(
        "mx-not-hostname policy-mx-none-match tlsrpt-rua-unreachable", "DDD", setup=lambda w: w.mx("192.0.2.1")
    ),
    "mx-private": Kind("smtp-address-refused", "DDD", setup=lambda w: w.addresses(HOST, "10.1.2.3")),
    # -- SMTP
    "smtp-down": Kind("smtp-connect-refused", "DDD", setup=lambda w: w.addresses(HOST, "127.9.9.9")),
    "smtp-one-down": Kind("smtp-address-failed", "AAA", setup=lambda w: w.addresses(HOST, "127.9.9.9", "127.0.0.1")),
    "no-starttls": Kind("starttls-not-offered", "DDD", (server(MxManner.NO_STARTTLS),)),
    "no-starttls-testing": Kind("starttls-not-offered", "UUU", (server(MxManner.NO_STARTTLS),), TESTING),
    "starttls-454": Kind("starttls-rejected", "DDD", (server(MxManner.REJECT_STARTTLS),)),
    "tls-1.1": Kind("tls-version-old", "DDD", (server(MxManner.TLS11),)),
    "tls-garbage": Kind("tls-handshake-failed", "DDD", (server(MxManner.GARBAGE_TLS),)),
    "injection": Kind("starttls-injection", "DDD", (server(MxManner.INJECT),)),
    "cert-expired": Kind("certificate-expired", "DDD", (server(flaw=Flaw.EXPIRED),)),
    "cert-early": Kind("certificate-not-yet-valid", "DDD", (server(flaw=Flaw.NOT_YET_VALID),)),
    "cert-name": Kind("certificate-name-mismatch", "DDD", (server(flaw=Flaw.WRONG_NAME),)),
    "cert-cn-only": Kind("certificate-name-mismatch", "DDD", (server(flaw=Flaw.CN_ONLY),)),
    "cert-self": Kind("certificate-self-signed", "DDD", (server(flaw=Flaw.SELF_SIGNED),)),
    "cert-untrusted": Kind("certificate-untrusted", "DDD", (server(flaw=Flaw.UNTRUSTED),)),
    "cert-testing": Kind("certificate-expired", "UUU", (server(flaw=Flaw.EXPIRED),), TESTING),
    "cert-no-policy": Kind("no-transport-security", "UUU", (server(flaw=Flaw.SELF_SIGNED),), setup=no_record),
    "greeting-554": Kind("smtp-greeting-rejected", "???", (server(MxManner.GREETING_554),)),
    "ehlo-550": Kind("smtp-ehlo-rejected", "DDD", (server(MxManner.EHLO_550),)),
    "ehlo-tls-550": Kind("smtp-ehlo-tls-failed", "DDD", (server(MxManner.EHLO_TLS_550),)),
    "not-smtp": Kind("smtp-protocol", "DDD", (server(MxManner.GARBAGE),)),
    "closes": Kind("smtp-closed", "DDD", (server(MxManner.CLOSE),)),
    "silent": Kind("smtp-timeout", "DDD", (server(MxManner.SILENT),)),
    "backup-good": Kind(
        "certificate-expired", "AAA", (server(flaw=Flaw.EXPIRED), server(name=SECOND)),
        Behaviour(body=body("enforce", "*.example.com")),
    ),
    "requiretls-stripped": Kind(
        "requiretls-partial", "AAA", (server(requiretls=True), server(name=SECOND)),
        Behaviour(body=body("enforce", "*.example.com")),
    ),
    # -- DANE
    "dane-good": Kind("", "AAA", setup=lambda w: w.tlsa(HOST, tlsa_of(w)), signed=True),
    "dane-mismatch": Kind("dane-mismatch", "ADD", setup=lambda w: w.tlsa(HOST, WRONG_TLSA), signed=True),
    "dane-unusable": Kind("dane-unusable", "AAA", setup=lambda w: w.tlsa(HOST, UNUSABLE_TLSA), signed=True),
    "dane-self-signed": Kind(
        "certificate-self-signed", "DAD", (server(flaw=Flaw.SELF_SIGNED),),
        setup=lambda w: w.tlsa(HOST, tlsa_of(w)), signed=True,
    ),
    "dane-only-domain": Kind(
        "", "UAA", (server(flaw=Flaw.SELF_SIGNED),), signed=True,
        setup=each(no_record, lambda w: w.tlsa(HOST, tlsa_of(w))),
    ),
    "dane-no-starttls": Kind(
        "dane-no-starttls starttls-not-offered", "UDD", (server(MxManner.NO_STARTTLS),), signed=True,
        setup=each(no_record, lambda w: w.tlsa(HOST, WRONG_TLSA)),
    ),
    "dane-servfail": Kind(
        "dane-lookup-failed", "ADD", signed=True,
        setup=lambda w: w.resolver.fail(f"_25._tcp.{HOST}", RRType.TLSA, errors.DnsServerFailure()),
    ),
    "dane-partial": Kind(
        "", "AAA", (server(), server(name=SECOND)), Behaviour(body=body("enforce", "*.example.com")),
        setup=lambda w: w.tlsa(SECOND, tlsa_of(w)), signed=True,
    ),
    # -- TLSRPT
    "tlsrpt-two": Kind(
        "tlsrpt-record-multiple", "AAA",
        setup=lambda w: reports(w, [b"v=TLSRPTv1;rua=mailto:a@b.c"] * 2),
    ),
    "tlsrpt-no-rua": Kind(
        "tlsrpt-record-no-rua", "AAA",
        setup=lambda w: reports(w, [b"v=TLSRPTv1;"]),
    ),
    "tlsrpt-bad-rua": Kind(
        "tlsrpt-rua-invalid", "AAA",
        setup=lambda w: reports(w, [b"v=TLSRPTv1; rua=ftp://x, mailto:r@example.com"]),
    ),
    "tlsrpt-no-mx": Kind(
        "tlsrpt-rua-unreachable", "AAA",
        setup=lambda w: reports(w, [b"v=TLSRPTv1; rua=mailto:r@no-such.example"]),
    ),
    "tlsrpt-https-down": Kind(
        "tlsrpt-rua-unreachable", "AAA",
        setup=each(
            lambda w: reports(w, [b"v=TLSRPTv1; rua=https://report.example/v1"]),
            lambda w: w.resolver.put("report.example", RRType.A, ["127.9.9.9"]),
        ),
    ),
    "tlsrpt-missing": Kind("", "AAA", setup=lambda w: w.resolver.forget(f"_smtp._tls.{DOMAIN}", RRType.TXT)),
    "tlsrpt-missing-mine": Kind(
        "tlsrpt-advised", "AAA", mine=True,
        setup=lambda w: w.resolver.forget(f"_smtp._tls.{DOMAIN}", RRType.TXT),
    ),
    # -- advice
    "max-age-mine": Kind("policy-max-age-advised", "AAA", policy=Behaviour(body=body(max_age=90_000)), mine=True),
    "testing-mine": Kind("policy-testing-long", "UUU", policy=TESTING, mine=True),
}  # fmt: skip

LETTERS = {"authenticated": "A", "unauthenticated": "U", "deferred": "D", "rejected": "R", "unknown": "?"}


def outcomes(result: CheckResult) -> str:
    return "".join(LETTERS[conclusion.delivery.value] for conclusion in result.conclusions)


@pytest.mark.parametrize("name", KINDS)
async def test_each_kind_of_defect_gives_its_slugs_and_outcome(ca: Ca, name: str) -> None:
    kind = KINDS[name]
    world = CheckWorld(ca, *kind.servers, policy=kind.policy, signed=kind.signed)
    kind.setup(world)
    async with world:
        result = await world.check(mine=kind.mine)
    problems = " ".join(sorted({finding.slug for finding in result.problems}))
    # With --mine every domain on loopback lacks 30 days of certificate.
    wanted = sorted([*kind.slugs.split(), *(["certificate-expires-soon"] if kind.mine else [])])
    assert (problems, outcomes(result)) == (" ".join(wanted), kind.outcome)
    assert result.exit_code == (2 if result.count(Severity.ERROR) else 1 if result.count(Severity.WARNING) else 0)
    for finding in result.findings:
        assert finding.text.isprintable()
        assert finding.remedy or finding.severity is not Severity.ERROR


async def test_blocked_port_25_is_not_blamed_on_the_domain(ca: Ca) -> None:
    world = CheckWorld(ca)
    world.addresses(HOST, "127.9.9.9")
    world.resolver.put("reference.example", RRType.MX, [MxRecord(1, "mx.reference.example")])
    world.resolver.put("mx.reference.example", RRType.A, ["127.8.8.8"])
    world.reference_domains = ("reference.example",)
    async with world:
        result = await world.check()
    assert [finding.slug for finding in result.findings if finding.ours] == ["port25-blocked"]
    assert not result.problems
    assert result.exit_code == 75
    assert outcomes(result) == "???"


async def test_reachable_reference_host_proves_port_25_open(ca: Ca) -> None:
    world = CheckWorld(ca)
    world.addresses(HOST, "127.9.9.9")
    world.resolver.put("reference.example", RRType.MX, [MxRecord(1, "mx.reference.example")])
    world.resolver.put("mx.reference.example", RRType.A, ["127.0.0.1"])
    world.reference_domains = ("reference.example",)
    async with world:
        result = await world.check()
    assert [finding.slug for finding in result.problems] == ["smtp-connect-refused"]
    assert result.exit_code == 2


async def test_dead_resolver_is_our_failure(ca: Ca) -> None:
    world = CheckWorld(ca)
    world.validates = None
    for name in (f"_mta-sts.{DOMAIN}", f"_smtp._tls.{DOMAIN}"):
        world.resolver.fail(name, RRType.TXT, errors.DnsTimeout())
    world.resolver.fail(DOMAIN, RRType.MX, errors.DnsTimeout())
    async with world:
        result = await world.check()
    assert [finding.slug for finding in result.findings] == ["dns-unavailable"]
    assert (result.exit_code, outcomes(result)) == (75, "???")


async def test_resolver_that_does_not_validate_leaves_dane_unchecked(ca: Ca) -> None:
    world = CheckWorld(ca)
    world.validates = False
    async with world:
        result = await world.check()
    assert "dane-not-checked" in [finding.slug for finding in result.findings]
    assert result.exit_code == 0
    # DANE could authenticate or defer the mail: neither is known.
    assert outcomes(result) == "A??"


@pytest.mark.parametrize(
    "failure", [errors.HttpsUnavailable(), errors.PolicyFetchBusy(), errors.NoRoute(), errors.CaCertificatesMissing()]
)
async def test_policy_that_only_this_host_cannot_fetch_leaves_the_outcome_unknown(
    ca: Ca, failure: errors.PolicyFetchError
) -> None:
    async with CheckWorld(ca) as world:
        fetch = world.gatherer._fetcher.fetch

        async def unavailable(policy_domain: str, *, live: bool) -> Any:
            raise failure

        world.gatherer._fetcher.fetch = unavailable  # type: ignore[method-assign]
        result = await world.check()
        world.gatherer._fetcher.fetch = fetch  # type: ignore[method-assign]
    assert "policy-not-checked" in [finding.slug for finding in result.findings]
    assert outcomes(result) == "???"


async def test_handshakes_are_left_out_behind_a_proxy(ca: Ca) -> None:
    world = CheckWorld(ca)
    reports(world, [b"v=TLSRPTv1; rua=https://report.example/v1"])
    world.resolver.put("report.example", RRType.A, ["127.9.9.9"])
    world.resolver.put(f"mta-sts.{DOMAIN}", RRType.A, ["127.9.9.9", "127.0.0.1"])
    async with world:
        world.gatherer._endpoint = None
        result = await world.check()
    assert not result.problems
    assert outcomes(result) == "AAA"
    proxied = Config.model_validate({"https": {"proxy": "127.0.0.1:3128", "ca_file": str(ca.pem)}})
    checker = DomainChecker(proxied)
    assert checker._gatherer._endpoint is None
    await checker.close()


async def test_unprobed_addresses_of_a_host_that_is_down_leave_the_outcome_unknown(ca: Ca) -> None:
    world = CheckWorld(ca)
    world.addresses(HOST, *(f"127.9.9.{number}" for number in range(1, 6)))
    async with world:
        result = await world.check()
    assert outcomes(result) == "???"


async def test_check_without_port_25_probes_no_host(ca: Ca) -> None:
    async with CheckWorld(ca) as world:
        world.gatherer._smtp = None
        result = await world.check()
        assert world.smtp.connections == []
    assert outcomes(result) == "???"


async def test_json_form_has_stable_names_and_is_serialisable(ca: Ca) -> None:
    world = CheckWorld(ca, signed=True)
    world.tlsa(HOST, tlsa_of(world))
    async with world:
        result = await world.check()
    found = json.loads(json.dumps(result.as_json()))
    assert set(found) == {
        "schema", "domain", "at", "exit_code", "conclusions", "findings", "sts", "policy", "policy_host", "mx",
        "tlsrpt", "resolver_validates", "port25",
    }  # fmt: skip
    assert found["policy"] == {"mode": "enforce", "max_age": 604800, "mx": [HOST]}
    assert found["mx"][0]["addresses"][0]["tls"] == "TLSv1.3"
    assert found["mx"][0]["dane"] == "usable"


async def test_hostile_server_text_stays_printable_everywhere(ca: Ca) -> None:
    world = CheckWorld(ca, MxBehaviour(HOST, MxManner.GREETING_554), policy=Behaviour(body=b"\x1b[2J<script>: x"))
    async with world:
        result = await world.check()
    assert "\x1b" not in json.dumps(result.as_json(), ensure_ascii=False)
    assert all(finding.text.isprintable() for finding in result.findings)


async def test_hostile_sizes_are_judged_in_no_time(ca: Ca) -> None:
    patterns = [f"*.p{number}.example.net" for number in range(3000)]
    world = CheckWorld(ca, policy=Behaviour(body=body("enforce", HOST, *patterns)[:65000].rpartition(b"\n")[0]
                                            + b"\nmax_age: 86400\n"), signed=True)  # fmt: skip
    world.tlsa(HOST, *(TlsaRecord(2, 1, 1, number.to_bytes(32, "big")) for number in range(500)))
    world.mx(HOST, *(f"mx{number}.example.com" for number in range(400)))
    async with world:
        found = await world.evidence()
        begun = time.process_time()
        result = judge(found)
        text = json.dumps(result.as_json())
        assert time.process_time() - begun < 10
    assert len(result.findings) < 250
    assert len(text) < 300_000
    assert found.hosts_left_out == 391


async def test_addresses_that_are_not_probed_are_counted(ca: Ca) -> None:
    world = CheckWorld(ca)
    world.addresses(HOST, "127.0.0.1", *(f"127.9.9.{number}" for number in range(1, 10)))
    async with world:
        result = await world.check()
    assert [f.detail for f in result.findings if f.slug == "mx-more-addresses"] == ["8 more"]


def test_missing_authorities_are_not_blamed_on_domains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    with pytest.raises(errors.ConfigError, match="no CA certificates"):
        DomainChecker(Config())
