"""Reading the settings of this host's Postfix."""

from pathlib import Path

import pytest

from mtasts_daemon.postfix.main_cf import main_cf_value, read_main_cf


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", ""),
        ("smtp_dns_support_level = dnssec\n", "dnssec"),
        ("smtp_dns_support_level=dnssec", "dnssec"),
        ("# smtp_dns_support_level = dnssec\n", ""),
        ("smtp_dns_support_level = dnssec\nsmtp_dns_support_level =\n", ""),
        ("smtp_dns_support_level =\n# a comment between\n\n   dnssec\n", "dnssec"),
        ("other = a\n  smtp_dns_support_level = dnssec\n", ""),
        ("smtp_dns_support_level_x = dnssec\n", ""),
        ("smtp_dns_support_level\n", ""),
    ],
)
def test_a_parameter_is_read_as_postfix_reads_it(text: str, value: str) -> None:
    assert main_cf_value(text, "smtp_dns_support_level") == value


def test_unreadable_main_cf_is_none(tmp_path: Path) -> None:
    assert read_main_cf(tmp_path / "main.cf") is None
    assert read_main_cf(tmp_path) is None


def test_at_most_one_mebibyte_of_any_bytes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "main.cf"
    path.write_bytes(b"\xff" + b"x" * 2_000_000)
    text = read_main_cf(path)
    assert text is not None and len(text) == 1 << 20
