"""What Postfix is told of an entry, a zone and the operator's word."""

import pytest

from mtasts_daemon.policy.decide import Answer, Decision, Dialect, Override, Zone, decide, effective_mode
from mtasts_daemon.policy.entry import CacheEntry, FetchFailure, HeldPolicy, TxtCheck
from mtasts_daemon.policy.sts import Mode, MxPattern, StsPolicy

NOW = 1_800_000_000.0
PLAIN = Zone("postfix")
TLSRPT = Zone("QUERYwithTLSRPT", Dialect.TLSRPT)
LEVEL = Zone("QUERYwithTLSRPT", Dialect.TLSRPT, "dane")


def holding(mode: Mode) -> CacheEntry:
    policy = StsPolicy(mode, (MxPattern("mail.example.com"),), 100)
    return CacheEntry("example.com", HeldPolicy("1", b"", policy, NOW, NOW + 100))


def policy_of(entry: CacheEntry) -> StsPolicy:
    assert entry.held is not None
    return entry.held.policy


@pytest.mark.parametrize("zone", [PLAIN, TLSRPT, LEVEL])
def test_enforce_demands_secure(zone: Zone) -> None:
    entry = holding(Mode.ENFORCE)
    assert decide(entry, zone, None, NOW) == Decision(Answer.SECURE, "mode-enforce", policy_of(entry))


@pytest.mark.parametrize("zone", [PLAIN, TLSRPT, LEVEL])
def test_none_is_as_if_there_were_no_policy(zone: Zone) -> None:
    assert decide(holding(Mode.NONE), zone, None, NOW).answer is Answer.NONE


@pytest.mark.parametrize("zone", [PLAIN, TLSRPT, Zone("x", Dialect.PLAIN, "dane")])
def test_testing_leaves_postfix_its_own_level(zone: Zone) -> None:
    decision = decide(holding(Mode.TESTING), zone, None, NOW)
    assert (decision.answer, decision.reason) == (Answer.NONE, "mode-testing")


def test_testing_is_labelled_where_the_operators_level_is_known() -> None:
    entry = holding(Mode.TESTING)
    assert decide(entry, LEVEL, None, NOW) == Decision(Answer.LEVEL, "mode-testing", policy_of(entry), "dane")


def test_an_expired_policy_demands_nothing() -> None:
    assert decide(holding(Mode.ENFORCE), PLAIN, None, NOW + 101) == Decision(Answer.NONE, "no-policy")


def test_a_live_policy_is_applied_whatever_failed_since() -> None:
    entry = holding(Mode.ENFORCE)
    worse = CacheEntry(
        entry.domain,
        entry.held,
        TxtCheck(NOW, NOW + 60, None, "dns-timeout"),
        FetchFailure("1", NOW, NOW + 300, 9, "p"),
    )
    assert decide(worse, PLAIN, None, NOW).answer is Answer.SECURE


@pytest.mark.parametrize(
    ("txt", "failure", "reason"),
    [
        (None, None, "no-policy"),
        (TxtCheck(NOW, NOW + 60), None, "no-policy"),
        (TxtCheck(NOW, NOW + 60, None, "dns-servfail"), None, "dns-servfail"),
        (TxtCheck(NOW, NOW + 60, "1"), FetchFailure("1", NOW, NOW + 300, 1, "policy-timeout"), "policy-timeout"),
        (TxtCheck(NOW, NOW + 60, "2"), FetchFailure("1", NOW, NOW + 300, 1, "policy-timeout"), "no-policy"),
        (None, FetchFailure("1", NOW, NOW + 300, 1, "policy-timeout"), "no-policy"),
    ],
)
def test_without_a_policy_mail_goes_on_and_the_reason_is_named(
    txt: TxtCheck | None, failure: FetchFailure | None, reason: str
) -> None:
    decision = decide(CacheEntry("example.com", None, txt, failure), PLAIN, None, NOW)
    assert decision == Decision(Answer.NONE, reason)


def test_the_operator_may_skip_a_domain() -> None:
    decision = decide(holding(Mode.ENFORCE), PLAIN, Override("their MX is broken", skip=True), NOW)
    assert decision == Decision(Answer.NONE, "override-skip")


def test_the_operator_may_fix_the_reply() -> None:
    decision = decide(CacheEntry("example.com"), PLAIN, Override("ours", reply="encrypt"), NOW)
    assert decision == Decision(Answer.FIXED, "override-reply", text="encrypt")


def test_the_operator_may_tighten_or_loosen_a_policy_that_names_hosts() -> None:
    loosen, tighten = Override("r", treat_as=Mode.TESTING), Override("r", treat_as=Mode.ENFORCE)
    assert decide(holding(Mode.ENFORCE), PLAIN, loosen, NOW).answer is Answer.NONE
    assert decide(holding(Mode.TESTING), PLAIN, tighten, NOW).answer is Answer.SECURE
    assert effective_mode(policy_of(holding(Mode.NONE)), tighten) is Mode.NONE
    assert effective_mode(policy_of(holding(Mode.TESTING)), Override("r")) is Mode.TESTING
