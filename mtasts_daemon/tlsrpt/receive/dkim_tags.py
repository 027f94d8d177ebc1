"""The tag lists of DKIM: signatures and key records, RFC 6376 sections 3.5 and 3.6.1, as RFC 8460 section 3 uses them.

They are read here only to decide whether a signature can count for a TLS report. The signature itself is verified by
the DKIM library.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ...policy.next_hop import policy_domain

__all__ = ["KeyRecord", "SignatureTags", "key_problem", "parse_key_record", "parse_signature"]

MAX_KEY_BYTES = 1100
"""Bytes of a public key: RSA of 8192 bits. Verification takes time with the cube of its length."""

_TAG = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_SELECTOR = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9_])?\Z")
_SERVICES = frozenset({"*", "email", "tlsrpt"})


@dataclass(frozen=True, slots=True)
class SignatureTags:
    """A DKIM-Signature field. ``problem`` says why it cannot count; empty text if it can, once verified."""

    domain: str
    selector: str
    problem: str = ""

    @property
    def key_name(self) -> str:
        """The DNS name of the key record."""
        return f"{self.selector}._domainkey.{self.domain}"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key record. ``services`` is the list of s=, ``flags`` that of t=."""

    services: frozenset[str]
    flags: frozenset[str]
    key_bytes: int
    plain: bytes
    """The record without s=, of which the DKIM library does not understand lists."""


def _tags(text: str) -> Mapping[str, str] | None:
    """Return the tags, or None if the list is not valid. Section 3.2: tags must not be repeated."""
    found: dict[str, str] = {}
    for item in text.split(";"):
        if not item.strip():
            continue
        name, equals, value = item.partition("=")
        name = name.strip()
        if not equals or not _TAG.match(name) or name in found:
            return None
        found[name] = value.strip()
    return found


def parse_signature(value: str, now: float) -> SignatureTags | None:
    """Read a DKIM-Signature field. None means that it names no domain and selector."""
    tags = _tags(value[:16384])
    if tags is None:
        return None
    selector = tags.get("s", "")
    try:
        domain = policy_domain(tags.get("d", ""))
    except ValueError:
        return None
    if not _SELECTOR.match(selector):
        return None
    return SignatureTags(domain, selector.lower(), _signature_problem(tags, domain, now))


def _signature_problem(tags: Mapping[str, str], domain: str, now: float) -> str:
    signed = [name.strip().lower() for name in tags.get("h", "").split(":")]
    if "l" in tags:
        return "it covers only a part of the body (l=), which RFC 8460 section 3 forbids"
    if "from" not in signed:
        return "it does not cover From"
    if len(signed) > 200:
        return "it covers too many fields"
    if tags.get("a", "").lower() not in ("rsa-sha256", "ed25519-sha256"):
        # RFC 8301 section 3.1: rsa-sha1 must not be used.
        return "its algorithm is not rsa-sha256 or ed25519-sha256"
    identity = tags.get("i", f"@{domain}").rpartition("@")[2].lower().rstrip(".")
    if identity != domain and not identity.endswith(f".{domain}"):
        return "its identity (i=) is not below its domain (d=)"
    expiry = tags.get("x")
    if expiry is not None and not (expiry.isascii() and expiry.isdigit() and len(expiry) < 13 and int(expiry) >= now):
        return "it has expired (x=)"
    return ""


def parse_key_record(record: bytes) -> KeyRecord | None:
    """Read a key record; None if it is not one of DKIM1 or its key was revoked (empty p=)."""
    try:
        tags = _tags(record.decode("ascii"))
    except UnicodeDecodeError:
        return None
    if tags is None or tags.get("v", "DKIM1") != "DKIM1" or not tags.get("p"):
        return None
    try:
        key = base64.b64decode("".join(tags["p"].split()))
    except (binascii.Error, ValueError):
        return None
    services = frozenset(part.strip().lower() for part in tags.get("s", "*").split(":"))
    flags = frozenset(part.strip().lower() for part in tags.get("t", "").split(":"))
    plain = f"v=DKIM1; k={tags.get('k', 'rsa')}; p={tags['p']}".encode("ascii")
    return KeyRecord(services, flags, len(key), plain)


def key_problem(record: KeyRecord | None) -> str:
    """Say why a signature by this key cannot count for a TLS report; empty text if it can."""
    if record is None:
        return "its key is missing, revoked or not valid"
    if not record.services & _SERVICES:
        return "its key is not for TLS reports or mail (s=, RFC 8460 section 3)"
    if "y" in record.flags:
        # RFC 6376 section 3.6.1: such mail is treated as unsigned.
        return "its key is for testing only (t=y)"
    if record.key_bytes > MAX_KEY_BYTES:
        return "its key is longer than 8192 bits"
    return ""
