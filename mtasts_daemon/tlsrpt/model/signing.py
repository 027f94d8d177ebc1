"""Sign report mails with DKIM (RFC 6376, RFC 8463), for hosts whose mail server does not sign.

Only messages made by ``mail.message`` are signed: US-ASCII, CR LF, one field of each name, and a body that ends with
one line end. Such messages need little canonicalization. The same key and time give the same bytes, so that a repeated
report is the same mail.
"""

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

from ... import errors

__all__ = ["Signer", "load_key"]

Key = rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

_MIN_RSA = 1024  # RFC 8301 section 3.2: verifiers reject shorter keys

# RFC 8460 section 5.3: the two TLS-Report fields SHOULD be signed. From is signed twice (oversigning), so that a second
# From field breaks the signature.
_SIGNED = (
    *("from", "from", "to", "subject", "date", "message-id", "mime-version", "content-type"),
    *("tls-report-domain", "tls-report-submitter", "tls-required", "auto-submitted"),
)
_BLANKS = re.compile(rb"[ \t]+")


def load_key(pem: bytes) -> Key:
    """Load a private RSA or Ed25519 key in PEM form. Raises ``ConfigError``."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise errors.ConfigError("the DKIM key is not a private key in PEM form, or has a passphrase") from None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if not isinstance(key, rsa.RSAPrivateKey):
        raise errors.ConfigError("the DKIM key is neither RSA nor Ed25519")
    if key.key_size < _MIN_RSA:
        raise errors.ConfigError(f"the DKIM key has {key.key_size} bits; use at least {_MIN_RSA}")
    return key


@dataclass(frozen=True, slots=True)
class Signer:
    """DKIM signer for ``domain`` (d=) with the key of ``selector`` (s=)."""

    domain: str
    selector: str
    key: Key

    @property
    def record_name(self) -> str:
        """Return the DNS name of the public key record."""
        return f"{self.selector}._domainkey.{self.domain}"

    def signed(self, message: bytes, signed_at: float) -> bytes:
        """Return the message with a signature field prepended. It has no ``l=`` (RFC 8460 section 3)."""
        head, _, body = message.partition(b"\r\n\r\n")
        fields = {field.partition(b":")[0].lower(): field for field in re.split(rb"\r\n(?![ \t])", head)}
        body_hash = base64.b64encode(hashlib.sha256(body).digest()).decode("ascii")
        signature = (
            f"DKIM-Signature: v=1; a={self._algorithm}; c=relaxed/simple; d={self.domain};\r\n"
            f" s={self.selector}; t={int(signed_at)};\r\n"
            f" h={':'.join(_SIGNED[:7])}:\r\n {':'.join(_SIGNED[7:])};\r\n bh={body_hash};\r\n b="
        ).encode("ascii")
        covered = []
        for name in _SIGNED:
            # RFC 6376 section 5.4.2: a name without a remaining field covers the absence of further fields
            field = fields.pop(name.encode("ascii"), None)
            if field is not None:
                covered.append(_relaxed(field) + b"\r\n")
        made = base64.b64encode(self._sign(b"".join(covered) + _relaxed(signature)))
        lines = [made[at : at + 72] for at in range(0, len(made), 72)]
        return signature + b"\r\n ".join(lines) + b"\r\n" + message

    def problem(self, records: Iterable[bytes]) -> str | None:
        """Return why the TXT records at ``record_name`` make receivers reject reports; None if they do not."""
        found = [record for record in records if b"p=" in record]
        if len(found) != 1:
            return f"there are {len(found)} key records" if found else "there is no key record"
        tags = _tags(found[0])
        if tags.get("v", "DKIM1") != "DKIM1":
            return "its version is not DKIM1"
        # RFC 8460 section 3: service type tlsrpt; "*" matches all service types
        services = [service.strip() for service in tags.get("s", "*").split(":")]
        if not {"*", "tlsrpt"} & set(services):
            return f"it is for {tags['s'][:80]!a} only: add tlsrpt to its s="
        kind = "ed25519" if isinstance(self.key, ed25519.Ed25519PrivateKey) else "rsa"
        if tags.get("k", "rsa") != kind:
            return f"it is not a key of type {kind}"
        published = re.sub(r"\s", "", tags.get("p", ""))
        if not published:
            return "the key has been revoked"
        return None if published in self._public() else "it is another key"

    @property
    def _algorithm(self) -> str:
        return "ed25519-sha256" if isinstance(self.key, ed25519.Ed25519PrivateKey) else "rsa-sha256"

    def _sign(self, octets: bytes) -> bytes:
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            # RFC 8463 section 3: Ed25519 signs the hash
            return self.key.sign(hashlib.sha256(octets).digest())
        return self.key.sign(octets, padding.PKCS1v15(), hashes.SHA256())

    def _public(self) -> set[str]:
        """Return the forms in which the public key may be published."""
        public = self.key.public_key()
        encoding, forms = serialization.Encoding, serialization.PublicFormat
        if isinstance(public, ed25519.Ed25519PublicKey):
            made = [public.public_bytes(encoding.Raw, forms.Raw)]
        else:
            # RFC 6376 section 3.6.1 and erratum 3017
            made = [public.public_bytes(encoding.DER, form) for form in (forms.SubjectPublicKeyInfo, forms.PKCS1)]
        return {base64.b64encode(octets).decode("ascii") for octets in made}


def _relaxed(field: bytes) -> bytes:
    """Canonicalize a field (RFC 6376 section 3.4.2), without the line end."""
    name, _, value = field.partition(b":")
    return name.strip().lower() + b":" + _BLANKS.sub(b" ", value.replace(b"\r\n", b"")).strip(b" ")


def _tags(record: bytes) -> dict[str, str]:
    pairs = (tag.partition("=") for tag in record[:4096].decode("ascii", "replace").split(";"))
    return {name.strip(): value.strip() for name, _, value in pairs}
