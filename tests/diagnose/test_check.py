"""Every kind of broken domain on loopback, with the expected slugs and conclusions."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from mtasts_daemon import errors
from mtasts_daemon.config import Config
from mtasts_daemon.diagnose.check.catalogue import CATALOGUE
from mtasts_daemon.diagnose.check.checker import DomainChecker
from mtasts_daemon.diagnose.check.result import CheckResult, judge
from mtasts_daemon.notify.alert import Severity
from mtasts_daemon.policy.dns_answer import TlsaRecord
from tests.diagnose.worlds import KINDS, body, tlsa_of
from tests.fakes.ca import Ca
from tests.fakes.check_world import DOMAIN, HOST, NOBODY, CheckWorld
from tests.fakes.https import Behaviour
from tests.fakes.probed_smtp import MxBehaviour, MxManner

NOT_PRODUCED = {
    "check-timeout": "an error of the API: a check that did not end has no findings",
    "policy-json-syntax": "only the daemon reads the form of the draft, with compatibility.draft_2017",
}
"""The findings of the catalogue that no check can have, and the reasons."""
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
    problems = {finding.slug for finding in result.problems}
    assert (" ".join(sorted(problems)), outcomes(result)) == (" ".join(sorted(kind.slugs.split())), kind.outcome)
    others = {finding.slug for finding in result.findings} - problems
    assert others == kind.others
    ours = any(finding.ours for finding in result.findings)
    worst = 2 if result.count(Severity.ERROR) else 75 if ours else 1 if problems else 0
    assert result.exit_code == worst
    for finding in result.findings:
        assert finding.text.isprintable()
        assert finding.remedy or finding.severity is not Severity.ERROR


def test_every_finding_of_the_catalogue_is_produced_by_a_world() -> None:
    produced = frozenset[str]().union(*(kind.all_slugs for kind in KINDS.values()))
    assert produced | NOT_PRODUCED.keys() == CATALOGUE.keys()
    assert not produced & NOT_PRODUCED.keys()


async def test_blocked_port_25_is_not_blamed_on_the_domain(ca: Ca) -> None:
    world = CheckWorld(ca)
    world.addresses(HOST, NOBODY)
    world.put("reference.example", "MX", "1 mx.reference.example.")
    world.put("mx.reference.example", "A", "127.8.8.8")
    world.reference_domains = ("reference.example",)
    async with world:
        result = await world.check()
    assert [finding.slug for finding in result.findings if finding.ours] == ["port25-blocked"]
    assert not result.problems
    assert result.exit_code == 75
    assert outcomes(result) == "???"


async def test_reachable_reference_host_proves_port_25_open(ca: Ca) -> None:
    world = CheckWorld(ca)
    world.addresses(HOST, NOBODY)
    world.put("reference.example", "MX", "1 mx.reference.example.")
    world.put("mx.reference.example", "A", "127.0.0.1")
    world.reference_domains = ("reference.example",)
    async with world:
        result = await world.check()
    assert [finding.slug for finding in result.problems] == ["smtp-connect-refused"]
    assert result.exit_code == 2


async def test_dead_resolver_is_our_failure(ca: Ca) -> None:
    world = CheckWorld(ca)
    world.validates = None
    for name in (f"_mta-sts.{DOMAIN}", f"_smtp._tls.{DOMAIN}"):
        world.misbehave(name, "TXT", "silent")
    world.misbehave(DOMAIN, "MX", "silent")
    world.dns_settings.update(timeout=1.0)
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
    ca: Ca, failure: errors.PolicyFetchError, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable(_policy_domain: str, *, live: bool) -> Any:
        raise failure

    async with CheckWorld(ca) as world:
        monkeypatch.setattr(world.fetcher, "fetch", unavailable)
        result = await world.check()
    assert "policy-not-checked" in [finding.slug for finding in result.findings]
    assert outcomes(result) == "???"


async def test_handshakes_are_left_out_behind_a_proxy(ca: Ca) -> None:
    world = CheckWorld(ca)
    world.reports("v=TLSRPTv1; rua=https://report.example/v1")
    world.put("report.example", "A", NOBODY)
    world.put(f"mta-sts.{DOMAIN}", "A", NOBODY, "127.0.0.1")
    world.handshakes = False
    async with world:
        result = await world.check()
        https = {"proxy": f"{NOBODY}:3128", "ca_file": str(ca.pem), "allow_addresses": ["127.0.0.0/8"]}
        proxied = {"dns": {"resolvers": ["{}:{}".format(*world.dns.address)]}, "https": https}
        checker = DomainChecker(Config.model_validate(proxied), port25=False, https_port=world.https.port)
        evidence = await checker.gather(DOMAIN, lambda _step: None)
        await checker.close()
    assert not result.problems
    assert outcomes(result) == "AAA"
    assert evidence.policy_host.present
    assert evidence.policy_host.endpoints == ()


async def test_unprobed_addresses_of_a_host_that_is_down_leave_the_outcome_unknown(ca: Ca) -> None:
    world = CheckWorld(ca)
    world.addresses(HOST, *(f"127.9.9.{number}" for number in range(1, 6)))
    async with world:
        result = await world.check()
    assert outcomes(result) == "???"


async def test_check_without_port_25_probes_no_host(ca: Ca) -> None:
    world = CheckWorld(ca)
    world.port25 = False
    async with world:
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
