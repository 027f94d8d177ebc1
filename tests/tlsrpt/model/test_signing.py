"""DKIM signatures checked with an independent verifier, and the key record (RFC 8460 section 3)."""

import base64
import importlib
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from mtasts_daemon.errors import ConfigError
from mtasts_daemon.tlsrpt.model.mail import message
from mtasts_daemon.tlsrpt.model.report import Report
from mtasts_daemon.tlsrpt.model.signing import Key, Signer, load_key
from tests.tlsrpt.reports import BODY, REPORT

dkim: Any = importlib.import_module("dkim")  # it has no type hints

RSA = rsa.generate_private_key(65537, 1024)
ED25519 = ed25519.Ed25519PrivateKey.generate()
NOW = 1_790_000_000.9


def public(key: Key) -> str:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return base64.b64encode(raw).decode()
    found = key.public_key()
    der = found.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()


def record(key: Key, tags: str = "s=tlsrpt; ") -> bytes:
    kind = "ed25519" if isinstance(key, ed25519.Ed25519PrivateKey) else "rsa"
    return f"v=DKIM1; {tags}k={kind}; p={public(key)}".encode()


def pem(key: Key | ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def signer(key: Key) -> Signer:
    return Signer("sender.example", "tlsrpt2026", key)


def mail(report: Report = REPORT, body: bytes = BODY) -> bytes:
    return message(report, body, tag="0" * 20, sender="tlsrpt@sender.example", to="a@example.com", created_at=NOW)


def verifies(signed: bytes, key: Key) -> bool:
    def txt(name: bytes, timeout: float = 5) -> bytes:
        assert name.rstrip(b".") == b"tlsrpt2026._domainkey.sender.example"
        return record(key)

    return bool(dkim.verify(signed, dnsfunc=txt, tlsrpt="strict"))


@pytest.mark.parametrize("key", [RSA, ED25519])
def test_an_independent_verifier_takes_the_signature(key: Key) -> None:
    signed = signer(key).signed(mail(), NOW)
    assert signed.endswith(mail())
    assert verifies(signed, key)


@pytest.mark.parametrize("domain", ["a.example", ".".join(["a" * 60] * 4)])
def test_it_does_so_however_long_names_and_reports_are(domain: str) -> None:
    signed = signer(RSA).signed(mail(Report("2026-09-21", domain, f"{'0' * 32}@{domain}"), BODY * 50), NOW)
    assert verifies(signed, RSA)
    assert signed.isascii()
    assert max(map(len, signed.split(b"\r\n"))) <= 998


@pytest.mark.parametrize(
    "name",
    ["From", "To", "Subject", "Date", "Message-ID", "Content-Type", "TLS-Report-Domain", "TLS-Report-Submitter"],
)
def test_no_field_that_matters_can_be_changed(name: str) -> None:
    signed = signer(RSA).signed(mail(), NOW)
    at = signed.index(f"\r\n{name}: ".encode()) + len(name) + 4
    assert not verifies(signed[:at] + b"x" + signed[at + 1 :], RSA)


def test_no_sender_can_be_added_and_no_report_exchanged() -> None:
    signed = signer(RSA).signed(mail(), NOW)
    assert not verifies(b"From: someone@else.example\r\n" + signed, RSA)
    assert not verifies(signed.replace(b"--=_00", b"--=_01"), RSA)


def test_it_covers_the_whole_body_and_both_fields_of_tlsrpt() -> None:
    field = signer(RSA).signed(mail(), NOW).partition(b"\r\nDate:")[0]
    assert b"l=" not in field.replace(b"tls", b"")
    assert b"tls-report-domain:tls-report-submitter" in field


def test_the_same_moment_makes_the_same_signature() -> None:
    assert signer(RSA).signed(mail(), NOW) == signer(RSA).signed(mail(), NOW)


def test_keys_are_read_from_pem() -> None:
    assert isinstance(load_key(pem(RSA)), rsa.RSAPrivateKey)
    assert isinstance(load_key(pem(ED25519)), ed25519.Ed25519PrivateKey)


@pytest.mark.parametrize(
    "text",
    [b"", b"nonsense", pem(RSA, b"secret"), pem(ec.generate_private_key(ec.SECP256R1())), Path(__file__).read_bytes()],
)
def test_a_key_that_cannot_sign_is_refused(text: bytes) -> None:
    with pytest.raises(ConfigError):
        load_key(text)


@pytest.mark.parametrize("key", [RSA, ED25519])
@pytest.mark.parametrize("tags", ["s=tlsrpt; ", "s=*; ", "", "s=email:tlsrpt; t=s; "])
def test_a_key_record_for_tls_reports_or_for_all_is_good(key: Key, tags: str) -> None:
    assert signer(key).problem([b"v=spf1 -all", record(key, tags)]) is None


@pytest.mark.parametrize(
    ("records", "problem"),
    [
        ([], "no key record"),
        ([b"v=spf1 -all"], "no key record"),
        ([record(RSA), record(RSA)], "2 key records"),
        ([record(RSA, "s=email; ")], "add tlsrpt"),
        ([record(ED25519)], "not a key of type rsa"),
        ([b"v=DKIM1; p="], "revoked"),
        ([b"v=DKIM2; p=" + public(RSA).encode()], "version"),
        ([record(RSA)[:-8] + b"AAAAAAAA"], "another key"),
    ],
)
def test_unacceptable_key_record_is_reported(records: list[bytes], problem: str) -> None:
    assert problem in (signer(RSA).problem(records) or "")
