"""Parse TLSRPT records (RFC 8460 section 3).

An invalid address does not affect the others. The owner of a record can list any address of any third party, so the
number of addresses is limited, and addresses are normalized so that duplicates are detected.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ... import errors
from ...policy.next_hop import policy_domain
from ...text import sanitize

__all__ = ["MAX_RECORD", "Rua", "TlsrptRecord", "parse_rua", "parse_tlsrpt"]

MAX_RECORD = 4096
"""Maximum size of a record in bytes; a record with several addresses has a few hundred."""

_MAX_URI = 1024
_MAX_URIS = 64
"""Maximum number of addresses parsed."""

# Postfix and the grammar's field-delim allow blanks before the first semicolon.
_VERSION = re.compile(rb"v=TLSRPTv1[ \t]*;")

# RFC 3986 section 2, without "#" and the three characters that RFC 8460 section 3 requires to be percent-encoded.
_URI = re.compile(r"[A-Za-z0-9._~:/?@\[\]$&'()*+=%-]+\Z")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
# A dot-atom (RFC 5321 section 4.1.2). Quoted local parts are not used in practice and are unsafe in header fields.
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*\Z")
_MAX_LOCAL = 64
_HTTPS = re.compile(r"https://([^/?#:@\[\]]+)(?::([0-9]{1,5}))?(/[^?\[\]]*)?(\?[^\[\]]*)?\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Rua:
    """Address for reports.

    ``uri`` is the normalized URI, which ``parse_rua`` accepts. ``mailbox`` is the decoded e-mail address of a mailto
    URI, and empty for an https URI. ``host`` is the domain of the mailbox, or the host of an https URI. ``port`` and
    ``target`` (encoded path and query) apply to https URIs only.
    """

    uri: str
    host: str
    mailbox: str = ""
    port: int = 443
    target: str = ""


@dataclass(frozen=True, slots=True)
class TlsrptRecord:
    """TLSRPT record of a domain: the usable addresses in order, and a message for each rejected address."""

    rua: tuple[Rua, ...]
    problems: tuple[str, ...] = ()


def parse_tlsrpt(records: Iterable[bytes], *, most: int = 4) -> TlsrptRecord | None:
    """Parse the TLSRPT record among TXT records; return None if none of them begins with ``v=TLSRPTv1;``.

    At most ``most`` addresses are returned. Raises a leaf of ``TlsrptRecordError`` if there are several records, or if
    the record is invalid or has no rua.
    """
    candidates = [record for record in records if _VERSION.match(record)]
    if not candidates:
        return None
    if len(candidates) > 1:
        raise errors.TlsrptRecordMultiple(f"{len(candidates)} found")
    if len(candidates[0]) > MAX_RECORD:
        raise errors.TlsrptRecordSyntax(f"{len(candidates[0])} octets")
    try:
        text = candidates[0].decode("ascii")
    except UnicodeDecodeError:
        raise errors.TlsrptRecordSyntax("it is not US-ASCII") from None
    # field-delim = *WSP ";" *WSP. Unknown fields may be in any position, and the last semicolon is optional.
    fields = (field.strip(" \t") for field in text.split(";")[1:])
    values = [field.removeprefix("rua=") for field in fields if field.startswith("rua=")]
    if not values:
        raise errors.TlsrptRecordNoRua()
    return _addresses(values, most)


def _addresses(values: list[str], most: int) -> TlsrptRecord:
    # The grammar allows several rua fields but does not define their meaning; they are treated as one list.
    uris = [uri for value in values for part in value.split(",") if (uri := part.strip(" \t"))]
    found: dict[str, Rua] = {}
    problems: list[str] = []
    for uri in uris[:_MAX_URIS]:
        try:
            rua = parse_rua(uri)
        except ValueError as error:
            problems.append(f"{sanitize(uri)}: {error}")
            continue
        if rua.uri not in found and len(found) == most:
            problems.append(f"{sanitize(uri)}: more than {most} addresses")
        else:
            found.setdefault(rua.uri, rua)
    if len(uris) > _MAX_URIS:
        problems.append(f"more than {_MAX_URIS} addresses")
    return TlsrptRecord(tuple(found.values()), tuple(problems))


def parse_rua(uri: str) -> Rua:
    """Parse a report URI. Raises ``ValueError`` with the reason if it is invalid."""
    if len(uri) > _MAX_URI:
        raise ValueError(f"it is longer than {_MAX_URI} characters")
    uri = uri.partition("#")[0]
    if not _URI.match(uri) or _ESCAPE.sub("", uri).find("%") >= 0:
        raise ValueError("it is not a URI (RFC 8460 section 3: , ! and ; must be percent-encoded)")
    scheme = uri.partition(":")[0].lower()
    if scheme == "mailto":
        return _mailto(uri[len("mailto:") :])
    if scheme == "https":
        return _https(uri)
    raise ValueError("it is neither mailto nor https")


def _mailto(rest: str) -> Rua:
    # RFC 6068: the part after the question mark sets header fields, which the receiver must not control.
    octets = _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), rest.partition("?")[0]).encode("latin-1")
    try:
        mailbox = octets.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    local, _, domain = mailbox.rpartition("@")
    if not _LOCAL.match(local) or len(local) > _MAX_LOCAL:
        raise ValueError("it is not one e-mail address")
    domain = _domain(domain)
    written = re.sub(r"[^A-Za-z0-9._~$&'*+=-]", lambda found: f"%{ord(found[0]):02X}", local)
    return Rua(f"mailto:{written}@{domain}", domain, f"{local}@{domain}")


def _https(uri: str) -> Rua:
    match = _HTTPS.match(uri)
    if match is None:
        raise ValueError("it is not https://HOST[:PORT][/PATH][?QUERY]")
    host, port = _domain(match[1]), int(match[2] or 443)
    if not 0 < port < 65536:
        raise ValueError(f"{port} is not a port")
    target = (match[3] or "/") + (match[4] or "")
    return Rua(f"https://{host}{'' if port == 443 else f':{port}'}{target}", host, port=port, target=target)


def _domain(text: str) -> str:
    try:
        return policy_domain(text)
    except ValueError:
        raise ValueError(f"{sanitize(text)} is not a domain") from None
