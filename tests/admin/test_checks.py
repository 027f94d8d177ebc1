"""Checks of the running daemon."""

from pathlib import Path

import pytest

from mtasts_daemon.admin.checks import authorities_check, count_authorities, resolver_check
from mtasts_daemon.errors import DnsTimeout
from tests.fakes.ca import Ca


def test_resolver_check_fails_with_the_reason_and_not_without_dnssec() -> None:
    assert [resolver_check(None, validates).ok for validates in (True, False, None)] == [True, True, True]
    found = resolver_check(DnsTimeout("NS ."), True)
    assert not found.ok
    assert found.detail == "No resolver answered in time: NS ."


@pytest.mark.parametrize("folder", ["", "none"], ids=["empty", "missing"])
def test_system_without_ca_certificates_fails_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / folder))
    found = authorities_check(None)
    assert found is not None and not found.ok
    assert found.detail.startswith("no CA certificates in /")
    assert "install the package ca-certificates, or set https.ca_file" in found.detail


def test_missing_ca_certificates_fail_the_check(tmp_path: Path, ca: Ca) -> None:
    assert count_authorities(ca.pem) == (1, str(ca.pem))
    assert authorities_check(ca.pem) is None
    found = authorities_check(tmp_path / "missing.pem")
    assert found is not None and not found.ok
    assert "No such file" in found.detail and "https.ca_file" in found.detail
