"""The decision for an entry, a zone and an override."""

import pytest

from mtasts_daemon.policy.cache_entry import CacheEntry, FetchFailure, HeldPolicy, TxtCheck
from mtasts_daemon.policy.dane import DaneVerdict, HostStatus, HostVerdict, MxStatus
from mtasts_daemon.policy.decision import (
    Answer,
    Decision,
    Dialect,
    Override,
    Zone,
    decide,
    effective_mode,
    needs_dane,
)
from mtasts_daemon.policy.mtasts import Mode, MxPattern, StsPolicy
from mtasts_daemon.policy.next_hop import NextHop
from mtasts_daemon.policy.precedence import DaneMode

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


def test_live_policy_is_applied_after_failures() -> None:
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


# -- with DANE --------------------------------------------------------------------------------------------


def found(*statuses: HostStatus) -> DaneVerdict:
    hosts = tuple(HostVerdict(f"mx{n}.example.com", 25, status, "", 60) for n, status in enumerate(statuses))
    return DaneVerdict(NextHop("example.com"), MxStatus.SECURE, "mx", 60, hosts)


USABLE, PARTIAL = found(HostStatus.USABLE), found(HostStatus.USABLE, HostStatus.NONE)
UNSIGNED = DaneVerdict(NextHop("example.com"), MxStatus.INSECURE, "mx", 60)


@pytest.mark.parametrize(
    ("mode", "dane", "wanted"),
    [
        (Mode.ENFORCE, DaneMode.ON, True),
        (Mode.TESTING, DaneMode.ON, False),
        (Mode.ENFORCE, DaneMode.OFF, False),
        (Mode.NONE, DaneMode.ALWAYS, True),
    ],
)
def test_a_walk_is_wanted_where_the_policy_would_be_enforced_or_always(
    mode: Mode, dane: DaneMode, wanted: bool
) -> None:
    assert needs_dane(holding(mode), PLAIN._replace(dane=dane), None, NOW) is wanted
    assert needs_dane(CacheEntry("example.com"), PLAIN._replace(dane=dane), None, NOW) is (dane is DaneMode.ALWAYS)


def test_dane_is_demanded_in_place_of_the_policy() -> None:
    zone = PLAIN._replace(dane=DaneMode.ON)
    assert decide(holding(Mode.ENFORCE), zone, None, NOW, USABLE) == Decision(Answer.DANE_ONLY, "dane-usable")
    assert decide(holding(Mode.ENFORCE), zone, None, NOW, UNSIGNED).answer is Answer.SECURE


def test_an_override_stands_above_dane() -> None:
    zone = PLAIN._replace(dane=DaneMode.ALWAYS)
    assert decide(holding(Mode.ENFORCE), zone, Override("r", skip=True), NOW, USABLE).answer is Answer.NONE


@pytest.mark.parametrize("level", [None, "none", "may", "dane"])
def test_without_a_policy_partial_dane_is_asked_for_per_host(level: str | None) -> None:
    zone = PLAIN._replace(dane=DaneMode.ALWAYS, default_level=level)
    assert decide(CacheEntry("example.com"), zone, None, NOW, PARTIAL).answer is Answer.DANE


@pytest.mark.parametrize("level", ["encrypt", "dane-only", "verify", "secure"])
def test_a_level_above_dane_is_never_replaced_by_it(level: str) -> None:
    zone = PLAIN._replace(dane=DaneMode.ALWAYS, default_level=level)
    assert decide(CacheEntry("example.com"), zone, None, NOW, PARTIAL).answer is Answer.NONE
