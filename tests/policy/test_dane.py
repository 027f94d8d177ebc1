"""DANE discovery (RFC 7672) from given DNS answers."""

import pytest

from mtasts_daemon.errors import DnsError, DnsServerFailure, DnsTimeout
from mtasts_daemon.policy.dane import (
    ERROR_TTL,
    MAX_HOSTS,
    MAX_QUESTIONS,
    STAND_IN_AGE,
    DaneVerdict,
    DnsQuestion,
    DnsResult,
    HostStatus,
    HostVerdict,
    MxStatus,
    Timestamped,
    apply_fallback,
    current_hosts,
    discover,
    mx_hosts,
    unmatched,
    why_unusable,
)
from mtasts_daemon.policy.dns_answer import DnsAnswer, MxRecord, RRType, TlsaRecord
from mtasts_daemon.policy.mtasts import Mode, MxPattern, StsPolicy
from mtasts_daemon.policy.next_hop import NextHop

SPKI_DIGEST = TlsaRecord(3, 1, 1, bytes(32))
PKIX = TlsaRecord(1, 1, 1, bytes(32))
DOMAIN = NextHop("example.com")


class World:
    """DNS answers: all secure unless marked otherwise; other names do not exist."""

    def __init__(self) -> None:
        self.replies: dict[DnsQuestion, DnsResult] = {}
        self.asked: list[DnsQuestion] = []

    def tell(
        self,
        name: str,
        rrtype: RRType,
        *records: object,
        signed: bool = True,
        ttl: int = 3600,
        canonical: str = "",
        exists: bool = True,
    ) -> "World":
        self.replies[DnsQuestion(name, rrtype)] = DnsAnswer(name, records, ttl, signed, exists, canonical)
        return self

    def fail(self, name: str, rrtype: RRType, error: DnsError | None = None) -> "World":
        self.replies[DnsQuestion(name, rrtype)] = error or DnsServerFailure()
        return self

    def mx(self, *hosts: str, signed: bool = True, ttl: int = 3600) -> "World":
        records = (MxRecord(10 * number, host) for number, host in enumerate(hosts, 1))
        return self.tell("example.com", RRType.MX, *records, signed=signed, ttl=ttl)

    def host(self, name: str, *tlsa: TlsaRecord, signed: bool = True, canonical: str = "") -> "World":
        self.tell(name, RRType.A, "192.0.2.1", signed=signed, canonical=canonical)
        if tlsa:
            self.tell(f"_25._tcp.{name}", RRType.TLSA, *tlsa, signed=signed)
        return self

    def answer(self, question: DnsQuestion) -> DnsResult:
        self.asked.append(question)
        return self.replies.get(question, DnsAnswer(question.name, (), 3600, True))

    def walk(self, next_hop: NextHop = DOMAIN) -> DaneVerdict:
        """Return the verdict; questions are answered one at a time, the last first."""
        known: dict[DnsQuestion, DnsResult] = {}
        while questions := discover(next_hop, known).questions:
            assert not set(questions) & set(known)
            known[questions[-1]] = self.answer(questions[-1])
        return discover(next_hop, known).verdict

    def asked_types(self) -> list[RRType]:
        return sorted({question.rrtype for question in self.asked})

    def asked_tlsa(self) -> list[str]:
        return [question.name for question in self.asked if question.rrtype is RRType.TLSA]


def only_host(verdict: DaneVerdict) -> HostVerdict:
    (host,) = verdict.hosts
    return host


def statuses(verdict: DaneVerdict) -> dict[str, HostStatus]:
    return {host.host: host.status for host in verdict.hosts}


# -- the MX RRset ------------------------------------------------------------------------------------------


def test_a_signed_host_with_a_usable_tlsa_record_is_usable() -> None:
    world = World().mx("mx.example.com").host("mx.example.com", SPKI_DIGEST)
    verdict = world.walk()
    assert (verdict.mx, verdict.reason, verdict.left_out) == (MxStatus.SECURE, "mx", 0)
    host = only_host(verdict)
    assert (host.status, host.reason) == (HostStatus.USABLE, "tlsa-usable")
    assert (host.tlsa_base, host.records) == ("mx.example.com", (SPKI_DIGEST,))


def test_nothing_but_mx_is_asked_where_the_mx_rrset_is_unsigned() -> None:
    world = World().mx("mx.example.com", signed=False).host("mx.example.com", SPKI_DIGEST)
    verdict = world.walk()
    assert verdict.mx is MxStatus.INSECURE
    assert world.asked_types() == [RRType.MX]
    assert (only_host(verdict).status, only_host(verdict).reason) == (HostStatus.NONE, "mx-insecure")


def test_hosts_are_taken_in_order_of_preference_and_once_each() -> None:
    world = World().tell(
        "example.com",
        RRType.MX,
        MxRecord(20, "b.example.com"),
        MxRecord(10, "c.example.com"),
        MxRecord(30, "c.example.com"),
        MxRecord(10, "a.example.com"),
    )
    verdict = world.walk()
    assert [host.host for host in verdict.hosts] == ["a.example.com", "c.example.com", "b.example.com"]


@pytest.mark.parametrize("signed", [True, False])
def test_hosts_beyond_the_limit_are_counted_only(signed: bool) -> None:
    names = [f"mx{number:02}.example.com" for number in range(MAX_HOSTS + 3)]
    verdict = World().mx(*names, signed=signed).walk()
    assert [host.host for host in verdict.hosts] == names[:MAX_HOSTS]
    assert verdict.left_out == 3


def test_the_limit_itself_leaves_no_host_out() -> None:
    verdict = World().mx(*(f"mx{number:02}.example.com" for number in range(MAX_HOSTS))).walk()
    assert (len(verdict.hosts), verdict.left_out) == (MAX_HOSTS, 0)


@pytest.mark.parametrize("signed", [True, False])
def test_a_null_mx_leaves_no_host(signed: bool) -> None:
    world = World().tell("example.com", RRType.MX, MxRecord(0, ""), signed=signed)
    verdict = world.walk()
    assert (verdict.reason, verdict.hosts) == ("null-mx", ())
    assert verdict.mx is (MxStatus.SECURE if signed else MxStatus.INSECURE)


@pytest.mark.parametrize("names", [("", "mx.example.com"), ("mx.example.com", "")])
def test_null_mx_among_real_hosts_is_a_reason_and_leaves_the_hosts(names: tuple[str, str]) -> None:
    verdict = World().mx(*names).host("mx.example.com", SPKI_DIGEST).walk()
    assert statuses(verdict) == {"mx.example.com": HostStatus.USABLE}
    assert verdict.reason == "null-mx"


def test_a_domain_that_does_not_exist_has_no_host() -> None:
    verdict = World().tell("example.com", RRType.MX, exists=False).walk()
    assert (verdict.mx, verdict.reason, verdict.hosts) == (MxStatus.SECURE, "no-such-domain", ())


def test_a_failed_mx_lookup_is_not_an_insecure_one() -> None:
    verdict = World().fail("example.com", RRType.MX).walk()
    assert (verdict.mx, verdict.reason, verdict.ttl) == (MxStatus.FAILED, "dns-servfail", ERROR_TTL)


def test_signed_absence_of_mx_makes_the_domain_its_own_host() -> None:
    world = World().tell("example.com", RRType.MX).host("example.com", SPKI_DIGEST)
    verdict = world.walk()
    assert (verdict.mx, verdict.reason) == (MxStatus.SECURE, "implicit-mx")
    assert statuses(verdict) == {"example.com": HostStatus.USABLE}


def test_unsigned_absence_of_mx_asks_for_nothing_more() -> None:
    world = World().tell("example.com", RRType.MX, signed=False).host("example.com", SPKI_DIGEST)
    verdict = world.walk()
    assert (verdict.mx, verdict.reason) == (MxStatus.INSECURE, "implicit-mx")
    assert world.asked_types() == [RRType.MX]


def test_signed_alias_to_an_unsigned_host_may_have_tlsa_of_its_own() -> None:
    world = World().tell("example.com", RRType.MX, signed=False, canonical="host.example.net")
    world.tell("example.com", RRType.A, "192.0.2.1", signed=False, canonical="host.example.net")
    world.tell("example.com", RRType.CNAME, "host.example.net")
    world.tell("_25._tcp.example.com", RRType.TLSA, SPKI_DIGEST)
    assert only_host(world.walk()).tlsa_base == "example.com"


def test_a_domain_that_is_an_alias_to_one_with_signed_mx_is_secure() -> None:
    world = World().tell("example.com", RRType.MX, MxRecord(10, "mx.example.net"), canonical="example.net")
    world.host("mx.example.net", SPKI_DIGEST)
    assert statuses(world.walk()) == {"mx.example.net": HostStatus.USABLE}


# -- other next-hops ---------------------------------------------------------------------------------------


def test_bracketed_host_needs_no_mx_lookup() -> None:
    world = World().host("mail.example.com", SPKI_DIGEST)
    verdict = world.walk(NextHop("mail.example.com", bracketed=True))
    assert (verdict.mx, verdict.reason) == (MxStatus.SECURE, "host")
    assert only_host(verdict).status is HostStatus.USABLE
    assert RRType.MX not in world.asked_types()


@pytest.mark.parametrize("bracketed", [True, False])
def test_tlsa_is_asked_for_at_the_port_of_the_next_hop(bracketed: bool) -> None:
    world = World().mx("mx.example.com").host("mx.example.com").host("example.com")
    only_host(world.walk(NextHop("example.com", bracketed, 587)))
    assert world.asked_tlsa() == ["_587._tcp.example.com" if bracketed else "_587._tcp.mx.example.com"]


def test_unknown_port_fails_without_a_question() -> None:
    found = discover(NextHop("example.com", service="mailq"), {})
    assert (found.questions, found.verdict.mx, found.verdict.reason) == ((), MxStatus.FAILED, "port-unknown")


# -- addresses ---------------------------------------------------------------------------------------------


def test_a_host_without_an_address_is_out() -> None:
    world = World().mx("gone.example.com", "mx.example.com").host("mx.example.com", SPKI_DIGEST)
    assert statuses(world.walk()) == {"gone.example.com": HostStatus.ABSENT, "mx.example.com": HostStatus.USABLE}


@pytest.mark.parametrize(("dead", "live"), [(RRType.A, RRType.AAAA), (RRType.AAAA, RRType.A)])
def test_one_family_that_fails_does_not_matter_where_the_other_has_addresses(dead: RRType, live: RRType) -> None:
    world = World().mx("mx.example.com").tell("mx.example.com", live, "an address").fail("mx.example.com", dead)
    world.tell("_25._tcp.mx.example.com", RRType.TLSA, SPKI_DIGEST)
    assert only_host(world.walk()).status is HostStatus.USABLE


@pytest.mark.parametrize(("dead", "empty"), [(RRType.A, RRType.AAAA), (RRType.AAAA, RRType.A)])
def test_one_family_that_fails_is_an_error_where_the_other_has_no_addresses(dead: RRType, empty: RRType) -> None:
    world = World().mx("mx.example.com").tell("mx.example.com", empty).fail("mx.example.com", dead, DnsTimeout())
    host = only_host(world.walk())
    assert (host.status, host.reason, host.ttl) == (HostStatus.ERROR, "dns-timeout", ERROR_TTL)
    assert host.failed == DnsQuestion("mx.example.com", dead)


def test_no_tlsa_is_asked_for_at_a_host_with_an_unsigned_address() -> None:
    world = World().mx("mx.example.net").host("mx.example.net", SPKI_DIGEST, signed=False)
    host = only_host(world.walk())
    assert (host.status, host.reason) == (HostStatus.NONE, "address-insecure")
    assert world.asked_tlsa() == []


def test_one_signed_family_is_enough_to_ask_for_tlsa() -> None:
    world = World().mx("mx.example.com").host("mx.example.com", SPKI_DIGEST)
    world.tell("mx.example.com", RRType.A, "192.0.2.1", signed=False)
    world.tell("mx.example.com", RRType.AAAA, "2001:db8::1")
    assert only_host(world.walk()).status is HostStatus.USABLE


# -- aliases -----------------------------------------------------------------------------------------------


def test_a_secure_alias_is_asked_about_at_its_end_first() -> None:
    world = World().mx("mx.example.com").host("mx.example.com", SPKI_DIGEST, canonical="host.example.net")
    world.tell("_25._tcp.host.example.net", RRType.TLSA, PKIX)
    host = only_host(world.walk())
    assert (host.status, host.tlsa_base) == (HostStatus.UNUSABLE, "host.example.net")
    assert world.asked_tlsa() == ["_25._tcp.host.example.net"]


def test_same_tlsa_question_of_two_mx_hosts_is_asked_once() -> None:
    known: dict[DnsQuestion, DnsResult] = {
        DnsQuestion("example.com", RRType.MX): DnsAnswer(
            "example.com", (MxRecord(10, "mx1.example.com"), MxRecord(20, "mx2.example.com")), 60, True
        )
    }
    for name in ("mx1.example.com", "mx2.example.com"):
        for rrtype in (RRType.A, RRType.AAAA):
            known[DnsQuestion(name, rrtype)] = DnsAnswer(name, ("192.0.2.1",), 60, True, canonical="mx1.example.com")
    assert discover(DOMAIN, known).questions == (DnsQuestion("_25._tcp.mx1.example.com", RRType.TLSA),)


def test_a_secure_alias_is_asked_about_at_its_own_name_when_its_end_has_no_tlsa() -> None:
    world = World().mx("mx.example.com").host("mx.example.com", SPKI_DIGEST, canonical="host.example.net")
    host = only_host(world.walk())
    assert (host.status, host.tlsa_base) == (HostStatus.USABLE, "mx.example.com")
    assert world.asked_tlsa() == ["_25._tcp.host.example.net", "_25._tcp.mx.example.com"]


def test_failed_tlsa_lookup_of_an_alias_target_is_an_error() -> None:
    world = World().mx("mx.example.com").host("mx.example.com", SPKI_DIGEST, canonical="host.example.net")
    world.fail("_25._tcp.host.example.net", RRType.TLSA)
    assert only_host(world.walk()).status is HostStatus.ERROR
    assert world.asked_tlsa() == ["_25._tcp.host.example.net"]


def insecure_alias() -> World:
    world = World().mx("mx.example.com")
    return world.tell("mx.example.com", RRType.A, "192.0.2.1", signed=False, canonical="host.example.net")


def test_a_signed_alias_to_an_unsigned_host_is_asked_about_at_its_own_name_only() -> None:
    world = insecure_alias().tell("mx.example.com", RRType.CNAME, "host.example.net")
    world.tell("_25._tcp.mx.example.com", RRType.TLSA, SPKI_DIGEST)
    host = only_host(world.walk())
    assert (host.status, host.tlsa_base) == (HostStatus.USABLE, "mx.example.com")
    assert world.asked_tlsa() == ["_25._tcp.mx.example.com"]


def test_an_unsigned_alias_has_no_tlsa() -> None:
    world = insecure_alias().tell("mx.example.com", RRType.CNAME, "host.example.net", signed=False)
    assert only_host(world.walk()).reason == "address-insecure"
    assert world.asked_tlsa() == []


def test_an_alias_whose_cname_lookup_fails_is_an_error() -> None:
    host = only_host(insecure_alias().fail("mx.example.com", RRType.CNAME).walk())
    assert (host.status, host.reason) == (HostStatus.ERROR, "dns-servfail")
    assert host.failed == DnsQuestion("mx.example.com", RRType.CNAME)


def test_an_alias_that_vanished_meanwhile_is_an_error() -> None:
    host = only_host(insecure_alias().tell("mx.example.com", RRType.CNAME).walk())
    assert (host.status, host.reason, host.ttl) == (HostStatus.ERROR, "alias-vanished", ERROR_TTL)


# -- TLSA --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [True, False])
def test_absent_tlsa_is_none_whether_or_not_its_absence_is_signed(signed: bool) -> None:
    world = World().mx("mx.example.com").host("mx.example.com")
    world.tell("_25._tcp.mx.example.com", RRType.TLSA, signed=signed)
    host = only_host(world.walk())
    assert (host.status, host.reason, host.records) == (HostStatus.NONE, "tlsa-absent", ())


def test_unsigned_tlsa_is_none() -> None:
    world = World().mx("mx.example.com").host("mx.example.com")
    world.tell("_25._tcp.mx.example.com", RRType.TLSA, SPKI_DIGEST, signed=False)
    host = only_host(world.walk())
    assert (host.status, host.records) == (HostStatus.NONE, ())


def test_a_bogus_tlsa_answer_is_an_error() -> None:
    world = World().mx("mx.example.com").host("mx.example.com").fail("_25._tcp.mx.example.com", RRType.TLSA)
    host = only_host(world.walk())
    assert (host.status, host.reason, host.ttl) == (HostStatus.ERROR, "dns-servfail", ERROR_TTL)


def test_a_host_whose_tlsa_name_would_be_too_long_has_none_and_is_not_asked_about() -> None:
    long = ".".join(["a" * 61] * 4)
    world = World().mx(long).host(long)
    assert len("_25._tcp." + long) > 253 >= len(long)
    assert only_host(world.walk()).reason == "tlsa-absent"
    assert world.asked_tlsa() == []


def test_one_usable_record_among_unusable_ones_makes_the_host_usable() -> None:
    short = TlsaRecord(3, 1, 1, bytes(31))
    world = World().mx("mx.example.com").host("mx.example.com", PKIX, short, SPKI_DIGEST)
    host = only_host(world.walk())
    assert (host.status, host.records) == (HostStatus.USABLE, (PKIX, short, SPKI_DIGEST))


def test_unusable_records_alone_make_the_host_unusable() -> None:
    host = only_host(World().mx("mx.example.com").host("mx.example.com", PKIX).walk())
    assert (host.status, host.reason, host.tlsa_base) == (HostStatus.UNUSABLE, "tlsa-unusable", "mx.example.com")


@pytest.mark.parametrize("usage", [2, 3])
@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize(
    ("matching_type", "data"),
    [
        (1, bytes(32)),
        (2, bytes(64)),
        (0, b"\x30\x03abc"),
        (0, b"\x30\x81\xc8" + bytes(200)),
        (0, b"\x30\x82\x03\xe8" + bytes(1000)),
        (0, b"\x30\x84\x00\x00\x00\x01a"),
    ],
)
def test_usable_records(usage: int, selector: int, matching_type: int, data: bytes) -> None:
    assert why_unusable(TlsaRecord(usage, selector, matching_type, data)) is None


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (TlsaRecord(0, 1, 1, bytes(32)), "certificate usage 0 is not 2 or 3"),
        (TlsaRecord(1, 1, 1, bytes(32)), "certificate usage 1 is not 2 or 3"),
        (TlsaRecord(4, 1, 1, bytes(32)), "certificate usage 4 is not 2 or 3"),
        (TlsaRecord(255, 1, 1, bytes(32)), "certificate usage 255 is not 2 or 3"),
        (TlsaRecord(3, 2, 1, bytes(32)), "selector 2 is not 0 or 1"),
        (TlsaRecord(3, 1, 3, bytes(32)), "matching type 3 is not 0, 1 or 2"),
        (TlsaRecord(3, 1, 255, bytes(32)), "matching type 255 is not 0, 1 or 2"),
        (TlsaRecord(3, 1, 1, b""), "the digest has 0 octets, not 32"),
        (TlsaRecord(3, 1, 1, bytes(31)), "the digest has 31 octets, not 32"),
        (TlsaRecord(3, 1, 1, bytes(33)), "the digest has 33 octets, not 32"),
        (TlsaRecord(3, 1, 2, bytes(63)), "the digest has 63 octets, not 64"),
        (TlsaRecord(3, 1, 2, bytes(32)), "the digest has 32 octets, not 64"),
    ],
)
def test_unusable_records(record: TlsaRecord, why: str) -> None:
    assert why_unusable(record) == why


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x31\x03abc",  # another tag
        b"\x30\x03ab",  # cut short
        b"\x30\x03abcd",  # something follows
        b"\x30\x80abc\x00\x00",  # no length: BER, not DER
        b"\x30\x82\x03",  # the length itself is cut short
        b"\x30\x85\x00\x00\x00\x00\x01a",  # a length that no record can have
    ],
)
def test_full_data_that_is_no_der_sequence_is_unusable(data: bytes) -> None:
    assert why_unusable(TlsaRecord(3, 0, 0, data)) == "the data is not a complete DER certificate or key"


# -- what is not known yet ---------------------------------------------------------------------------------


def test_the_first_question_is_for_mx_and_nothing_known_is_a_failure() -> None:
    found = discover(DOMAIN, {})
    assert found.questions == (DnsQuestion("example.com", RRType.MX),)
    assert (found.verdict.mx, found.verdict.reason, found.verdict.ttl) == (MxStatus.FAILED, "not-yet-known", 0)


def test_all_hosts_addresses_are_asked_for_at_once() -> None:
    world = World().mx("a.example.com", "b.example.com")
    mx = DnsQuestion("example.com", RRType.MX)
    found = discover(DOMAIN, {mx: world.answer(mx)})
    hosts = ("a.example.com", "b.example.com")
    assert found.questions == tuple(DnsQuestion(host, kind) for host in hosts for kind in (RRType.A, RRType.AAAA))
    assert {host.status for host in found.verdict.hosts} == {HostStatus.ERROR}
    assert {host.reason for host in found.verdict.hosts} == {"not-yet-known"}


def test_a_slow_host_holds_up_no_other() -> None:
    world = World().mx("slow.example.com", "mx.example.com").host("mx.example.com", SPKI_DIGEST)
    known: dict[DnsQuestion, DnsResult] = {}
    while questions := [q for q in discover(DOMAIN, known).questions if q.name != "slow.example.com"]:
        known[questions[0]] = world.answer(questions[0])
    verdict = discover(DOMAIN, known).verdict
    assert statuses(verdict) == {"slow.example.com": HostStatus.ERROR, "mx.example.com": HostStatus.USABLE}
    assert verdict.ttl == 0


def test_a_slow_address_family_holds_up_no_host() -> None:
    world = World().mx("mx.example.com").host("mx.example.com", SPKI_DIGEST)
    known: dict[DnsQuestion, DnsResult] = {}
    while questions := [q for q in discover(DOMAIN, known).questions if q.rrtype is not RRType.AAAA]:
        known[questions[0]] = world.answer(questions[0])
    assert only_host(discover(DOMAIN, known).verdict).status is HostStatus.USABLE


@pytest.mark.parametrize("missing", [RRType.TLSA, RRType.CNAME])
def test_an_answer_that_has_not_come_counts_as_an_error(missing: RRType) -> None:
    world = World().mx("mx.example.com").host("mx.example.com")
    if missing is RRType.CNAME:
        world = insecure_alias()
    known = {
        q: world.answer(q) for q in (DnsQuestion("example.com", RRType.MX), DnsQuestion("mx.example.com", RRType.A))
    }
    host = only_host(discover(DOMAIN, known).verdict)
    assert (host.status, host.reason, host.ttl) == (HostStatus.ERROR, "not-yet-known", 0)
    assert host.failed is not None
    assert host.failed.rrtype is missing


def test_the_longest_walk_asks_no_more_than_the_bound() -> None:
    names = [f"mx{number:02}.example.com" for number in range(MAX_HOSTS + 5)]
    world = World().mx(*names)
    for name in names:
        world.host(name, canonical="end." + name)
    world.walk()
    assert len(world.asked) == MAX_QUESTIONS
    assert len(set(world.asked)) == MAX_QUESTIONS


# -- how long it holds -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rrtype", "records"),
    [
        ("example.com", RRType.MX, (MxRecord(10, "mx.example.com"),)),
        ("mx.example.com", RRType.A, ("192.0.2.1",)),
        ("_25._tcp.host.example.net", RRType.TLSA, ()),
        ("_25._tcp.mx.example.com", RRType.TLSA, (SPKI_DIGEST,)),
    ],
)
def test_the_least_ttl_of_the_path_counts(name: str, rrtype: RRType, records: tuple[object, ...]) -> None:
    world = World().mx("mx.example.com").host("mx.example.com", SPKI_DIGEST, canonical="host.example.net")
    canonical = "host.example.net" if rrtype is RRType.A else ""
    assert world.walk().ttl == 3600
    world.tell(name, rrtype, *records, ttl=7, canonical=canonical)
    assert world.walk().ttl == 7


def test_the_ttl_of_an_alias_own_cname_counts() -> None:
    world = insecure_alias().tell("mx.example.com", RRType.CNAME, "host.example.net", signed=False, ttl=7)
    assert world.walk().ttl == 7


def test_an_absent_host_counts_for_as_long_as_its_absence_holds() -> None:
    world = World().mx("gone.example.com").tell("gone.example.com", RRType.AAAA, ttl=7)
    assert world.walk().ttl == 7


def test_a_failed_host_makes_the_verdict_short_lived() -> None:
    world = World().mx("dead.example.com", "mx.example.com").host("mx.example.com", SPKI_DIGEST)
    world.fail("dead.example.com", RRType.A).fail("dead.example.com", RRType.AAAA)
    assert world.walk().ttl == ERROR_TTL


def test_a_failure_never_makes_a_verdict_live_longer() -> None:
    world = World().mx("mx.example.com", ttl=7).host("mx.example.com").fail("_25._tcp.mx.example.com", RRType.TLSA)
    assert world.walk().ttl == 7


# -- earlier verdicts that stand in ------------------------------------------------------------------------

NOW = 1_000_000.0


def verdict_with(*hosts: HostVerdict, mx: MxStatus = MxStatus.SECURE) -> DaneVerdict:
    return DaneVerdict(DOMAIN, mx, "mx", 60, hosts)


def host_that(status: HostStatus, *, port: int = 25) -> HostVerdict:
    return HostVerdict("mx.example.com", port, status, "reason", 60)


ERROR = host_that(HostStatus.ERROR)
USABLE = host_that(HostStatus.USABLE)


@pytest.mark.parametrize(
    ("age", "stands_in"), [(0, True), (STAND_IN_AGE - 1, True), (STAND_IN_AGE, False), (-1, False)]
)
def test_a_failed_host_is_stood_in_for_by_its_verdict_of_the_last_day(age: float, stands_in: bool) -> None:
    last = {USABLE.key: Timestamped(USABLE, NOW - age)}
    host = only_host(apply_fallback(verdict_with(ERROR), last, None, NOW))
    assert host == (USABLE._replace(since=NOW - age) if stands_in else ERROR)


def test_a_failed_host_that_nothing_is_known_of_stays_failed() -> None:
    assert apply_fallback(verdict_with(ERROR), {}, None, NOW) == verdict_with(ERROR)


def test_a_host_s_verdict_for_another_port_does_not_stand_in() -> None:
    other = host_that(HostStatus.USABLE, port=587)
    assert only_host(apply_fallback(verdict_with(ERROR), {other.key: Timestamped(other, NOW)}, None, NOW)) == ERROR


def test_a_host_that_did_not_fail_is_left_alone() -> None:
    none = host_that(HostStatus.NONE)
    assert only_host(apply_fallback(verdict_with(none), {USABLE.key: Timestamped(USABLE, NOW)}, None, NOW)) == none


def test_a_failed_mx_lookup_is_stood_in_for_by_the_next_hop_s_last_verdict() -> None:
    failed = DaneVerdict(DOMAIN, MxStatus.FAILED, "dns-timeout", ERROR_TTL)
    earlier = Timestamped(verdict_with(USABLE)._replace(ttl=3600), NOW - 5)
    verdict = apply_fallback(failed, {}, earlier, NOW)
    assert (verdict.mx, verdict.hosts, verdict.since) == (MxStatus.SECURE, (USABLE,), NOW - 5)
    assert verdict.ttl == ERROR_TTL


def test_a_failed_mx_lookup_stays_failed_when_the_last_verdict_is_too_old_or_missing() -> None:
    failed = DaneVerdict(DOMAIN, MxStatus.FAILED, "dns-timeout", ERROR_TTL)
    assert apply_fallback(failed, {}, Timestamped(verdict_with(USABLE), NOW - STAND_IN_AGE), NOW) == failed
    assert apply_fallback(failed, {}, None, NOW) == failed


def test_an_mx_lookup_that_succeeds_is_not_replaced_by_an_earlier_one() -> None:
    insecure = verdict_with(mx=MxStatus.INSECURE)
    assert apply_fallback(insecure, {}, Timestamped(verdict_with(USABLE), NOW), NOW) == insecure


def test_failures_absences_and_stand_ins_are_not_remembered() -> None:
    kept = [host_that(status) for status in (HostStatus.USABLE, HostStatus.UNUSABLE, HostStatus.NONE)]
    forgotten = [ERROR, host_that(HostStatus.ABSENT), USABLE._replace(since=NOW)]
    assert list(verdict_with(*kept, *forgotten).cacheable()) == kept


def test_unsigned_domain_gives_no_cacheable_host_verdict() -> None:
    world = World().mx("mx.example.com", signed=False)
    assert only_host(world.walk()).status is HostStatus.NONE
    assert list(world.walk().cacheable()) == []


# -- the MX hosts and the policy ---------------------------------------------------------------------------


def test_the_mx_hosts_are_those_of_the_records_or_the_domain_itself() -> None:
    assert mx_hosts(DnsAnswer("d", (MxRecord(20, "b"), MxRecord(10, "a")), 60), "d") == ("a", "b")
    assert mx_hosts(DnsAnswer("d", (), 60), "d") == ("d",)
    assert mx_hosts(DnsAnswer("d", (), 60, exists=False), "d") == ()
    assert mx_hosts(DnsAnswer("d", (MxRecord(0, ""),), 60), "d") == ()


POLICY = StsPolicy(Mode.ENFORCE, (MxPattern("mx.example.com"), MxPattern("*.example.net")), 86400)


@pytest.mark.parametrize(
    ("policy", "hosts", "expected"),
    [
        (POLICY, ("other.example.com",), True),
        (POLICY, ("other.example.com", "a.b.example.net"), True),
        (POLICY, ("other.example.com", "mx.example.com"), False),
        (POLICY, ("a.example.net",), False),
        (POLICY, (), False),
        (StsPolicy(Mode.NONE, (), 86400), ("mx.example.com",), False),
    ],
)
def test_a_policy_that_permits_none_of_the_mx_hosts_is_unmatched(
    policy: StsPolicy, hosts: tuple[str, ...], expected: bool
) -> None:
    assert unmatched(policy, hosts) is expected


def test_the_hosts_of_a_verdict_are_known_only_when_it_knows_all_of_them() -> None:
    hosts = (HostVerdict("mx.example.com", 25, HostStatus.NONE, "tlsa-absent", 60),)
    verdict = DaneVerdict(NextHop("example.com"), MxStatus.INSECURE, "mx", 60, hosts)
    assert current_hosts(verdict) == ("mx.example.com",)
    assert current_hosts(verdict._replace(left_out=1)) == ()
    assert current_hosts(verdict._replace(mx=MxStatus.FAILED)) == ()
