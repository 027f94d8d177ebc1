"""The daemon's resolver and DANE verdicts with a real validating resolver and real signed zones."""

import dns.flags
import dns.rcode
import pytest
from dns.rdatatype import RdataType

from mtasts_daemon.errors import DnsServerFailure
from mtasts_daemon.policy.dane import DnsQuestion, DnsResult
from mtasts_daemon.policy.dns_answer import DnsAnswer, RRType
from mtasts_daemon.policy.precedence import DaneMode, dane_level
from tests.interop.dane.conftest import SUFFIX, Signed
from tests.interop.dane.scenarios import SCENARIOS, UNSIGNED, Scenario

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]


def asked(signed: Signed, name: str, rrtype: RRType) -> DnsResult:
    return signed.world.wait(signed.world.ask(DnsQuestion(name, rrtype)))


@pytest.mark.parametrize(
    ("name", "rrtype", "found"),
    [
        ("", RRType.NS, True),
        (f"dane-ee.{SUFFIX}", RRType.MX, True),
        (f"mx.dane-ee.{SUFFIX}", RRType.A, True),
        (f"_25._tcp.mx.dane-ee.{SUFFIX}", RRType.TLSA, True),
        (f"mx.dane-ee.{SUFFIX}", RRType.AAAA, False),
        (f"nobody.{SUFFIX}", RRType.MX, False),
    ],
)
def test_signed_records_and_signed_absence_are_authenticated(
    signed: Signed, name: str, rrtype: RRType, found: bool
) -> None:
    reply = asked(signed, name, rrtype)
    assert isinstance(reply, DnsAnswer)
    assert (reply.authenticated, bool(reply.records)) == (True, found)


@pytest.mark.parametrize(
    ("name", "rrtype", "found"),
    [
        (f"forged-mx.{UNSIGNED}.{SUFFIX}", RRType.MX, True),
        (f"forged-mx.{UNSIGNED}.{SUFFIX}", RRType.AAAA, False),
        (f"nobody.{UNSIGNED}.{SUFFIX}", RRType.MX, False),
        (f"mx.secure-alias-unsigned-host.{SUFFIX}", RRType.A, True),
    ],
)
def test_unsigned_answer_is_not_authenticated(signed: Signed, name: str, rrtype: RRType, found: bool) -> None:
    reply = asked(signed, name, rrtype)
    assert isinstance(reply, DnsAnswer)
    assert (reply.authenticated, bool(reply.records)) == (False, found)


def test_alias_of_an_unsigned_host_is_authenticated(signed: Signed) -> None:
    reply = asked(signed, f"mx.secure-alias-unsigned-host.{SUFFIX}", RRType.CNAME)
    assert isinstance(reply, DnsAnswer)
    assert reply.authenticated


def test_bogus_answer_is_a_server_failure(signed: Signed) -> None:
    assert isinstance(asked(signed, f"_25._tcp.mx.bogus-tlsa.{SUFFIX}", RRType.TLSA), DnsServerFailure)
    assert signed.servers.ask(f"_25._tcp.mx.bogus-tlsa.{SUFFIX}", RdataType.TLSA).rcode() == dns.rcode.SERVFAIL


def test_another_program_gets_the_same_answers(signed: Signed) -> None:
    said = signed.servers.ask(f"dane-ee.{SUFFIX}", RdataType.MX)
    assert said.flags & dns.flags.AD
    said = signed.servers.ask(f"forged-mx.{UNSIGNED}.{SUFFIX}", RdataType.MX)
    assert not said.flags & dns.flags.AD
    assert said.answer


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_each_scenario_has_the_expected_verdict(signed: Signed, scenario: Scenario) -> None:
    verdict = signed.world.walk(scenario.domain(SUFFIX))
    assert verdict.mx is scenario.mx
    assert tuple(host.status for host in verdict.hosts) == scenario.hosts
    assert dane_level(verdict, scenario.policy, DaneMode.ALWAYS).level is scenario.level
