"""Each row of the decision table, named by the domain's DNS."""

import pytest

from mtasts_daemon.policy.dane import DaneVerdict, HostStatus, HostVerdict, MxStatus
from mtasts_daemon.policy.next_hop import NextHop
from mtasts_daemon.policy.precedence import DaneChoice, DaneLevel, DaneMode, Partial, auto_mode, dane_level

U, X, N, E, A = HostStatus.USABLE, HostStatus.UNUSABLE, HostStatus.NONE, HostStatus.ERROR, HostStatus.ABSENT
DANE_ONLY, DANE, SECURE, NOTFOUND = DaneLevel.DANE_ONLY, DaneLevel.DANE, DaneLevel.SECURE, DaneLevel.NOTFOUND


def verdict(*statuses: HostStatus, mx: MxStatus = MxStatus.SECURE) -> DaneVerdict:
    hosts = tuple(HostVerdict(f"mx{n}.example.com", 25, status, "", 60) for n, status in enumerate(statuses))
    return DaneVerdict(NextHop("example.com"), mx, "mx", 60, hosts)


def both(found: DaneVerdict | None) -> tuple[DaneLevel, DaneLevel]:
    """The levels with and without an enforce policy, in the mode that walks for every domain."""
    levels = tuple(dane_level(found, has_policy, DaneMode.ALWAYS).level for has_policy in (True, False))
    return levels[0], levels[1]


@pytest.mark.parametrize("statuses", [(N,), (N, N), ()])
def test_an_insecure_mx_rrset_leaves_it_to_the_policy(statuses: tuple[HostStatus, ...]) -> None:
    assert both(verdict(*statuses, mx=MxStatus.INSECURE)) == (SECURE, NOTFOUND)


@pytest.mark.parametrize("statuses", [(U,), (U, U), (U, E), (E, U, E), (U, A)])
def test_usable_hosts_and_perhaps_dead_ones_demand_dane(statuses: tuple[HostStatus, ...]) -> None:
    assert both(verdict(*statuses)) == (DANE_ONLY, DANE_ONLY)


@pytest.mark.parametrize("statuses", [(U, X), (X, U), (U, X, E)])
def test_usable_and_unusable_hosts_demand_dane_or_at_least_tls(statuses: tuple[HostStatus, ...]) -> None:
    assert both(verdict(*statuses)) == (DANE_ONLY, DANE)


@pytest.mark.parametrize("statuses", [(U, N), (N, U), (U, N, E), (U, X, N)])
def test_usable_hosts_among_hosts_without_tlsa_override_neither_dane_nor_the_policy(
    statuses: tuple[HostStatus, ...],
) -> None:
    assert both(verdict(*statuses)) == (DANE_ONLY, DANE)


def test_partial_dane_follows_the_policy_with_dane_partial_secure() -> None:
    found = verdict(U, N)
    assert dane_level(found, True, DaneMode.ON, Partial.SECURE).level is SECURE
    assert dane_level(found, False, DaneMode.ALWAYS, Partial.SECURE).level is DANE


@pytest.mark.parametrize("statuses", [(U,), (U, X), (U, E)])
def test_the_operator_s_departure_touches_no_other_row(statuses: tuple[HostStatus, ...]) -> None:
    assert dane_level(verdict(*statuses), True, DaneMode.ON, Partial.SECURE).level is DANE_ONLY


@pytest.mark.parametrize("statuses", [(X,), (X, E), (X, N), (X, N, E), (X, A)])
def test_unusable_hosts_without_a_usable_one_follow_the_policy_or_demand_tls(
    statuses: tuple[HostStatus, ...],
) -> None:
    assert both(verdict(*statuses)) == (SECURE, DANE)


@pytest.mark.parametrize("statuses", [(N,), (N, N), (N, E), (E, N), (N, A)])
def test_hosts_without_tlsa_follow_the_policy_despite_dead_ones(statuses: tuple[HostStatus, ...]) -> None:
    assert both(verdict(*statuses)) == (SECURE, NOTFOUND)


@pytest.mark.parametrize("statuses", [(E,), (E, E), (E, A)])
def test_failing_hosts_alone_are_left_to_postfix_to_ask_again(statuses: tuple[HostStatus, ...]) -> None:
    assert both(verdict(*statuses)) == (DANE_ONLY, DANE)


def test_a_failed_mx_lookup_follows_the_policy() -> None:
    assert both(verdict(mx=MxStatus.FAILED)) == (SECURE, NOTFOUND)


def test_a_walk_that_was_not_made_follows_the_policy() -> None:
    assert both(None) == (SECURE, NOTFOUND)


@pytest.mark.parametrize("statuses", [(), (A,), (A, A)])
def test_a_domain_without_hosts_follows_the_policy(statuses: tuple[HostStatus, ...]) -> None:
    assert both(verdict(*statuses)) == (SECURE, NOTFOUND)


@pytest.mark.parametrize("has_policy", [True, False])
def test_dane_off_ignores_the_verdict(has_policy: bool) -> None:
    choice = dane_level(verdict(U), has_policy, DaneMode.OFF)
    assert choice == DaneChoice(SECURE if has_policy else NOTFOUND, "dane-off")


@pytest.mark.parametrize("mode", [DaneMode.AUTO, DaneMode.ON])
def test_a_domain_without_an_enforce_policy_is_left_to_postfix(mode: DaneMode) -> None:
    assert dane_level(verdict(U), False, mode) == DaneChoice(NOTFOUND, "dane-left-to-postfix")


@pytest.mark.parametrize("mode", [DaneMode.AUTO, DaneMode.ON, DaneMode.ALWAYS])
def test_usable_hosts_demand_dane_in_every_mode_that_looks(mode: DaneMode) -> None:
    assert dane_level(verdict(U), True, mode) == DaneChoice(DANE_ONLY, "dane-usable")


@pytest.mark.parametrize(
    ("map_name", "support", "mode"),
    [
        ("postfix", "dnssec", DaneMode.ON),
        ("postfix", " DNSSEC ", DaneMode.ON),
        ("QUERY", "", DaneMode.OFF),
        ("QUERY", "enabled", DaneMode.OFF),
        ("QUERY", None, DaneMode.ON),
        ("QUERYwithTLSRPT", None, DaneMode.ON),
        ("postfix", None, DaneMode.OFF),
    ],
)
def test_auto_goes_by_this_hosts_postfix_or_else_by_the_map_name(
    map_name: str, support: str | None, mode: DaneMode
) -> None:
    assert auto_mode(map_name, support) is mode
