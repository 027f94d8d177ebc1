"""DKIM signatures of report mails, verified with dkimpy and with key records from our own resolver."""

import asyncio
import base64
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ...errors import DnsError
from .authentication import SenderClaims, SignatureCheck, SignatureStatus
from .dkim_tags import SignatureTags, key_problem, parse_key_record, parse_signature

__all__ = ["LookupTxt", "dkim_available", "fetch_keys", "relevant_signatures", "verify_signatures"]

LookupTxt = Callable[[str], Awaitable[Sequence[bytes]]]
"""Look up TXT records; raises ``DnsError``. No records: an empty sequence."""

_MAX_SIGNATURES = 5
_MAX_EXPONENT_BITS = 33
_MAX_MODULUS_BITS = 8192
_MAX_SPACE_WORK = 100_000_000
"""Steps for runs of blanks: the library's pattern for trailing blanks takes the square of each run's length."""

_BLANKS = re.compile(rb"[ \t]{16,}")
_logger = logging.getLogger("mtasts_daemon.dkimpy")
_logger.propagate = False
_logger.addHandler(logging.NullHandler())


def dkim_available() -> bool:
    """Return True if the DKIM library is installed."""
    try:
        import dkim  # type: ignore[import-untyped]  # noqa: F401
    except ImportError:
        return False
    return True


def relevant_signatures(fields: Sequence[str], claims: SenderClaims, now: float) -> list[tuple[int, SignatureTags]]:
    """Return the signatures that can matter, with their positions among all DKIM-Signature fields.

    A signature of an unrelated domain proves nothing about a report, so its key is not even looked up.
    """
    found: list[tuple[int, SignatureTags]] = []
    for position, field in enumerate(fields[:100]):
        tags = parse_signature(field, now)
        if tags is not None and any(_may_align(tags.domain, claim) for claim in claims.senders):
            found.append((position, tags))
    return found[:_MAX_SIGNATURES]


def _may_align(domain: str, claim: str) -> bool:
    return bool(claim) and (domain == claim or domain.endswith(f".{claim}") or claim.endswith(f".{domain}"))


Keys = Mapping[str, bytes | DnsError | None]
"""Key records by DNS name; None: there is none."""


async def fetch_keys(signatures: Sequence[tuple[int, SignatureTags]], lookup: LookupTxt) -> Keys:
    """Look up the key records of the signatures that can count, concurrently."""
    names = list(dict.fromkeys(tags.key_name for _, tags in signatures if not tags.problem))
    asked = [name for name in names if len(name) <= 253]
    return dict(zip(asked, await asyncio.gather(*(_key(name, lookup) for name in asked)), strict=True))


async def _key(name: str, lookup: LookupTxt) -> bytes | DnsError | None:
    try:
        records = await lookup(name)
    except DnsError as error:
        return error
    # RFC 6376 section 3.6.2.2: of several records the result is undefined.
    return records[0] if len(records) == 1 else None


def verify_signatures(
    message: bytes, signatures: Sequence[tuple[int, SignatureTags]], keys: Keys
) -> list[SignatureCheck]:
    """Verify the signatures. Computes only, for a fraction of a second at most."""
    return [_check(message, position, tags, keys.get(tags.key_name)) for position, tags in signatures]


def _check(message: bytes, position: int, tags: SignatureTags, key: bytes | DnsError | None) -> SignatureCheck:
    def failed(detail: str) -> SignatureCheck:
        return SignatureCheck(tags.domain, SignatureStatus.FAIL, detail, partial="l=" in tags.problem)

    if tags.problem:
        return failed(tags.problem)
    if isinstance(key, DnsError):
        return SignatureCheck(tags.domain, SignatureStatus.TEMPORARY, "its key could not be looked up")
    record = None if key is None else parse_key_record(key)
    if record is None or key_problem(record):
        return failed(key_problem(record))
    if sum((run.end() - run.start()) ** 2 for run in _BLANKS.finditer(message)) > _MAX_SPACE_WORK:
        return failed("the mail has too many blanks in a row")
    try:
        return _verified(message, position, tags, record.plain)
    except ImportError:
        return failed("the DKIM library (dkimpy) is not installed")
    except Exception as error:  # the library lets any exception of its parts pass
        return failed(f"{type(error).__name__}: {ascii(str(error))[1:120]}")


def _verified(message: bytes, position: int, tags: SignatureTags, key: bytes) -> SignatureCheck:
    import dkim

    verifier: Any = dkim.DKIM(message, logger=_logger, tlsrpt=True, minkey=1024)
    if not _key_is_bounded(key):
        return SignatureCheck(tags.domain, SignatureStatus.FAIL, "its key has an unusual exponent or length")
    good = verifier.verify(position, dnsfunc=lambda _name, timeout=0: key)
    signed_by = verifier.domain.decode("ascii", "replace").lower() if verifier.domain else ""
    # Both readers of the field must have seen the same signature.
    if good and signed_by.rstrip(".") == tags.domain:
        return SignatureCheck(tags.domain, SignatureStatus.PASS)
    return SignatureCheck(tags.domain, SignatureStatus.FAIL, "it does not match the mail")


def _key_is_bounded(key: bytes) -> bool:
    """Return False for a key whose use would take long: verification computes modulus by modulus, bit by bit."""
    from dkim.crypto import parse_public_key  # type: ignore[import-untyped]
    from dkim.util import parse_tag_value  # type: ignore[import-untyped]

    tags = parse_tag_value(key)
    if tags.get(b"k", b"rsa") != b"rsa":
        return True
    parts = parse_public_key(base64.b64decode(tags[b"p"]))
    exponent, modulus = int(parts["publicExponent"]), int(parts["modulus"])
    return exponent.bit_length() <= _MAX_EXPONENT_BITS and modulus.bit_length() <= _MAX_MODULUS_BITS
