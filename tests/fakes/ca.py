"""A temporary certificate authority for HTTPS policy hosts and SMTP servers.

    ca = Ca(folder)                                  # writes folder/ca.pem, the trust anchor
    pem = ca.issue("mta-sts.example.com")            # key and certificate in one file
    pem = ca.issue("mx.example.com", flaw=Flaw.EXPIRED)

A folder that already holds an authority is opened again, so that several processes can share one.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["Ca", "Flaw"]

_DAY = timedelta(days=1)
_YEARS = timedelta(days=3650)


class Flaw(StrEnum):
    """A flaw of a certificate."""

    GOOD = "good"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    WRONG_NAME = "wrong-name"
    CN_ONLY = "cn-only"
    SELF_SIGNED = "self-signed"
    UNTRUSTED = "untrusted"
    EXPIRING = "expiring"
    """Valid for three more days."""
    CRITICAL_EXTENSION = "critical-extension"
    """With a critical extension that nothing knows, so that it must be rejected (RFC 5280 section 4.2)."""


class Ca:
    """An authority with its files in ``folder``: ``ca.pem`` (trust anchor), ``ca-key.pem`` and the issued certificates.

    All certificates share one EC key, because making keys is slow.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.pem = folder / "ca.pem"
        key_file = folder / "ca-key.pem"
        if self.pem.exists() and key_file.exists():
            key = serialization.load_pem_private_key(key_file.read_bytes(), None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            self._key, self._certificate = key, x509.load_pem_x509_certificate(self.pem.read_bytes())
        else:
            self._key = ec.generate_private_key(ec.SECP256R1())
            self._certificate = _authority("Throw-away CA", self._key)
            key_file.write_bytes(_key_pem(self._key))
            self.pem.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())

    def issue(self, name: str, *more_names: str, flaw: Flaw = Flaw.GOOD, expires: datetime | None = None) -> Path:
        """Return a PEM file with the private key and a certificate for the names, with ``flaw`` if given.

        ``expires`` is the end of its life, by default that of ``flaw``.
        """
        pem = self.folder / f"{re.sub(r'[^a-z0-9.-]', '_', name.lower())[:180]}_{flaw}.pem"
        certificate = self._leaf((name, *more_names), flaw, expires)
        pem.write_bytes(_key_pem(self._leaf_key) + certificate.public_bytes(serialization.Encoding.PEM))
        return pem

    def _leaf(self, names: Sequence[str], flaw: Flaw, expires: datetime | None) -> x509.Certificate:
        now = datetime.now(UTC)
        begins, ends = now - _DAY, now + 30 * _DAY
        if flaw is Flaw.EXPIRED:
            begins, ends = now - 30 * _DAY, now - _DAY
        elif flaw is Flaw.NOT_YET_VALID:
            begins, ends = now + _DAY, now + 30 * _DAY
        elif flaw is Flaw.EXPIRING:
            ends = now + 3 * _DAY
        if flaw is Flaw.WRONG_NAME:
            names = ("wrong.invalid",)
        subject = _name(names[0] if flaw is Flaw.CN_ONLY else "a throw-away certificate")
        issuer, signer = self._certificate.subject, self._key
        if flaw is Flaw.SELF_SIGNED:
            issuer, signer = subject, self._leaf_key
        elif flaw is Flaw.UNTRUSTED:
            issuer, signer = _name("Nobody's CA"), ec.generate_private_key(ec.SECP256R1())
        builder = (
            x509.CertificateBuilder(issuer, subject, self._leaf_key.public_key(), x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(expires or ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._leaf_key.public_key()), critical=False)
        )
        if flaw is Flaw.CRITICAL_EXTENSION:
            unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.32473.1"), b"\x05\x00")
            builder = builder.add_extension(unknown, critical=True)
        if flaw is not Flaw.CN_ONLY:
            alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(signer, hashes.SHA256())


def _authority(name: str, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    now = datetime.now(UTC)
    usage = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return (
        x509.CertificateBuilder(_name(name), _name(name), key.public_key(), x509.random_serial_number())
        .not_valid_before(now - _YEARS)
        .not_valid_after(now + _YEARS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _name(common_name: str) -> x509.Name:
    # X.520 caps a common name at 64 characters
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
