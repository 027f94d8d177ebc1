"""Every finding of the catalogue is produced: by a fake world in ``test_check``, or by the evidence here."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mtasts_daemon import errors
from mtasts_daemon.diagnose.check.catalogue import CATALOGUE
from mtasts_daemon.diagnose.check.evidence import (
    CheckEvidence,
    CheckFailure,
    EndpointEvidence,
    PolicyHostEvidence,
    RuaEvidence,
    TlsrptEvidence,
    failure_of,
)
from mtasts_daemon.diagnose.check.result import judge
from mtasts_daemon.policy.dane import DaneVerdict, HostStatus, HostVerdict, MxStatus
from mtasts_daemon.policy.dns_answer import DnsAnswer, MxRecord, TlsaRecord
from mtasts_daemon.policy.mtasts import MAX_MX_LINES, Mode, MxPattern, StsPolicy, parse_policy
from mtasts_daemon.policy.next_hop import NextHop
from mtasts_daemon.smtp.chain_verification import ChainProblem
from tests.diagnose.evidences import DOMAIN, HOST, dead_resolver, evidence, session
from tests.diagnose.test_check import KINDS

SHOWN_ELSEWHERE = {
    "check-timeout": "an error of the API, not of a check that ended",
    "policy-json-syntax": "only the daemon reads the form of the draft, with compatibility.draft_2017",
}
DAY = 86400.0
YEAR_LATER = 1.8e9 + 365 * DAY
Change = Callable[[CheckEvidence], CheckEvidence]


def host(**changes: Any) -> Change:
    return lambda seen: replace(seen, hosts=(replace(seen.hosts[0], **changes),))


def host_session(**changes: Any) -> Change:
    return lambda seen: host(sessions=(replace(seen.hosts[0].sessions[0], **changes),))(seen)


def whole(**changes: Any) -> Change:
    return lambda seen: replace(seen, **changes)


def policy(mode: Mode = Mode.ENFORCE, *patterns: str) -> Change:
    made = StsPolicy(mode, tuple(MxPattern(text) for text in (patterns or (HOST,))), 604800)
    return whole(policy_host=PolicyHostEvidence(True, (), b"", made))


def policy_fails(error: errors.MtaStsError) -> Change:
    return whole(policy_host=PolicyHostEvidence(True, failure=failure_of(error)))


def dane(status: HostStatus, *others: HostStatus, records: tuple[TlsaRecord, ...] = ()) -> Change:
    verdicts = tuple(
        HostVerdict(name, 25, one, "test", 60, name, records)
        for name, one in zip((HOST, "mx2.example.com"), (status, *others), strict=False)
    )

    def change(seen: CheckEvidence) -> CheckEvidence:
        hosts = tuple(replace(seen.hosts[0], host=one.host, dane=one) for one in verdicts)
        return replace(seen, dane=DaneVerdict(NextHop(DOMAIN), MxStatus.SECURE, "test", 60, verdicts), hosts=hosts)

    return change


def endpoint_of(at: float) -> Change:
    tls = session(at).tls
    assert tls is not None
    mine = replace(tls, leaf=replace(tls.leaf, names=(f"mta-sts.{DOMAIN}",)))
    made = StsPolicy(Mode.ENFORCE, (MxPattern(HOST),), 604800)
    endpoint = EndpointEvidence(f"mta-sts.{DOMAIN}", "192.0.2.2", 443, tls=mine)
    return whole(policy_host=PolicyHostEvidence(True, (endpoint,), b"", made), at=at)


def too_many_patterns() -> errors.PolicySyntaxError:
    lines = "".join(f"mx: mx{number}.example.com\n" for number in range(MAX_MX_LINES + 1))
    with pytest.raises(errors.PolicySyntaxError) as caught:
        parse_policy(f"version: STSv1\nmode: enforce\n{lines}max_age: 86400\n".encode())
    return caught.value


TLSA = TlsaRecord(3, 1, 1, bytes(32))
REFUSED = session(1.8e9, refused=ChainProblem("certificate-invalid", "unhandled critical extension"))
ALIAS: DnsAnswer[bytes] = DnsAnswer(f"_mta-sts.{DOMAIN}", (b"",), 300, canonical="sts.provider.example")
NULL: DnsAnswer[MxRecord] = DnsAnswer(DOMAIN, (MxRecord(0, ""),), 300)

MADE: dict[str, Change] = {
    "sts-record-ok": whole(),
    "sts-record-missing": lambda seen: replace(seen, sts=replace(seen.sts, record=None)),
    "sts-record-alias": lambda seen: replace(seen, sts=replace(seen.sts, answer=ALIAS)),
    "policy-host-certificate-expires": endpoint_of(YEAR_LATER - 3 * DAY),
    "policy-not-checked": policy_fails(errors.PolicyFetchBusy()),
    "policy-timeout": policy_fails(errors.PolicyTimeout()),
    "webpki-invalid": policy_fails(errors.WebPkiInvalid()),
    "policy-mx-too-many": policy_fails(too_many_patterns()),
    "policy-ok": whole(),
    "policy-mode-testing": policy(Mode.TESTING),
    "policy-mode-none": policy(Mode.NONE),
    "policy-pattern-unused": policy(Mode.ENFORCE, HOST, "old.example.com"),
    "mx-null": lambda seen: replace(seen, mx=replace(seen.mx, answer=NULL, hosts=())),
    "mx-alias": host(alias_of="real.example.com"),
    "mx-more-hosts": whole(hosts_left_out=3),
    "mx-more-addresses": host(addresses_left_out=3),
    "mx-not-probed": host(probed=False, sessions=()),
    "smtp-ok": whole(),
    "smtp-connect-timeout": host_session(problem="smtp-connect-timeout", connected=False, tls=None),
    "smtp-connect-failed": host_session(problem="smtp-connect-failed", connected=False, tls=None),
    "smtp-no-route": host_session(problem="smtp-no-route", connected=False, tls=None),
    "smtp-busy": host_session(problem="smtp-busy", connected=False, tls=None),
    "smtp-too-large": host_session(problem="smtp-too-large", tls=None),
    "certificate-invalid": host(sessions=(REFUSED,)),
    "certificate-expires": whole(at=YEAR_LATER - 3 * DAY),
    "certificate-expires-soon": whole(at=YEAR_LATER - 20 * DAY),
    "requiretls-announced": host_session(offered_tls=("REQUIRETLS",)),
    "dane-ok": dane(HostStatus.USABLE),
    "dane-partial": dane(HostStatus.USABLE, HostStatus.NONE),
    "dane-missing": dane(HostStatus.NONE),
    "dane-not-checked": lambda seen: replace(dane(HostStatus.NONE)(seen), validates=False),
    "dane-next-key": dane(HostStatus.USABLE, records=(TLSA,)),
    "tlsrpt-ok": whole(tlsrpt=TlsrptEvidence(True, (RuaEvidence("mailto:r@example.com"),))),
    "tlsrpt-missing": whole(tlsrpt=TlsrptEvidence()),
    "tlsrpt-lookup-failed": whole(tlsrpt=TlsrptEvidence(failure=CheckFailure("dns-server-failure", "It failed"))),
    "tlsrpt-record-syntax": whole(tlsrpt=TlsrptEvidence(failure=failure_of(errors.TlsrptRecordSyntax()))),
    "dns-unavailable": lambda seen: dead_resolver(seen.at),
    "port25-blocked": whole(port25=False),
    "mx-ipv6-advised": whole(),
}


def test_every_finding_of_the_catalogue_is_produced() -> None:
    produced = {slug for kind in KINDS.values() for slug in kind.slugs.split()}
    assert produced | MADE.keys() | SHOWN_ELSEWHERE.keys() == CATALOGUE.keys()
    assert not SHOWN_ELSEWHERE.keys() & (produced | MADE.keys())


@pytest.mark.parametrize("slug", MADE)
def test_evidence_gives_the_finding(slug: str) -> None:
    result = judge(MADE[slug](evidence()), mine=True)
    (finding, *_) = [finding for finding in result.findings if finding.slug == slug]
    assert finding.text.isprintable()
    # A correct domain has no such finding, except those of severity ok.
    if slug not in ("sts-record-ok", "policy-ok", "smtp-ok", "tlsrpt-ok", "mx-ipv6-advised"):
        assert slug not in [finding.slug for finding in judge(evidence(), mine=True).findings]
