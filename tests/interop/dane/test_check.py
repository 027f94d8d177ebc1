"""``mtastsctl check`` for every state of a signed domain, compared with real Postfix and the daemon."""

import json
from typing import Any

import pytest

from tests.interop.dane.conftest import ZONES, Sender
from tests.interop.dane.scenarios import SCENARIOS, Scenario

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120, func_only=True)]

with_postfix = pytest.mark.parametrize("sender", ["3.7", "3.10"], indirect=True, scope="session")
SUFFIX = ZONES["on"]


def checked(sender: Sender, domain: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sender.daemon.ctl("check", "--json", domain, codes=(0, 1, 2, 75)))
    return found


@with_postfix
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_conclusion_is_what_postfix_with_this_program_does(sender: Sender, scenario: Scenario) -> None:
    domain = scenario.domain(SUFFIX)
    exchangers = sender.signed.exchangers[domain]
    conclusion = next(one for one in checked(sender, domain)["conclusions"] if one["sender"] == "dane-first")
    before = [len(exchanger.messages) for exchanger in exchangers]
    sent = sender.postfix.send(domain)
    took = [at for at, exchanger in enumerate(exchangers) if len(exchanger.messages) > before[at]]
    assert (conclusion["delivery"] == "deferred") is sent.deferred, conclusion
    assert (conclusion["delivery"] in ("authenticated", "unauthenticated")) is sent.delivered, conclusion
    if sent.delivered:
        # The MX record names an alias; the server's greeting has the canonical name.
        places = [host["host"] for host in conclusion["hosts"]]
        assert places.index(conclusion["host"]) == took[0], conclusion
    verified = "Verified TLS connection established to" in scenario.logged
    assert (conclusion["delivery"] == "authenticated") is (verified and sent.delivered), conclusion


@with_postfix
@pytest.mark.parametrize("null_first", [True, False])
def test_null_mx_with_other_mx_records_is_rejected_by_postfix(sender: Sender, null_first: bool) -> None:
    world, domain = sender.signed.world, f"null-{'first' if null_first else 'last'}.{SUFFIX}"
    with world.at_once():
        exchanger = world.exchanger(f"mx.{domain}")
        world.tlsa(exchanger)
        world.publish(domain, "enforce", [exchanger.name])
        world.records(domain, f"MX {0 if null_first else 20} .", f"MX 10 {exchanger.name}.")
    found = checked(sender, domain)
    assert [one["delivery"] for one in found["conclusions"]] == ["unknown", "rejected", "unknown"]
    assert "mx-null-not-alone" in [finding["slug"] for finding in found["findings"]]
    sent = sender.postfix.send(domain)
    assert not (sent.delivered or sent.deferred)
    assert "does not accept mail (nullMX)" in sender.postfix.log
    assert not exchanger.messages
    assert sender.daemon.ctl("explain", "--live", domain).startswith(f"{domain} accepts no mail (null MX)\n")


@pytest.mark.parametrize("sender", ["3.10"], indirect=True, scope="session")
def test_findings_name_the_broken_records(sender: Sender) -> None:
    wanted = {
        "dane-ee": "dane-ok",
        "dane-ta": "dane-ok",
        "dane-ee-mismatch": "dane-mismatch",
        "dane-ta-wrong-name": "dane-mismatch",
        "unusable": "dane-unusable",
        "one-of-two": "dane-partial",
        "bogus-tlsa": "dane-lookup-failed",
        "bogus-mx": "mx-lookup-failed",
        "no-tlsa": "dane-missing",
        "secure-alias": "mx-alias",
    }
    for name, slug in wanted.items():
        found = checked(sender, f"{name}.{SUFFIX}")
        assert slug in [finding["slug"] for finding in found["findings"]], name
        assert found["resolver_validates"] is True


@pytest.mark.parametrize("sender", ["3.10"], indirect=True, scope="session")
def test_selftest_sees_a_validating_resolver(sender: Sender) -> None:
    selftest = json.loads(sender.daemon.ctl("selftest", "--json", codes=(0, 1)))
    results = {result["name"]: result for result in selftest["results"]}
    assert results["resolver"]["good"]
    assert results["DNSSEC"]["good"]
    assert results["port 25"]["good"] is False  # no packet leaves the network of the test
