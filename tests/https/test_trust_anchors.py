"""CA certificates: read, missing, changed."""

import shutil
import ssl
from pathlib import Path

import pytest

from mtasts_daemon import errors
from mtasts_daemon.https.trust_anchors import TrustAnchors, client_tls
from tests.fakes.ca import Ca

HOUR = 3600.0


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def other(tmp_path: Path) -> Ca:
    return Ca(tmp_path / "other")


def subjects(context: ssl.SSLContext) -> set[int]:
    """Return the serial numbers of the trusted certificates."""
    return {int(str(certificate["serialNumber"]), 16) for certificate in context.get_ca_certs()}


def test_tls_settings_are_those_of_rfc_8461(ca: Ca) -> None:
    tls = client_tls(ca.pem)
    assert tls.minimum_version is ssl.TLSVersion.TLSv1_2
    assert tls.verify_mode is ssl.CERT_REQUIRED
    assert tls.check_hostname
    assert not tls.hostname_checks_common_name
    assert tls.options & ssl.OP_NO_RENEGOTIATION


def test_changed_ca_file_is_read_again_within_an_hour(ca: Ca, other: Ca, tmp_path: Path) -> None:
    bundle, clock = tmp_path / "bundle.pem", Time()
    shutil.copy(ca.pem, bundle)
    trust = TrustAnchors(bundle, monotonic=clock)
    before = subjects(trust.context())
    shutil.copy(other.pem, bundle)
    assert subjects(trust.context()) == before
    clock.now = HOUR
    after = subjects(trust.context())
    assert after == subjects(client_tls(other.pem))
    assert after != before


def test_unchanged_ca_file_is_not_read_again(ca: Ca) -> None:
    clock = Time()
    trust = TrustAnchors(ca.pem, monotonic=clock)
    before = trust.context()
    clock.now = HOUR
    assert trust.context() is before


@pytest.mark.parametrize("text", [None, "", "damaged"])
def test_unreadable_ca_file_keeps_the_certificates_read_before(ca: Ca, tmp_path: Path, text: str | None) -> None:
    bundle, clock = tmp_path / "bundle.pem", Time()
    shutil.copy(ca.pem, bundle)
    trust = TrustAnchors(bundle, monotonic=clock)
    before = trust.context()
    if text is None:
        bundle.unlink()
    else:
        bundle.write_text(text)
    clock.now = HOUR
    assert trust.context() is before
    shutil.copy(ca.pem, bundle)
    clock.now = 2 * HOUR
    assert subjects(trust.context()) == subjects(before)


def test_host_without_ca_certificates_fetches_nothing_until_there_are_some(
    ca: Ca, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, file = Time(), tmp_path / "cert.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "certs"))
    trust = TrustAnchors(None, monotonic=clock)
    assert trust.missing
    with pytest.raises(errors.CaCertificatesMissing) as caught:
        trust.context()
    assert caught.value.tlsrpt_result is None
    shutil.copy(ca.pem, file)
    clock.now = 60.0
    assert subjects(trust.context()) == subjects(client_tls(ca.pem))
    assert not trust.missing


@pytest.mark.parametrize("text", [None, "", "damaged"])
def test_ca_file_unreadable_from_the_start_trusts_nothing_until_it_can_be_read(
    ca: Ca, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(ca.pem))  # the system's certificates, which must not be used
    bundle, clock = tmp_path / "bundle.pem", Time()
    if text is not None:
        bundle.write_text(text)
    trust = TrustAnchors(bundle, monotonic=clock)
    for _ in range(2):
        with pytest.raises(errors.CaCertificatesMissing, match=r"bundle\.pem") as caught:
            trust.context()
        assert caught.value.slug in errors.OWN_FETCH_SLUGS
        clock.now += 60
    shutil.copy(ca.pem, bundle)
    clock.now += 60
    assert subjects(trust.context()) == subjects(client_tls(ca.pem))


def test_folder_of_hashed_certificates_counts_as_certificates(
    ca: Ca, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    shutil.copy(ca.pem, tmp_path / "0a1b2c3d.0")
    assert not TrustAnchors(None).missing
