"""Parse libtlsrpt datagrams, each the result of one TLS session and the policies applied to it.

A datagram is one JSON object. Any process that may write to the socket can send one, so the content is untrusted. The
parser returns a ``TlsrptEvent`` within the limits below or raises a leaf of ``TlsrptEventError``. Unknown members are
ignored. Control characters are removed from text, and an invalid address is replaced with an empty string.
"""

import itertools
import json
import re
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, NoReturn

from ...errors import EventDomain, EventNotJson, EventPolicyType, EventShape, EventTooLarge, EventVersion
from ...policy.next_hop import policy_domain

__all__ = [
    "MAX_DATAGRAM",
    "MAX_ITEMS",
    "MAX_STRINGS",
    "MAX_TEXT",
    "RESULT_TYPES",
    "Failure",
    "Policy",
    "PolicyResult",
    "PolicyType",
    "TlsrptEvent",
    "address",
    "clean_text",
    "failure_of",
    "host_name",
    "parse_datagram",
]

MAX_DATAGRAM = 256 * 1024
"""Maximum size of a datagram in bytes; above the kernel's default limit (net.core.wmem_default, 212,992)."""

MAX_ITEMS = 1000
"""Maximum number of items in a list. Longer lists of strings are truncated; other longer lists are rejected."""

MAX_STRINGS = 64 * 1024
"""Maximum total length of a policy's strings (RFC 8461 section 3.2), and of its MX patterns, in characters."""

MAX_TEXT = 1024
"""Maximum length of any other text in characters; longer text is truncated."""


class PolicyType(IntEnum):
    """Type of the applied policy, with the numbers of libtlsrpt."""

    TLSA = 1
    STS = 2
    NO_POLICY_FOUND = 9

    @property
    def rfc_name(self) -> str:
        """Return the name of the type in a report (RFC 8460 section 4.2)."""
        return self.name.lower().replace("_", "-")


RESULT_TYPES = {
    201: "starttls-not-supported",
    202: "certificate-host-mismatch",
    203: "certificate-not-trusted",
    204: "certificate-expired",
    205: "validation-failure",
    301: "sts-policy-fetch-error",
    302: "sts-policy-invalid",
    303: "sts-webpki-invalid",
    304: "tlsa-invalid",
    305: "dnssec-invalid",
    306: "dane-required",
}
"""Result types (RFC 8460 section 4.3) by the numbers of libtlsrpt."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Policy applied to a session.

    ``domain`` is the policy domain; for TLSA it is the TLSA base domain, that is, an MX host. ``strings`` are the lines
    of the policy, or the TLSA records. ``mx_hosts`` are the MX patterns of an MTA-STS policy.
    """

    type: PolicyType
    domain: str
    strings: tuple[str, ...] = ()
    mx_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """Failure details (RFC 8460 section 4.4). ``result_type`` is one of section 4.3; unknown values are empty."""

    result_type: str
    sending_ip: str = ""
    mx_host: str = ""
    helo: str = ""
    receiving_ip: str = ""
    info: str = ""
    reason_code: str = ""


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """Result of one session under one policy. A successful session may have failures of earlier attempts."""

    policy: Policy
    failed: bool
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True, slots=True)
class TlsrptEvent:
    """Result of one session. ``domain`` is the policy domain (lower-case A-labels), ``record`` its TLSRPT record."""

    domain: str
    record: str
    outcomes: tuple[PolicyResult, ...]


def parse_datagram(data: bytes) -> TlsrptEvent:
    """Parse a datagram. Raises a leaf of ``TlsrptEventError`` if the datagram is invalid."""
    if len(data) > MAX_DATAGRAM:
        raise EventTooLarge
    members = _json_object(data)
    # The protocol has no negotiation, and libtlsrpt before 0.5.1 sent no version.
    version = members.get("dpv", "1")
    if str(version if isinstance(version, str | int) else None).partition(".")[0] != "1":
        raise EventVersion(_seen(version))
    written = members.get("d")
    if not isinstance(written, str):
        raise EventShape(f"d is {_seen(written)}")
    domain = _report_domain(written)
    outcomes = tuple([_outcome(policy, written, domain) for policy in _items(members.get("policies"), "policies")])
    if not outcomes:
        raise EventShape("it has no policies")
    record = members.get("pr")
    return TlsrptEvent(domain, clean_text(record) if isinstance(record, str) else "", outcomes)


# -- JSON --------------------------------------------------------------------------------------------------


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Raw control characters are accepted, because all text is cleaned later. If a member is repeated, the last one counts.
_decode = json.JSONDecoder(strict=False, parse_constant=_constant).decode


def _json_object(data: bytes) -> dict[str, Any]:
    # libtlsrpt copies bytes above 0x7f unchanged, and a mail server's greeting is not always UTF-8.
    try:
        found = _decode(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:  # ValueError also if an integer has too many digits
        raise EventNotJson(clean_text(str(error))) from None
    if not isinstance(found, dict):
        raise EventNotJson(f"it is {_seen(found)}")
    return found


def _seen(value: object) -> str:
    """Describe the value briefly. Long strings are truncated; of huge integers only the type is given."""
    if isinstance(value, str):
        return ascii(value[:64])
    if isinstance(value, int) and abs(value) < 1 << 64:
        return str(value)
    return f"of type {type(value).__name__}"


def _items(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise EventShape(f"{name} is {_seen(value)}")
    if len(value) > MAX_ITEMS:
        raise EventShape(f"{name} has {len(value)} items")
    return value


# -- policies ----------------------------------------------------------------------------------------------


_POLICY_TYPES: dict[int, PolicyType] = {int(kind): kind for kind in PolicyType}


def _outcome(members: object, written: str, domain: str) -> PolicyResult:
    if not isinstance(members, dict):
        raise EventShape(f"a policy is {_seen(members)}")
    number = members.get("policy-type")
    if type(number) is not int:
        raise EventShape(f"policy-type is {_seen(number)}")
    kind = _POLICY_TYPES.get(number)
    if kind is None:
        raise EventPolicyType(_seen(number))
    # Postfix 3.10.0 to 3.10.4 omit it if no policy was found.
    of = members.get("policy-domain", written)
    if not isinstance(of, str):
        raise EventShape(f"policy-domain is {_seen(of)}")
    policy = Policy(
        kind,
        domain if of == written else host_name(of) or domain,
        _strings(members.get("policy-string"), "policy-string"),
        _strings(members.get("mx-host"), "mx-host"),
    )
    failures = members.get("failure-details")
    details = tuple([_failure(detail) for detail in _items(failures, "failure-details")]) if failures else ()
    return PolicyResult(policy, _failed(members, bool(details)), details)


def _failed(members: dict[str, Any], otherwise: bool) -> bool:
    """Return True if the final result ``f`` is a failure; without ``f``, if the failure count ``t`` is not zero."""
    for name in ("f", "t"):
        value = members.get(name)
        if value is not None:
            if not isinstance(value, int):
                raise EventShape(f"{name} is {_seen(value)}")
            return value != 0
    return otherwise


def _strings(value: object, name: str) -> tuple[str, ...]:
    """Return the strings of a list, truncated to ``MAX_ITEMS`` items and ``MAX_STRINGS`` characters."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise EventShape(f"{name} is {_seen(value)}")
    texts = value[:MAX_ITEMS]
    try:
        together = "".join(texts)
    except TypeError:
        raise EventShape(f"{name} is not of texts alone") from None
    if together.isprintable() and len(together) <= MAX_STRINGS:
        return tuple(texts)
    ends = itertools.accumulate(map(len, texts))
    return tuple([_clean(text) for text, end in zip(texts, ends, strict=True) if end <= MAX_STRINGS])


# -- failures ----------------------------------------------------------------------------------------------


def _failure(members: object) -> Failure:
    if not isinstance(members, dict):
        raise EventShape(f"a failure is {_seen(members)}")
    code = members.get("c")
    if type(code) is not int:
        raise EventShape(f"c is {_seen(code)}")
    texts = [members.get(name, "") for name in ("s", "n", "h", "r", "a", "f")]
    for text in texts:
        if not isinstance(text, str):
            raise EventShape(f"a failure's text is {_seen(text)}")
    result_type, reason = RESULT_TYPES.get(code, ""), texts.pop()
    if not result_type:
        # RFC 8460 section 4.3.3: the general result type covers all other failures.
        result_type, reason = "validation-failure", f"{_seen(code)} {reason}".rstrip()
    sending_ip, mx_host, ehlo, receiving_ip, info = texts
    return failure_of(result_type, sending_ip, mx_host, ehlo, receiving_ip, info, reason)


def failure_of(
    result_type: str, sending_ip: str, mx_host: str, ehlo: str, receiving_ip: str, info: str, reason_code: str
) -> Failure:
    """Return a failure with each text cleaned and truncated. ``ehlo`` may be the complete reply to EHLO."""
    return Failure(
        result_type,
        address(sending_ip),
        host_name(mx_host),
        _greeted_name(ehlo),
        address(receiving_ip),
        clean_text(info),
        clean_text(reason_code),
    )


_REPLY_CODE = re.compile(r"[0-9]{3}[ -]")


def _greeted_name(ehlo: str) -> str:
    """Return the host name in the first line of the reply to EHLO.

    The remaining text may change with each session (for example, the time), so that no two failures would be equal.
    """
    line = ehlo[:MAX_TEXT].lstrip().partition("\n")[0]
    words = (line[4:] if _REPLY_CODE.match(line) else line).split(None, 1)
    return _clean(words[0][:255]) if words else ""


# -- text --------------------------------------------------------------------------------------------------


def _clean(text: str) -> str:
    """Remove control characters, lone surrogates and other unprintable characters."""
    return text if text.isprintable() else "".join([char for char in text if char.isprintable()])


def clean_text(text: str) -> str:
    """Return printable text of at most ``MAX_TEXT`` characters."""
    return _clean(text[:MAX_TEXT]).strip()


def address(text: str) -> str:
    """Return the IP address in RFC 5952 form (RFC 8460 section 4.4), or an empty string if it is invalid."""
    return _address(text[:64]) if text else ""


def host_name(text: str) -> str:
    """Return the host name in lower-case A-labels without final dot, or an empty string if it is invalid."""
    return _host_name(text[:MAX_TEXT]) if text else ""


# The same few values recur. Arguments are truncated before the call, so that the caches stay small.
@lru_cache(2048)
def _address(text: str) -> str:
    try:
        # The zone id names an interface of this host and has no meaning elsewhere.
        return str(ip_address(text.partition("%")[0].strip()))
    except ValueError:
        return ""


# Some MX hosts have an underscore, which is invalid in a policy domain.
_HOST = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\Z")


@lru_cache(2048)
def _host_name(text: str) -> str:
    name = text.lower().removesuffix(".")
    if _HOST.match(name):
        return name if len(name) <= 253 else ""
    try:
        return policy_domain(name)
    except ValueError:
        return ""


def _report_domain(value: str) -> str:
    try:
        return policy_domain(value)
    except ValueError as error:
        raise EventDomain(f"{value[:300]!a}: {error}") from None
