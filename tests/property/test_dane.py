"""Any DNS answers in any order, also incomplete, give a verdict with a bounded number of questions."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from mtasts_daemon import errors
from mtasts_daemon.policy.dane import (
    ERROR_TTL,
    MAX_HOSTS,
    MAX_QUESTIONS,
    DaneVerdict,
    DnsQuestion,
    DnsResult,
    HostStatus,
    MxStatus,
    Timestamped,
    apply_fallback,
    discover,
)
from mtasts_daemon.policy.dns_answer import DnsAnswer, MxRecord, RRType, TlsaRecord
from mtasts_daemon.policy.next_hop import NextHop
from mtasts_daemon.policy.precedence import DaneLevel, DaneMode, Partial, dane_level

names = st.sampled_from([f"{label}.example" for label in "abcdefghijklmn"] + ["", "x" * 250])
tlsa = st.builds(
    TlsaRecord,
    st.integers(0, 255) | st.sampled_from([2, 3]),
    st.integers(0, 3),
    st.integers(0, 3),
    st.binary(max_size=70) | st.sampled_from([bytes(32), bytes(64)]),
)
record_of: Mapping[RRType, st.SearchStrategy[object]] = {
    RRType.MX: st.builds(MxRecord, st.integers(0, 65535), names),
    RRType.TLSA: tlsa,
}
failures = st.sampled_from(
    [
        errors.DnsTimeout(),
        errors.DnsServerFailure(),
        errors.DnsRefused(),
        errors.DnsMalformed(),
        errors.DnsUnreachable(),
    ]
)
next_hops = st.builds(
    NextHop,
    st.sampled_from(["a.example", "domain.example"]),
    st.booleans(),
    st.none() | st.integers(1, 65535),
    st.none() | st.just("service"),
)


def answer(
    name: str, records: tuple[object, ...], ttl: int, authenticated: bool, exists: bool, canonical: str
) -> DnsAnswer[object]:
    return DnsAnswer(name, records, ttl, authenticated, exists, canonical)


def answers(question: DnsQuestion) -> st.SearchStrategy[DnsAnswer[object]]:
    # Sometimes records of another type: the discovery must check each answer.
    records = record_of.get(question.rrtype, st.just("192.0.2.1")) | tlsa
    most = 20 if question.rrtype is RRType.MX else 3
    return st.builds(
        answer,
        st.just(question.name),
        st.lists(records, max_size=most).map(tuple),
        st.integers(0, 2**31 - 1),
        st.booleans(),
        st.booleans(),
        names,
    )


def play(data: st.DataObject, next_hop: NextHop) -> tuple[DaneVerdict, dict[DnsQuestion, DnsResult]]:
    """Answer open questions in any order until none is left, or stop early."""
    known: dict[DnsQuestion, DnsResult] = {}
    while True:
        found = discover(next_hop, known)
        assert not set(found.questions) & set(known)
        assert len(found.questions) == len(set(found.questions)) <= 2 * MAX_HOSTS
        if not found.questions or data.draw(st.integers(0, 30)) == 0:
            return found.verdict, known
        question = data.draw(st.sampled_from(found.questions))
        known[question] = data.draw(failures | answers(question))
        assert len(known) <= MAX_QUESTIONS


@given(st.data(), next_hops)
def test_any_answers_give_a_verdict_in_a_bounded_number_of_questions(data: st.DataObject, next_hop: NextHop) -> None:
    verdict, known = play(data, next_hop)
    assert len(verdict.hosts) <= MAX_HOSTS
    assert verdict.ttl >= 0
    if any(host.status is HostStatus.ERROR for host in verdict.hosts) or verdict.mx is MxStatus.FAILED:
        assert verdict.ttl <= ERROR_TTL
    for host in verdict.hosts:
        if host.status in (HostStatus.USABLE, HostStatus.UNUSABLE):
            reply = known[DnsQuestion(f"_{host.port}._tcp.{host.tlsa_base}", RRType.TLSA)]
            assert isinstance(reply, DnsAnswer)
            assert reply.authenticated
            assert verdict.mx is MxStatus.SECURE


@given(st.data(), next_hops, st.booleans(), st.sampled_from(DaneMode), st.sampled_from(Partial))
def test_any_verdict_gives_a_level_that_neither_overrides_dane_nor_drops_the_policy(
    data: st.DataObject, next_hop: NextHop, has_policy: bool, mode: DaneMode, partial: Partial
) -> None:
    verdict, _ = play(data, next_hop)
    last, _ = play(data, next_hop)
    hosts = {host.key: Timestamped(host, 5.0) for host in last.cacheable()}
    combined = apply_fallback(verdict, hosts, Timestamped(last, 5.0), data.draw(st.sampled_from([0.0, 5.0, 1e6])))
    level = dane_level(combined, has_policy, mode, partial).level
    # With a policy the level is never below it or DANE; without one, never one that needs a policy.
    assert level in ((DaneLevel.SECURE, DaneLevel.DANE_ONLY) if has_policy else set(DaneLevel) - {DaneLevel.SECURE})
    usable = any(host.status is HostStatus.USABLE for host in combined.hosts)
    if has_policy and usable and mode is not DaneMode.OFF and partial is Partial.DANE_ONLY:
        assert level is DaneLevel.DANE_ONLY


@given(st.data(), next_hops)
def test_an_unsigned_answer_never_brings_dane_about(data: st.DataObject, next_hop: NextHop) -> None:
    known: dict[DnsQuestion, DnsResult] = {}
    while questions := discover(next_hop, known).questions:
        reply = data.draw(answers(questions[0]))
        known[questions[0]] = DnsAnswer(reply.name, reply.records, reply.ttl, False, reply.exists, reply.canonical)
    statuses = {host.status for host in discover(next_hop, known).verdict.hosts}
    assert statuses <= {HostStatus.NONE, HostStatus.ABSENT, HostStatus.ERROR}
