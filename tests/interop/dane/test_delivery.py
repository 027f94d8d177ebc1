"""Mail to signed domains: the daemon's discovery, its answer, and the delivery by real Postfix."""

import json
import re
from typing import Any

import pytest

from mtasts_daemon.policy.precedence import DaneLevel
from tests.fakes.ca import Flaw
from tests.interop.dane.conftest import RELAYED, SMART_HOST, ZONES, Sender
from tests.interop.dane.scenarios import SCENARIOS, Scenario
from tests.interop.postfix import eventually

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120, func_only=True)]

each_zone = pytest.mark.parametrize(
    ("sender", "zone"),
    [("3.7", "on"), ("3.7", "always"), ("3.10", "on"), ("3.10", "always"), ("3.10", "QUERYwithTLSRPT")],
    indirect=["sender"],
    scope="session",
)

REPLIES = {
    DaneLevel.DANE_ONLY: r"OK dane-only",
    DaneLevel.DANE: r"OK dane",
    DaneLevel.SECURE: r"OK secure match=\S+ servername=hostname(?P<attributes>.*)",
    DaneLevel.NOTFOUND: r"NOTFOUND ",
}


@each_zone
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_mail_is_delivered_or_deferred_as_rfc_7672_requires(sender: Sender, zone: str, scenario: Scenario) -> None:
    domain = scenario.domain(ZONES[zone])
    sent = sender.postfix.send(domain)

    # Without a policy Postfix itself does DANE, unless the daemon answers for every domain.
    level = scenario.level if scenario.policy or zone == "always" else DaneLevel.NOTFOUND
    reply = re.fullmatch(REPLIES[level], sender.daemon.lookup(domain, zone))
    assert reply
    if level is DaneLevel.SECURE:
        assert reply["attributes"].startswith(" policy_type=sts ") is (zone == "QUERYwithTLSRPT")

    exchangers = sender.signed.exchangers[domain]
    taken = [bool(exchanger.messages) for exchanger in exchangers]
    assert taken == [number == scenario.takes for number in range(len(exchangers))]
    if scenario.takes is None:
        assert sent.deferred
        assert sender.postfix.rests_deferred(sent.queue_id)
    else:
        assert sent.delivered
        assert sender.postfix.leaves_queue(sent.queue_id)
    assert re.search(scenario.said(ZONES[zone]), sender.postfix.log)


@each_zone
def test_no_state_of_dns_causes_an_error_or_a_temporary_reply(sender: Sender, zone: str) -> None:
    replies = {scenario.name: sender.daemon.lookup(scenario.domain(ZONES[zone]), zone) for scenario in SCENARIOS}
    assert [name for name, reply in replies.items() if not reply.startswith(("OK ", "NOTFOUND "))] == []
    expected = "warning: policy-permits-no-mx-host domain=forged-mx.", "warning: mail-deferred "
    assert [line for line in sender.daemon.complaints if not line.startswith(expected)] == []
    # A domain that is deferred because all its MX hosts fail is logged with the reason, and no other is.
    failing = {line for line in sender.daemon.complaints if "reason=dane-all-hosts-failed" in line}
    assert {line.split("domain=")[1].split(".")[0] for line in failing} == {"bogus-tlsa"}
    assert "TLS policy lookup error" not in sender.postfix.log
    assert "client TLS configuration problem" not in sender.postfix.log


@pytest.mark.parametrize("sender", ["3.7", "3.10"], indirect=True, scope="session")
def test_smart_host_uses_its_own_tlsa_records_without_mx_lookup(sender: Sender) -> None:
    world = sender.signed.world
    exchanger = world.exchanger(SMART_HOST, Flaw.SELF_SIGNED)
    world.publish(SMART_HOST, "enforce", [SMART_HOST])
    # A key in brackets has no policy and no MX lookup.
    world.records(SMART_HOST, f"A {exchanger.address[0]}", "MX 10 elsewhere.example.")
    world.tlsa(exchanger)
    assert sender.postfix.send(RELAYED).delivered
    assert f"Verified TLS connection established to {SMART_HOST}[" in sender.postfix.log
    assert sender.daemon.lookup(f"[{SMART_HOST}]", "on") == "OK dane-only"
    # Another port has other TLSA records, here none.
    assert sender.daemon.lookup(f"[{SMART_HOST}]:587", "on").startswith("OK secure ")


@pytest.mark.parametrize("sender", ["3.10"], indirect=True, scope="session")
@pytest.mark.parametrize("published", [True, False])
def test_dane_sessions_are_reported_under_the_tlsa_records(sender: Sender, published: bool) -> None:
    world, domain = sender.signed.world, f"reported-{published}.{ZONES['QUERYwithTLSRPT']}".lower()
    exchanger = world.exchanger(f"mx.{domain}", Flaw.SELF_SIGNED)
    world.send_mail_for(domain, exchanger)
    world.tlsa(exchanger)
    # Without a record, Postfix sends no events.
    world.records(f"_smtp._tls.{domain}", f'TXT "v=TLSRPTv1; rua=mailto:tls@{domain}"')
    if published:
        # DANE takes precedence, also in the report (RFC 8461 section 2).
        world.publish(domain, "enforce", [exchanger.name])
    assert sender.postfix.send(domain).delivered

    def reported(about: str) -> list[Any]:
        report = json.loads(sender.daemon.ctl("tlsrpt", "preview", "--json", "today", about))
        policies: list[Any] = report["policies"]
        return policies

    (of_domain,) = eventually(lambda: reported(domain), "the session")
    policy = of_domain["policy"]
    assert (policy["policy-type"], policy["policy-domain"]) == ("tlsa", exchanger.name)
    (record,) = policy["policy-string"]
    assert re.fullmatch(r"3 1 1 [0-9A-Fa-f]{64}", record)
    assert of_domain["summary"] == {"total-successful-session-count": 1, "total-failure-session-count": 0}
    # The MX host is the policy domain of DANE, and gets a report, too (RFC 8460 section 1.1).
    assert reported(exchanger.name) == [of_domain]


@pytest.mark.parametrize("sender", ["3.10"], indirect=True, scope="session")
def test_null_mx_is_refused_by_postfix(sender: Sender) -> None:
    domain = f"null-mx.{ZONES['on']}"
    sender.signed.world.publish(domain, "enforce", [f"mx.{domain}"])
    sender.signed.world.records(domain, "MX 0 .")
    sent = sender.postfix.send(domain)
    assert not (sent.delivered or sent.deferred)
    assert "does not accept mail (nullMX)" in sender.postfix.log
    assert sender.daemon.lookup(domain, "on").startswith(("OK ", "NOTFOUND "))


@pytest.mark.parametrize("sender", ["3.10"], indirect=True, scope="session")
def test_domain_with_many_mx_hosts_is_delivered_with_dane(sender: Sender) -> None:
    world, domain = sender.signed.world, f"many-hosts.{ZONES['on']}"
    with world.at_once():
        exchangers = [world.exchanger(f"mx{number:02}.{domain}", Flaw.SELF_SIGNED) for number in range(13)]
        world.send_mail_for(domain, *exchangers)
        world.publish(domain, "enforce", [f"*.{domain}"])
        for exchanger in exchangers:
            world.tlsa(exchanger)
    assert sender.postfix.send(domain).delivered
    assert sender.daemon.lookup(domain, "on") == "OK dane-only"
    assert sum(bool(exchanger.messages) for exchanger in exchangers) == 1
