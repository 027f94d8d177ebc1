"""The addresses of this host."""

import socket
from ipaddress import ip_address
from pathlib import Path

import pytest

from mtasts_daemon.https import local_addresses
from mtasts_daemon.https.local_addresses import LocalAddresses


def first_address() -> str | None:
    """Return the address that this host uses towards others, or None if it has no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])


@pytest.mark.parametrize("address", ["127.0.0.1", first_address() or "127.0.0.1"])
def test_address_of_this_host_is_found(address: str) -> None:
    assert ip_address(address) in LocalAddresses()()


@pytest.mark.parametrize("address", ["192.0.2.1", "198.51.100.255", "2001:db8::1", "0.0.0.1", "255.255.255.255"])
def test_address_of_another_host_is_not_found(address: str) -> None:
    assert ip_address(address) not in LocalAddresses()()


@pytest.mark.parametrize("value", ["127.0.0.1", 1, None])
def test_value_that_is_no_address_is_not_found(value: object) -> None:
    assert value not in LocalAddresses()()


def test_listed_addresses_belong_to_this_host() -> None:
    own = LocalAddresses()
    listed = list(own)
    assert ip_address("127.0.0.1") in listed
    assert ip_address(first_address() or "127.0.0.1") in listed
    assert all(address in own for address in listed if not address.is_link_local)


def test_malformed_lines_of_the_ipv6_table_are_skipped(tmp_path: Path) -> None:
    table = tmp_path / "if_inet6"
    table.write_bytes(b"\xff\xfe\n20010db8000000000000000000000007 02 40 00 80     eth0\nbogus\n\n")
    listed = [address for address in LocalAddresses(table) if address.version == 6]
    assert listed == [ip_address("2001:db8::7")]
    assert [address for address in LocalAddresses(tmp_path / "none") if address.version == 6] == []


def test_route_is_found_in_either_family(monkeypatch: pytest.MonkeyPatch) -> None:
    # Loopback stands for a reachable address, and a name that is no address for an unreachable one.
    reachable, unreachable = (socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "127.0.0.1")
    monkeypatch.setattr(local_addresses, "_FAR", (unreachable, reachable))
    assert local_addresses.has_route()
    monkeypatch.setattr(local_addresses, "_FAR", (unreachable, unreachable))
    assert not local_addresses.has_route()
