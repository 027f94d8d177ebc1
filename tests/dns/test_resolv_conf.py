from pathlib import Path

import pytest

from mtasts_daemon.dns.resolv_conf import LOCAL, ResolvConf


@pytest.mark.parametrize(
    ("text", "resolvers"),
    [
        ("nameserver 192.0.2.53\nnameserver\t2001:db8::53 \n", [("192.0.2.53", 53), ("2001:db8::53", 53)]),
        ("search example.com\noptions edns0 trust-ad\nnameserver fe80::1%eth0", [("fe80::1%eth0", 53)]),
        ("#nameserver 192.0.2.1\n;nameserver 192.0.2.2\nnameserver dns.example\nnameserver\n", [LOCAL]),
        ("", [LOCAL]),
        ("nameserver 192.0.2.1 # the first\n", [("192.0.2.1", 53)]),
        ("\udcff\udcfe\nnameserver 192.0.2.1\n", [("192.0.2.1", 53)]),
        ("nameserver 192.0.2.1\n" * 9, [("192.0.2.1", 53)] * 8),
    ],
)
def test_nameserver_lines_with_addresses_count(tmp_path: Path, text: str, resolvers: list[tuple[str, int]]) -> None:
    path = tmp_path / "resolv.conf"
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert ResolvConf(path).read() == resolvers


def test_it_is_read_again_only_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    watched = ResolvConf(path)
    assert watched.read() == [("192.0.2.1", 53)]
    assert watched.read() is None
    path.write_text("nameserver 192.0.2.11\n")
    assert watched.read() == [("192.0.2.11", 53)]


def test_file_that_is_absent_for_a_while_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    watched = ResolvConf(path)
    assert watched.read() is None
    path.write_text("nameserver 192.0.2.1\n")
    assert watched.read() == [("192.0.2.1", 53)]
    path.unlink()
    assert watched.read() is None
