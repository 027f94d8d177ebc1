"""Any bytes as a lookup key give a next hop that is valid in DNS and in a reply, or a reason."""

import re

from hypothesis import given
from hypothesis import strategies as st

from mtasts_daemon.policy.next_hop import MAX_DOMAIN, NextHop, NoPolicy, parse_key, policy_domain

HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")

pieces = st.one_of(
    st.sampled_from(
        [*"[].:-_/%*{}=, \x00", "com", "example", "xn--", "IPv6:", "192.0.2.1", "::1", "ü", "。", "ß", "\u200d"]
    ),
    st.text(max_size=4),
)
texts = st.one_of(st.text(max_size=80), st.lists(pieces, max_size=12).map("".join))
keys = st.one_of(st.binary(max_size=300), texts.map(lambda text: text.encode("utf-8", "surrogatepass")))
labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
hosts = st.lists(labels, min_size=1, max_size=5).map(lambda found: ".".join([*found, "example"]))


@given(keys)
def test_any_key_gives_a_policy_domain_that_is_safe_or_a_reason(key: bytes) -> None:
    found = parse_key(key)
    if isinstance(found, NextHop):
        assert HOST.fullmatch(found.policy_domain)
        assert len(found.policy_domain) <= MAX_DOMAIN
        assert not found.policy_domain.rpartition(".")[2].isdigit()
        assert found.port is None or (0 < found.port < 65536 and found.service is None)
    else:
        assert isinstance(found, NoPolicy)


@given(keys)
def test_a_policy_domain_is_its_own_key(key: bytes) -> None:
    found = parse_key(key)
    if isinstance(found, NextHop):
        assert parse_key(found.policy_domain.encode()) == NextHop(found.policy_domain)


@given(hosts, st.booleans(), st.none() | st.integers(1, 65535), st.booleans(), st.booleans())
def test_every_host_is_read_back_in_every_form(
    host: str, brackets: bool, port: int | None, dot: bool, upper: bool
) -> None:
    name = (host.upper() if upper else host) + "." * dot
    key = (f"[{name}]" if brackets else name) + ("" if port is None else f":{port}")
    assert parse_key(key.encode()) == NextHop(host, brackets, port)


@given(keys)
def test_a_parent_key_is_never_a_next_hop(key: bytes) -> None:
    assert parse_key(b"." + key) is NoPolicy.PARENT


@given(texts)
def test_an_operators_text_is_a_policy_domain_or_refused_with_a_sentence(text: str) -> None:
    try:
        domain = policy_domain(text)
    except ValueError as error:
        assert type(error) is ValueError
        assert str(error)
    else:
        assert parse_key(domain.encode()) == NextHop(domain)
