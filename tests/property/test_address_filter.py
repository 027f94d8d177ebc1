"""Properties of the address filter for any address or text."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from hypothesis import example, given
from hypothesis import strategies as st

from mtasts_daemon.https.address_filter import Address, embedded_ipv4, network_prefix, refusal_reason

EVERYTHING = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
IPV4 = st.ip_addresses(v=4)
IPV6 = st.ip_addresses(v=6)
NOBODY: frozenset[Address] = frozenset()


def within(prefix: str, address: IPv4Address, shift: int = 0) -> IPv6Address:
    return IPv6Address(int(IPv6Address(prefix)) | int(address) << shift)


@given(st.text() | st.ip_addresses().map(str) | st.from_regex(r"[0-9a-f:.%]{1,45}", fullmatch=True))
@example("１.1.1.1")
def test_any_text_is_judged_and_nothing_is_raised(text: str) -> None:
    assert isinstance(refusal_reason(text, (), NOBODY), str | None)


@given(IPV4 | IPV6)
def test_address_that_the_standard_library_calls_special_is_refused(address: Address) -> None:
    end = embedded_ipv4(address)
    if not end.is_global or end.is_multicast or end.is_reserved or end.is_loopback or end.is_unspecified:
        assert refusal_reason(address, (), NOBODY) is not None


@given(IPV6.filter(lambda address: embedded_ipv4(address) == address))
def test_ipv6_address_that_is_not_global_unicast_is_refused(address: IPv6Address) -> None:
    if int(address) >> 125 != 1:
        assert refusal_reason(address, (), NOBODY) is not None


@given(IPV4)
def test_embedded_ipv4_address_is_judged_as_itself(address: IPv4Address) -> None:
    reason = refusal_reason(address, (), NOBODY)
    assert refusal_reason(within("::ffff:0:0", address), (), NOBODY) == reason
    assert refusal_reason(within("64:ff9b::", address), (), NOBODY) == reason
    assert network_prefix(within("64:ff9b::", address)) == network_prefix(address)


@given(IPV4)
def test_every_other_tunnel_is_refused(address: IPv4Address) -> None:
    for tunnel in (
        within("::", address),
        within("2002::", address, 80),
        within("2001::", IPv4Address(int(address) ^ 0xFFFFFFFF)),
        within("64:ff9b:1::", address),
    ):
        assert refusal_reason(tunnel, (), NOBODY) is not None


@given(IPV4 | IPV6)
def test_allowing_everything_allows_everything(address: Address) -> None:
    assert refusal_reason(address, EVERYTHING, frozenset({address})) is None


@given(IPV4 | IPV6)
def test_this_host_is_never_connected_to(address: Address) -> None:
    assert refusal_reason(address, (), frozenset({embedded_ipv4(address)})) is not None
