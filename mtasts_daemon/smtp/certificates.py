"""Certificates as a sender reads them: names, dates, digests, and TLSA matches. Pure: no I/O and no clock."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..policy.dns_answer import TlsaRecord

__all__ = ["LeafCertificate", "names_match", "read_leaf", "tlsa_matches"]

_MAX_NAMES = 200
"""Names of a certificate that are kept."""
_MAX_TEXT = 200


@dataclass(frozen=True, slots=True)
class LeafCertificate:
    """A server certificate. Dates are in seconds since the epoch; ``sha256`` and ``spki_sha256`` are hexadecimal.

    ``names`` are its DNS names (RFC 9525 section 2: the common name does not count), in lower case. ``readable`` is
    False if the certificate could not be parsed; then only ``sha256`` is set.
    """

    sha256: str
    names: tuple[str, ...] = ()
    not_before: float = 0.0
    not_after: float = 0.0
    spki_sha256: str = ""
    subject: str = ""
    issuer: str = ""
    key: str = ""
    readable: bool = True

    def names_host(self, host: str) -> bool:
        """Return True if the certificate is for ``host``."""
        return names_match(self.names, host)


def read_leaf(der: bytes) -> LeafCertificate:
    """Parse the certificate. Never raises."""
    digest = hashlib.sha256(der).hexdigest()
    try:
        return _read(der, digest)
    except Exception:  # the peer wrote the bytes, and cryptography raises many types for them
        return LeafCertificate(digest, readable=False)


def _read(der: bytes, digest: str) -> LeafCertificate:
    # Imported here: loading the library takes longer than most commands run.
    from cryptography import x509

    certificate = x509.load_der_x509_certificate(der)
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = extension.value.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        names = []
    spki = _spki(der)
    return LeafCertificate(
        digest,
        tuple(name.lower() for name in names[:_MAX_NAMES]),
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
        hashlib.sha256(spki).hexdigest() if spki is not None else "",
        certificate.subject.rfc4514_string()[:_MAX_TEXT],
        certificate.issuer.rfc4514_string()[:_MAX_TEXT],
        _key_name(certificate.public_key()),
    )


def _key_name(key: object) -> str:
    """Return the kind of key, such as ``RSA 2048``."""
    kind = type(key).__name__.removesuffix("PublicKey").lstrip("_")
    size = getattr(key, "key_size", None)
    name = {"EllipticCurve": "EC", "EC": "EC"}.get(kind, kind)
    return f"{name} {size}" if size else name


@lru_cache(maxsize=64)
def _spki(der: bytes) -> bytes | None:
    """Return the DER SubjectPublicKeyInfo of a certificate, or None if it cannot be read."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        key = x509.load_der_x509_certificate(der).public_key()
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except Exception:  # as in read_leaf
        return None


def names_match(names: Sequence[str], host: str) -> bool:
    """Return True if one of the certificate's ``names`` is for ``host`` (RFC 9525 section 6.3).

    A wildcard is the whole left-most label, and stands for exactly one label.
    """
    name = host.lower().removesuffix(".")
    parent = name.partition(".")[2]
    return any(offered == name or (bool(parent) and offered == f"*.{parent}") for offered in names)


_DIGESTS = {1: hashlib.sha256, 2: hashlib.sha512}


def tlsa_matches(record: TlsaRecord, der: bytes) -> bool:
    """Return True if ``record`` matches the certificate, by selector and matching type alone (RFC 6698 section 2.1).

    Whether it matches as leaf or as trust anchor, and the chain between them, is for the caller.
    """
    selected = der if record.selector == 0 else _spki(der) if record.selector == 1 else None
    if selected is None:
        return False
    if record.matching_type == 0:
        return selected == record.data
    digest = _DIGESTS.get(record.matching_type)
    return digest is not None and digest(selected).digest() == record.data
