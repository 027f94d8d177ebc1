"""Verify a certificate chain offline, with OpenSSL's own verdict.

The ``ssl`` module verifies in a handshake only. So the chain is put into the first flight of a TLS 1.2 server
(ServerHello and Certificate, RFC 5246 section 7.4), which is not encrypted, and a client reads that flight: OpenSSL
verifies the chain as soon as the Certificate message is complete, and either refuses it or waits for more.
The session that the chain came from is not disturbed, and the verdict is the one that Postfix gets.
"""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import errors
from ..policy.dns_answer import TlsaRecord
from .certificates import names_match, read_leaf, tlsa_matches

__all__ = ["ChainProblem", "ChainVerifier", "dane_problem"]

# X509_V_ERR_* of OpenSSL's x509_vfy.h
_SLUGS = {
    2: "certificate-untrusted",  # unable to get issuer certificate
    9: "certificate-not-yet-valid",
    10: "certificate-expired",
    18: "certificate-self-signed",
    19: "certificate-self-signed",  # the chain's own root, which is not trusted
    20: "certificate-untrusted",  # unable to get local issuer certificate
    21: "certificate-untrusted",  # unable to verify the first certificate
    27: "certificate-untrusted",
}
_MAX_CHAIN = 100_000
_MAX_RECORDS = 50
"""TLSA records that are compared; a domain with more must not cost us seconds."""
_RECORD = 16384
_ECDSA, _RSA = bytes.fromhex("c02b"), bytes.fromhex("c02f")
_RENEGOTIATION_INFO = bytes.fromhex("ff01000100")


@dataclass(frozen=True, slots=True)
class ChainProblem:
    """Why a chain is rejected: a slug, and OpenSSL's message."""

    slug: str
    detail: str


class ChainVerifier:
    """Verifies chains against the system's trust anchors, or those of ``ca_file``.

    Raises ``ConfigError`` if the file cannot be read.
    """

    def __init__(self, ca_file: Path | None = None) -> None:
        self._context = _context()
        if ca_file is None:
            self._context.load_default_certs()
            return
        try:
            self._context.load_verify_locations(ca_file)
        except OSError as error:
            raise errors.ConfigError(f"{ca_file}: {error.strerror or error}") from error

    @property
    def has_authorities(self) -> bool:
        """False if there is no trust anchor, so that every chain would be refused because of this host."""
        if self._context.cert_store_stats()["x509_ca"]:
            return True
        folder = ssl.get_default_verify_paths().capath
        try:
            # OpenSSL reads a folder of hashed names only when it needs one of them.
            return any(entry.name.endswith(".0") for entry in Path(folder or "/nonexistent").iterdir())
        except OSError:
            return False

    def problem(self, chain: Sequence[bytes]) -> ChainProblem | None:
        """Return why the chain (DER, leaf first) is refused, or None. The host name is not checked here."""
        return _verify(self._context, chain)


def dane_problem(records: Sequence[TlsaRecord], chain: Sequence[bytes], names: Sequence[str]) -> str | None:
    """Return why no usable TLSA record authenticates the chain, in a few words, or None if one does.

    ``names`` are the reference identifiers for DANE-TA(2) (RFC 7672 section 3.2.2); DANE-EE(3) checks neither name
    nor dates (section 3.1.1).
    """
    if not chain:
        return "no certificate was sent"
    records = records[:_MAX_RECORDS]
    if any(record.usage == 3 and tlsa_matches(record, chain[0]) for record in records):
        return None
    anchors = [der for record in records if record.usage == 2 for der in _anchors(record, chain)]
    if not anchors:
        return "no TLSA record matches the certificate"
    context = _context()
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=b"".join(dict.fromkeys(anchors)))
    except (ssl.SSLError, ValueError):
        return "the trust anchor of the TLSA record cannot be read"
    refused = _verify(context, chain)
    if refused is not None:
        return f"a TLSA record matches the issuer, but the chain is refused: {refused.detail}"
    leaf = read_leaf(chain[0])
    if not any(names_match(leaf.names, name) for name in names):
        return "a TLSA record matches the issuer, but the certificate is for another name"
    return None


def _anchors(record: TlsaRecord, chain: Sequence[bytes]) -> list[bytes]:
    """Return the certificates that a DANE-TA(2) record makes trust anchors."""
    if record.selector == 0 and record.matching_type == 0:
        return [record.data]
    return [der for der in chain[1:] if tlsa_matches(record, der)]


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def _verify(context: ssl.SSLContext, chain: Sequence[bytes]) -> ChainProblem | None:
    if not chain or not all(chain) or sum(map(len, chain)) > _MAX_CHAIN:
        return ChainProblem("certificate-invalid", "no usable certificate chain")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing)
    incoming.write(_server_flight(chain, outgoing, client))
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return None  # verified, and waiting for the ServerKeyExchange
    except ssl.SSLCertVerificationError as error:
        slug = _SLUGS.get(error.verify_code, "certificate-invalid")
        return ChainProblem(slug, error.verify_message)
    except ssl.SSLError as error:
        if error.reason == "WRONG_CERTIFICATE_TYPE":
            return None  # checked after the chain was verified
        return ChainProblem("certificate-invalid", str(error.reason or "the certificate cannot be read"))
    raise AssertionError("a handshake ended without keys")


def _server_flight(chain: Sequence[bytes], outgoing: ssl.MemoryBIO, client: ssl.SSLObject) -> bytes:
    """Return a ServerHello and a Certificate message, as TLS records."""
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        outgoing.read()  # the ClientHello
    suite = _RSA if read_leaf(chain[0]).key.startswith("RSA") else _ECDSA
    extensions = len(_RENEGOTIATION_INFO).to_bytes(2, "big") + _RENEGOTIATION_INFO
    hello = b"\x03\x03" + bytes(32) + b"\x00" + suite + b"\x00" + extensions
    listed = b"".join(len(der).to_bytes(3, "big") + der for der in chain)
    flight = _message(2, hello) + _message(11, len(listed).to_bytes(3, "big") + listed)
    pieces = (flight[at : at + _RECORD] for at in range(0, len(flight), _RECORD))
    return b"".join(b"\x16\x03\x03" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def _message(kind: int, body: bytes) -> bytes:
    return bytes((kind,)) + len(body).to_bytes(3, "big") + body
