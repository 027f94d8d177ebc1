from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtasts_daemon.config.problems import BadValue
from mtasts_daemon.config.values import Duration, FileMode, Listen, ProbeQuery, ServerAddress, Size, network, path


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("5m", 300),
        ("4h", 14400),
        ("1d12h", 129600),
        ("1w", 604800),
        ("0.1s", 0.1),
        ("1h0.5s", 3600.5),
        ("0s", 0),
    ],
)
def test_duration_has_units(text: str, seconds: float) -> None:
    assert Duration.parse(text) == seconds


@pytest.mark.parametrize(
    "value", [5, 5.5, "5", "", "5 s", "s", "1h1d", "-5s", "5ms", "1e3s", True, None, [], {}, "5s\n"]
)
def test_duration_without_units_is_rejected(value: object) -> None:
    with pytest.raises(BadValue) as caught:
        Duration.parse(value)
    assert caught.value.hint


def test_bare_number_gets_a_hint_with_a_unit() -> None:
    with pytest.raises(BadValue) as caught:
        Duration.parse(300)
    assert (caught.value.message, caught.value.hint) == ("300 has no unit", 'for seconds write "300s"')


@given(st.integers(0, 10**9).map(lambda thousandths: thousandths / 1000))
def test_duration_is_written_as_it_is_read(seconds: float) -> None:
    assert Duration.parse(str(Duration(seconds))) == pytest.approx(seconds, abs=0.0005)


@pytest.mark.parametrize(
    ("text", "size"),
    [("64KiB", 65536), ("64MiB", 64 << 20), ("1GiB", 1 << 30), ("2TiB", 2 << 40), ("0B", 0), ("7B", 7)],
)
def test_size_has_a_unit(text: str, size: int) -> None:
    assert Size.parse(text) == size


@pytest.mark.parametrize("value", [65536, "65536", "64KB", "64K", "1.5GiB", "64 KiB", "", None, True, "٣KiB"])
def test_size_without_a_unit_is_rejected(value: object) -> None:
    with pytest.raises(BadValue) as caught:
        Size.parse(value)
    assert caught.value.hint


@given(st.integers(0, 10**14))
def test_a_size_is_written_as_it_is_read(size: int) -> None:
    assert Size.parse(str(Size(size))) == size


@pytest.mark.parametrize("value", [660, 432, "0o660", "rw", "0980", "1777", True, None])
def test_permissions_are_octal_and_in_quotes(value: object) -> None:
    assert FileMode.parse("0660") == FileMode.parse("660") == 0o660
    with pytest.raises(BadValue):
        FileMode.parse(value)


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("socketmap:inet:127.0.0.1:8461", Listen("socketmap", "127.0.0.1", 8461)),
        ("socketmap:inet:[::1]:8461", Listen("socketmap", "::1", 8461)),
        ("socketmap:inet:localhost:0", Listen("socketmap", "localhost", 0)),
        ("socketmap:unix:/run/x.sock", Listen("socketmap", path="/run/x.sock")),
        ("tcp_table:0.0.0.0:8462", Listen("tcp_table", "0.0.0.0", 8462)),
    ],
)
def test_listener_is_written_as_it_is_read(text: str, listen: Listen) -> None:
    assert Listen.parse(text) == listen
    assert str(listen) == text


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("socketmap:inet:127.0.0.1:8461:postfix", "leave out :postfix"),
        ("socketmap:unix:/run/x.sock:postfix", "leave out the map name"),
        ("socketmap:inet:::1:8461", "in brackets"),
        ("socketmap:inet:[::1]", "[::1]:8461"),
        ("socketmap:inet:[127.0.0.1]:1", "[::1]:8461"),
        ("socketmap:inet:localhost", "127.0.0.1:8461"),
        ("socketmap:inet:*:8461", "0.0.0.0"),
        ("tcp_table::8461", "0.0.0.0"),
        ("tcp_table:localhost:65536", "ports are"),
        ("tcp_table:localhost:smtp", "ports are"),
        ("tcp:127.0.0.1:8461", "socketmap:inet:HOST:PORT"),
        ("127.0.0.1:8461", "socketmap:inet:HOST:PORT"),
        ("socketmap:unix:" + "/x" * 54, "use a shorter path"),
        (8461, "socketmap:inet:127.0.0.1:8461"),
    ],
)
def test_bad_listener_gets_a_hint(value: object, hint: str) -> None:
    with pytest.raises(BadValue) as caught:
        Listen.parse(value)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "text", ["socketmap:inet:300.1.1.1:1", "socketmap:inet:a_b:1", "socketmap:unix:", "socketmap:unix:/x/"]
)
def test_impossible_listener_is_rejected(text: str) -> None:
    with pytest.raises(BadValue):
        Listen.parse(text)


@pytest.mark.parametrize(
    ("text", "resolver"),
    [
        ("127.0.0.1", ServerAddress("127.0.0.1")),
        ("127.0.0.1:5353", ServerAddress("127.0.0.1", 5353)),
        ("::1", ServerAddress("::1")),
        ("[::1]:5353", ServerAddress("::1", 5353)),
    ],
)
def test_resolver_is_written_as_it_is_read(text: str, resolver: ServerAddress) -> None:
    assert ServerAddress.parse(text) == resolver
    assert str(resolver) == text


@pytest.mark.parametrize(
    "value", ["localhost", "127.0.0.1:", "127.0.0.1:0", "[::1", "[::1]53", "[127.0.0.1]:53", "", 53, "1:2"]
)
def test_resolver_with_a_bad_address_is_rejected(value: object) -> None:
    with pytest.raises(BadValue):
        ServerAddress.parse(value)


@pytest.mark.parametrize(
    ("text", "name"), [("ns:.", ""), ("txt:Example.COM", "example.com"), ("mx:_x.example.", "_x.example")]
)
def test_probe_query_is_type_and_name(text: str, name: str) -> None:
    assert ProbeQuery.parse(text).name == name


@pytest.mark.parametrize("value", ["ns", "ns:", ":x", "soa:.", "a:x..y", "a:" + "x" * 64, "a:ü", 5])
def test_impossible_probe_query_is_rejected(value: object) -> None:
    with pytest.raises(BadValue):
        ProbeQuery.parse(value)


def test_network_with_host_bits_is_rejected() -> None:
    assert network("10.0.0.0/8") == ip_network("10.0.0.0/8")
    assert network("2001:db8::1") == ip_network("2001:db8::1/128")
    with pytest.raises(BadValue, match="bits set") as caught:
        network("10.1.2.3/8")
    assert caught.value.hint == 'write "10.0.0.0/8"'
    for value in ("10.0.0.0/33", "example.com", "", 10, None):
        with pytest.raises(BadValue):
            network(value)


def test_path_is_not_expanded() -> None:
    assert str(path("/var/x.sqlite")) == "/var/x.sqlite"
    for value in ("", "~/x", 5, None):
        with pytest.raises(BadValue):
            path(value)
