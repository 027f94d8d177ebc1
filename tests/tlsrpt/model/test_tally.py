"""Sums of events, and folding that loses no count."""

from hypothesis import given
from hypothesis import strategies as st

from mtasts_daemon.tlsrpt.model.event import Failure, Policy, PolicyResult, PolicyType, TlsrptEvent
from mtasts_daemon.tlsrpt.model.tally import Sums, Tally, policy_digest
from tests.tlsrpt.events import DAY, failed, failure, policy, succeeded


def totals(tally: Tally) -> tuple[int, int, int]:
    """Return successful sessions, failed sessions and failures."""
    sums = [sums for policies in tally.domains.values() for sums in policies.values()]
    failures = sum(count for each in sums for count in each.failures.values())
    return sum(each.successful for each in sums), sum(each.failed for each in sums), failures


def test_sessions_add_up_by_policy_domain_and_policy() -> None:
    tally = Tally(DAY)
    tally.add(succeeded(), 3)
    tally.add(succeeded())
    tally.add(failed())
    tally.add(succeeded(number=1))
    tally.add(succeeded("example.net"))
    assert tally.domains == {
        "example.com": {
            policy(): Sums(policy_digest(policy()), 4, 1, {failure(): 1}),
            policy(1): Sums(policy_digest(policy(1)), 1, 0),
        },
        "example.net": {
            policy(0, "example.net"): Sums(policy_digest(policy(0, "example.net")), 1, 0),
        },
    }


def test_successful_session_keeps_its_failures() -> None:
    tally = Tally(DAY)
    tally.add(TlsrptEvent("example.com", "", (PolicyResult(policy(), False, (failure(), failure(), failure(1))),)), 2)
    assert tally.domains["example.com"][policy()].failures == {failure(): 4, failure(1): 2}
    assert totals(tally) == (2, 0, 6)


def test_failure_without_session_does_not_change_session_counts() -> None:
    tally = Tally(DAY)
    tally.add_failure("example.com", policy(), failure(), 5)
    tally.add_failure("example.com", policy(), failure())
    assert totals(tally) == (0, 0, 6)


def test_drop_returns_the_number_of_sessions() -> None:
    tally = Tally(DAY)
    tally.add(succeeded(), 3)
    tally.add(failed(of=1))
    assert tally.drop("example.com") == 4
    assert tally.domains == {}


def test_policies_beyond_the_limit_keep_type_and_counts() -> None:
    tally = Tally(DAY)
    for number in range(5):
        tally.add(failed(number=number, of=number), number + 1)
    tally.fold_policies("example.com", {policy_digest(policy(4))}, room=1)
    kept = tally.domains["example.com"]
    bare = Policy(PolicyType.STS, "example.com")
    assert list(kept) == [policy(0), policy(4), bare]
    assert kept[bare] == Sums(policy_digest(bare), 0, 2 + 3 + 4, {failure(1): 2, failure(2): 3, failure(3): 4})
    assert totals(tally) == (0, 15, 15)


def test_failures_beyond_the_limit_keep_type_and_counts() -> None:
    tally = Tally(DAY)
    for number in range(5):
        tally.add(failed(number=number), number + 1)
    tally.add_failure("example.com", policy(), failure(9, "tlsa-invalid"), 7)
    tally.fold_failures("example.com", {(policy_digest(policy()), failure(4))}, room=1)
    assert tally.domains["example.com"][policy()].failures == {
        failure(0): 1,
        failure(4): 5,
        Failure("certificate-expired"): 2 + 3 + 4,
        Failure("tlsa-invalid"): 7,
    }


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 5))),
    st.integers(-1, 4),
    st.integers(-1, 4),
)
def test_folding_never_changes_a_total(events: list[tuple[int, int, int]], policies: int, failures: int) -> None:
    tally = Tally(DAY)
    tally.add(succeeded())
    for number, of, times in events:
        tally.add(failed(number=number, of=of), times)
    before = totals(tally)
    tally.fold_policies("example.com", set(), policies)
    tally.fold_failures("example.com", set(), failures)
    assert totals(tally) == before
    assert sum(bool(policy.strings) for policy in tally.domains["example.com"]) <= max(0, policies)


def test_only_equal_policies_have_the_same_digest() -> None:
    different = [
        policy(),
        policy(1),
        Policy(PolicyType.TLSA, "example.com"),
        Policy(PolicyType.STS, "example.com"),
        Policy(PolicyType.STS, "example.net"),
        Policy(PolicyType.STS, "example.com", ("a", "b")),
        Policy(PolicyType.STS, "example.com", ("b", "a")),
        Policy(PolicyType.STS, "example.com", ("ab",)),
        Policy(PolicyType.STS, "example.com", ("a",), ("b",)),
        Policy(PolicyType.STS, "example.com", (), ("a", "b")),
        Policy(PolicyType.STS, "example.com", ("",)),
        Policy(PolicyType.STS, "example.com", (), ("",)),
    ]
    assert len({policy_digest(each) for each in different}) == len(different)
    assert policy_digest(policy()) == policy_digest(policy())
