import pytest

from mtasts_daemon.errors import DnsServerFailure, DnsTimeout
from mtasts_daemon.policy.cache_entry import CacheEntry
from mtasts_daemon.policy.dane import DaneVerdict, HostStatus, HostVerdict, MxStatus
from mtasts_daemon.policy.dns_answer import TlsaRecord
from mtasts_daemon.policy.findings import DaneFinding, Finding, MxHostsFinding, PolicyProblem
from mtasts_daemon.policy.mtasts import parse_policy
from mtasts_daemon.policy.next_hop import NextHop
from mtasts_daemon.tlsrpt.model.event import RESULT_TYPES, Failure, Policy, PolicyType
from mtasts_daemon.tlsrpt.model.own_failures import own_failures
from tests.fakes.store import BODY, policy_entry

DOMAIN = "example.com"
POLICY = parse_policy(BODY)
HELD = Policy(
    PolicyType.STS,
    DOMAIN,
    ("version: STSv1", "mode: enforce", "mx: mx.example.com", "max_age: 604800"),
    ("mx.example.com",),
)
NONE_HELD = Policy(PolicyType.STS, DOMAIN)


def one(finding: Finding) -> tuple[str, Policy, Failure]:
    (found,) = own_failures(finding)
    return found


def none(finding: Finding) -> bool:
    return not list(own_failures(finding))


@pytest.mark.parametrize(
    ("problem", "result_type"),
    [
        ("policy-http-status", "sts-policy-fetch-error"),
        ("policy-timeout", "sts-policy-fetch-error"),
        ("webpki-expired", "sts-webpki-invalid"),
        ("policy-mx-missing", "sts-policy-invalid"),
        ("sts-record-multiple", "sts-policy-invalid"),
    ],
)
def test_policy_that_cannot_be_fetched_is_a_failure_of_the_domain(problem: str, result_type: str) -> None:
    found = one(PolicyProblem(CacheEntry(DOMAIN), problem))
    assert found == (DOMAIN, NONE_HELD, Failure(result_type, reason_code=problem))
    assert result_type in RESULT_TYPES.values()


def test_failure_is_reported_under_the_cached_policy() -> None:
    assert one(PolicyProblem(policy_entry(DOMAIN), "webpki-expired"))[1] == HELD


def test_own_limits_and_unknown_problems_are_not_reported() -> None:
    assert none(PolicyProblem(CacheEntry(DOMAIN), "policy-fetch-busy"))
    assert none(PolicyProblem(CacheEntry(DOMAIN), "dns-timeout"))
    assert none(PolicyProblem(CacheEntry(DOMAIN), "policy-busy-as-of-tomorrow"))


def test_each_mx_host_that_the_policy_does_not_list_is_a_failure_of_its_own() -> None:
    found = list(own_failures(MxHostsFinding(DOMAIN, POLICY, ("mx.example.com", "b.example.net", "a.example.net"))))
    assert [failure.mx_host for _, _, failure in found] == ["b.example.net", "a.example.net"]
    domain, policy, failure = found[0]
    assert (domain, policy) == (DOMAIN, HELD)
    assert (failure.result_type, failure.reason_code) == ("validation-failure", "mtasts-policy-mx-mismatch")
    assert none(MxHostsFinding(DOMAIN, POLICY, ("mx.example.com",)))


def test_number_of_reported_mx_hosts_is_bounded() -> None:
    hosts = tuple(f"mx{number}.example.net" for number in range(500))
    assert len(list(own_failures(MxHostsFinding(DOMAIN, POLICY, hosts)))) == 10


# -- DANE --------------------------------------------------------------------------------------------------

MX = "mx.example.net"
DIGEST = TlsaRecord(1, 1, 1, bytes(32))


def host(status: HostStatus, reason: str, *records: TlsaRecord) -> DaneFinding:
    found = HostVerdict(MX, 25, status, reason, 60, MX if records else None, records)
    return DaneFinding(DaneVerdict(NextHop(DOMAIN), MxStatus.SECURE, "mx", 60, (found,)))


def mx_failed(slug: str) -> DaneFinding:
    return DaneFinding(DaneVerdict(NextHop(DOMAIN), MxStatus.FAILED, slug, 60))


def test_a_bogus_mx_answer_is_a_failure_of_the_domain() -> None:
    found = one(mx_failed(DnsServerFailure.slug))
    assert found == (
        DOMAIN,
        Policy(PolicyType.TLSA, DOMAIN),
        Failure("dnssec-invalid", reason_code="dns-servfail"),
    )
    assert none(mx_failed(DnsTimeout.slug))


def test_a_bogus_answer_about_a_host_is_a_failure_of_that_host() -> None:
    domain, policy, failure = one(host(HostStatus.ERROR, DnsServerFailure.slug))
    assert (domain, policy) == (DOMAIN, Policy(PolicyType.TLSA, MX))
    assert failure == Failure("dnssec-invalid", mx_host=MX, reason_code="dns-servfail")
    assert none(host(HostStatus.ERROR, DnsTimeout.slug))


def test_tlsa_records_of_which_none_is_usable_are_invalid() -> None:
    _, policy, failure = one(host(HostStatus.UNUSABLE, "tlsa-unusable", DIGEST))
    assert policy == Policy(PolicyType.TLSA, MX, (f"1 1 1 {'00' * 32}",))
    assert failure == Failure("tlsa-invalid", mx_host=MX, reason_code="tlsa-unusable")


def test_records_that_openssl_judges_are_left_to_postfix() -> None:
    assert none(host(HostStatus.UNUSABLE, "tlsa-unusable", DIGEST, TlsaRecord(3, 0, 0, b"no certificate")))


@pytest.mark.parametrize("status", [HostStatus.USABLE, HostStatus.NONE, HostStatus.ABSENT])
def test_host_that_postfix_judges_alike_is_not_a_failure(status: HostStatus) -> None:
    assert none(host(status, "as-the-test-demands"))


def test_hosts_of_an_insecure_mx_record_are_not_reported() -> None:
    found = HostVerdict(MX, 25, HostStatus.ERROR, DnsServerFailure.slug, 60)
    assert none(DaneFinding(DaneVerdict(NextHop(DOMAIN), MxStatus.INSECURE, "mx", 60, (found,))))


def test_failures_of_lookups_and_connections_need_a_network_check() -> None:
    problems = ("policy-http-status", "policy-timeout", "policy-connect-failed", "policy-host-lookup-failed")
    found = [failure for slug in problems for failure in own_failures(PolicyProblem(CacheEntry(DOMAIN), slug))]
    found += own_failures(mx_failed("dns-servfail"))
    assert [failure.needs_network_check for failure in found] == [False, True, True, True, True]
