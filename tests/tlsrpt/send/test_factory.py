import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mtasts_daemon.config.sections.tlsrpt import TlsrptSettings
from mtasts_daemon.errors import ConfigError
from mtasts_daemon.tlsrpt.send.factory import SendingLock, delivery_settings


def test_default_settings_send_nothing() -> None:
    settings = delivery_settings(TlsrptSettings(), {})
    assert not settings.may_send
    assert (settings.smtp.host, settings.smtp.port, settings.smtp.user, settings.signer) == ("127.0.0.1", 25, "", None)


def test_settings_are_taken_from_the_configuration() -> None:
    configured = TlsrptSettings(
        organization="Example Ltd", contact="a@example.com", sender="b@example.com", exclude=("x.example",), max_rua=2
    )
    settings = delivery_settings(configured, {})
    assert settings.may_send
    assert settings.reporter.submitter == "example.com"
    assert (settings.exclude, settings.max_rua, settings.retry_for) == (frozenset({"x.example"}), 2, 86400)


def test_secrets_are_read_from_their_files(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for name, octets in (("password", b"s3cret \n"), ("key", key)):
        (tmp_path / name).write_bytes(octets)
        (tmp_path / name).chmod(0o600)
    dkim = {"domain": "example.com", "selector": "s1", "key_file": "key"}
    configured = TlsrptSettings.model_validate({"smtp_user": "me", "smtp_password_file": "password", "dkim": dkim})
    settings = delivery_settings(configured, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert (settings.smtp.user, settings.smtp.password) == ("me", "s3cret ")
    assert settings.signer is not None
    assert settings.signer.record_name == "s1._domainkey.example.com"


@pytest.mark.parametrize(("octets", "mode"), [(b"\xff\xfe", 0o600), (b"secret", 0o604), (b"", 0o600)])
def test_unusable_password_raises_config_error(tmp_path: Path, octets: bytes, mode: int) -> None:
    (tmp_path / "password").write_bytes(octets)
    (tmp_path / "password").chmod(mode)
    with pytest.raises(ConfigError):
        delivery_settings(TlsrptSettings(smtp_user="me", smtp_password_file=tmp_path / "password"), {})


def test_signing_without_the_extra_raises_config_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mtasts_daemon.tlsrpt.model.signing", None)
    dkim = {"domain": "example.com", "selector": "s1", "key_file": str(tmp_path / "key")}
    with pytest.raises(ConfigError, match=r"pip install 'mtasts-daemon\[dkim\]'"):
        delivery_settings(TlsrptSettings.model_validate({"dkim": dkim}), {})


def test_only_one_process_holds_the_sending_lock(tmp_path: Path) -> None:
    first, second = SendingLock(tmp_path / "x.sqlite"), SendingLock(tmp_path / "x.sqlite")
    assert first.take()
    assert not second.take()
    first.close()
    assert second.take()
    second.close()
    assert not second.take()
