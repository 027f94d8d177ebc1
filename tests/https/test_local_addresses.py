"""This host's own addresses, from the kernel's tables."""

import socket
from ipaddress import ip_address
from pathlib import Path

from mtasts_daemon.https.local_addresses import OwnAddresses

FIB_TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     |-- 192.0.2.0
        /24 link UNICAST
Local:
  +-- 0.0.0.0/0 3 0 5
     |-- 192.0.2.7
        /32 host LOCAL
     |-- 192.0.2.255
        /32 link BROADCAST
     |-- 198.51.100.9
        /32 host LOCAL
        /32 link UNICAST
     |-- bogus
        /32 host LOCAL
"""
IF_INET6 = """\
20010db8000000000000000000000007 02 40 00 80     eth0
fe80000000000000021122fffe334455 02 40 20 80     eth0
bogus

"""
KNOWN = {ip_address(text) for text in ("192.0.2.7", "198.51.100.9", "2001:db8::7", "fe80::211:22ff:fe33:4455")}


def test_local_addresses_are_read_from_both_tables(tmp_path: Path) -> None:
    (tmp_path / "fib_trie").write_text(FIB_TRIE)
    (tmp_path / "if_inet6").write_text(IF_INET6)
    assert OwnAddresses(tmp_path)() == KNOWN


def test_missing_and_undecodable_tables_are_no_addresses(tmp_path: Path) -> None:
    (tmp_path / "if_inet6").write_bytes(b"\xff\xfe\n" + IF_INET6.encode())
    assert OwnAddresses(tmp_path)() == {address for address in KNOWN if address.version == 6}


def test_the_tables_are_read_again_after_a_minute(tmp_path: Path) -> None:
    now = 1000.0
    own = OwnAddresses(tmp_path, hold=60.0, monotonic=lambda: now)
    assert own() == frozenset()
    (tmp_path / "fib_trie").write_text(FIB_TRIE)
    now = 1059.9
    assert own() == frozenset()
    now = 1060.0
    assert len(own()) == 2


def test_this_very_host_knows_its_loopback_address() -> None:
    if Path("/proc/self/net/fib_trie").exists() and socket.gethostname():
        assert ip_address("127.0.0.1") in OwnAddresses()()
