"""The text of a published policy and its id."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtasts_daemon.errors import PolicyMxMissing, PolicyMxSyntax
from mtasts_daemon.policy.mtasts import MAX_AGE_LIMIT, Mode, parse_policy, parse_txt
from mtasts_daemon.publish.dns_records import sts_text
from mtasts_daemon.publish.policy_text import PublishedPolicy, make_policy, policy_id

LETTERS = "abcdefghijklmnopqrstuvwxyz"
HOST = st.builds(
    "{}{}.{}".format,
    st.sampled_from(["", "*."]),
    st.text(LETTERS, min_size=1, max_size=9),
    st.text(LETTERS, min_size=2, max_size=5),
)
HOSTS = st.lists(HOST, min_size=1, max_size=5)
MODES = st.sampled_from([Mode.ENFORCE, Mode.TESTING])
AGES = st.integers(0, MAX_AGE_LIMIT)


def test_policy_text_has_the_lines_of_the_rfc_and_crlf() -> None:
    policy = make_policy(Mode.ENFORCE, ["MX2.example.com.", "*.example.net", "mx1.example.com"], 604800.0)
    assert policy.text == (
        b"version: STSv1\r\nmode: enforce\r\nmx: *.example.net\r\nmx: mx1.example.com\r\nmx: mx2.example.com\r\n"
        b"max_age: 604800\r\n"
    )


def test_policy_id_never_changes_over_versions() -> None:
    # Were one of these to change, every published domain would have a new id without a new policy.
    assert make_policy(Mode.ENFORCE, ["mx.example.com"], 604800).id == "36ddd63e6986d7f734bc36b408efe3f7"
    assert make_policy(Mode.NONE, [], 86400).id == "94815eb6141fb6e5526888bf66f98f76"


@given(MODES, HOSTS, AGES)
def test_policy_id_follows_the_rfc_grammar(mode: Mode, hosts: list[str], max_age: int) -> None:
    policy = make_policy(mode, hosts, max_age)
    assert re.fullmatch(r"[A-Za-z0-9]{1,32}", policy.id)
    record = parse_txt([sts_text(policy.id).encode()])
    assert record is not None
    assert record.id == policy.id


@given(MODES, HOSTS, AGES)
def test_policy_text_is_read_back_as_the_same_policy(mode: Mode, hosts: list[str], max_age: int) -> None:
    policy = make_policy(mode, hosts, max_age)
    again = PublishedPolicy.from_text(policy.text)
    assert again.policy == parse_policy(policy.text) == policy.policy
    assert (again.text, again.id) == (policy.text, policy.id)


@given(MODES, HOSTS, AGES, st.randoms(use_true_random=False))
def test_policy_id_does_not_depend_on_order_case_or_repeats(mode: Mode, hosts: list[str], max_age: int, random) -> None:  # type: ignore[no-untyped-def]
    shuffled = [host.upper() for host in hosts] + hosts
    random.shuffle(shuffled)
    assert make_policy(mode, shuffled, max_age).id == make_policy(mode, hosts, max_age).id


@given(MODES, HOSTS, AGES, MODES, HOSTS, AGES)
def test_policy_id_changes_exactly_if_the_policy_does(
    mode: Mode, hosts: list[str], age: int, other_mode: Mode, other_hosts: list[str], other_age: int
) -> None:
    one, two = make_policy(mode, hosts, age), make_policy(other_mode, other_hosts, other_age)
    same = (mode, set(hosts), age) == (other_mode, set(other_hosts), other_age)
    assert (one.id == two.id) == same
    assert (policy_id(one.text) == policy_id(two.text)) == same


def test_policy_without_patterns_is_only_possible_in_mode_none() -> None:
    assert b"mx:" not in make_policy(Mode.NONE, ["mx.example.com"], 60).text
    with pytest.raises(PolicyMxMissing):
        make_policy(Mode.TESTING, [], 60)


@pytest.mark.parametrize(
    "pattern", ["a b", "mx.example.com\r\nmode: none", "*", "*.*.example", "192.0.2.1", "ä.example"]
)
def test_pattern_that_is_no_host_name_is_refused(pattern: str) -> None:
    with pytest.raises(PolicyMxSyntax):
        make_policy(Mode.TESTING, [pattern], 60)


def test_domains_with_equal_settings_share_one_policy() -> None:
    # A reload of 100,000 lines would otherwise make 100,000 policies.
    hosts = ["mx1.example.com", "mx2.example.com"]
    assert make_policy(Mode.ENFORCE, hosts, 86400.0) is make_policy(Mode.ENFORCE, [*hosts], 86400.0)
