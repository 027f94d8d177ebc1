"""A datagram of libtlsrpt to a TLSRPT event: what one TLS handshake came to, and under which policy.

The datagram is one JSON object, whose sender is whoever may write to the socket. Whatever it holds, the outcome is
an ``Event`` within the bounds below or a leaf of ``TlsrptEventError``. Members that are not known are ignored, those
that are known are cleaned: text loses its control characters, an address that is none becomes the empty text.
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
    "failure_of",
    "host_name",
    "one_line",
    "parse_datagram",
]

MAX_DATAGRAM = 256 * 1024
"""Octets of a datagram; more than the kernel lets pass by default (net.core.wmem_default, 212,992)."""

MAX_ITEMS = 1000
"""Items of one list of a datagram: of texts, those that are looked at; of anything else, those that are allowed."""

MAX_STRINGS = 64 * 1024
"""Characters of a policy's strings in all, as of a policy itself (RFC 8461 section 3.2), and of its MX patterns."""

MAX_TEXT = 1024
"""Characters of any other text; what is longer is cut."""


class PolicyType(IntEnum):
    """Which policy was applied, as libtlsrpt numbers it."""

    TLSA = 1
    STS = 2
    NO_POLICY_FOUND = 9

    @property
    def rfc_name(self) -> str:
        """Its name in a report, RFC 8460 section 4.2."""
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
"""The result types of RFC 8460 section 4.3, by libtlsrpt's numbers."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that was applied.

    ``domain`` is the policy domain, for TLSA the TLSA base domain: an MX host. ``strings`` is the policy's text line
    by line, or its TLSA records; ``mx_hosts`` the MX patterns of an MTA-STS policy.
    """

    type: PolicyType
    domain: str
    strings: tuple[str, ...] = ()
    mx_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure's details, RFC 8460 section 4.4. ``result_type`` is one of section 4.3; empty text is not known."""

    result_type: str
    sending_ip: str = ""
    mx_host: str = ""
    helo: str = ""
    receiving_ip: str = ""
    info: str = ""
    reason_code: str = ""


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """What one session came to under one policy. A session that did not fail may still have met failures."""

    policy: Policy
    failed: bool
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True, slots=True)
class TlsrptEvent:
    """What one session came to. ``domain``, a lower-case A-label name, is whom to report to; ``record`` its TXT."""

    domain: str
    record: str
    outcomes: tuple[PolicyResult, ...]


def parse_datagram(data: bytes) -> TlsrptEvent:
    """The event that the datagram tells. Raises a leaf of ``TlsrptEventError`` where it tells none."""
    if len(data) > MAX_DATAGRAM:
        raise EventTooLarge
    members = _json_object(data)
    # There is no negotiation; before 0.5.1 libtlsrpt sent no version.
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
    return TlsrptEvent(domain, one_line(record) if isinstance(record, str) else "", outcomes)


# -- JSON --------------------------------------------------------------------------------------------------


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# A raw control character spoils nothing, since all text is cleaned. Of members with the same name the last counts.
_decode = json.JSONDecoder(strict=False, parse_constant=_constant).decode


def _json_object(data: bytes) -> dict[str, Any]:
    # libtlsrpt passes octets from 0x80 on as they came, and a mail server's greeting is not always UTF-8.
    try:
        found = _decode(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:  # ValueError also: an integer of more digits than Python converts
        raise EventNotJson(one_line(str(error))) from None
    if not isinstance(found, dict):
        raise EventNotJson(f"it is {_seen(found)}")
    return found


def _seen(value: object) -> str:
    """What the value is, in a few words: its text is not ours to repeat at length, and a huge number has none."""
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
    # Postfix 3.10.0 to 3.10.4 leave it out where no policy was found.
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
    """The session's final result ``f``; where it is missing, whether there were failures (``t`` of them)."""
    for name in ("f", "t"):
        value = members.get(name)
        if value is not None:
            if not isinstance(value, int):
                raise EventShape(f"{name} is {_seen(value)}")
            return value != 0
    return otherwise


def _strings(value: object, name: str) -> tuple[str, ...]:
    """The first texts of a list, as many as ``MAX_ITEMS`` and ``MAX_STRINGS`` have room for."""
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
        # RFC 8460 section 4.3.3: what has no category of its own.
        result_type, reason = "validation-failure", f"{_seen(code)} {reason}".rstrip()
    sending_ip, mx_host, ehlo, receiving_ip, info = texts
    return failure_of(result_type, sending_ip, mx_host, ehlo, receiving_ip, info, reason)


def failure_of(
    result_type: str, sending_ip: str, mx_host: str, ehlo: str, receiving_ip: str, info: str, reason_code: str
) -> Failure:
    """The failure with each text cleaned and bounded. ``ehlo`` may be the whole reply to EHLO."""
    return Failure(
        result_type,
        address(sending_ip),
        host_name(mx_host),
        _greeted_name(ehlo),
        address(receiving_ip),
        one_line(info),
        one_line(reason_code),
    )


_REPLY_CODE = re.compile(r"[0-9]{3}[ -]")


def _greeted_name(ehlo: str) -> str:
    """The host's name on the first line of its reply to EHLO.

    All else, a greeting with the time of day perhaps, would make every failure one of its own.
    """
    line = ehlo[:MAX_TEXT].lstrip().partition("\n")[0]
    words = (line[4:] if _REPLY_CODE.match(line) else line).split(None, 1)
    return _clean(words[0][:255]) if words else ""


# -- text --------------------------------------------------------------------------------------------------


def _clean(text: str) -> str:
    """The text without control characters, lone surrogates and what is not for the eye."""
    return text if text.isprintable() else "".join([char for char in text if char.isprintable()])


def one_line(text: str) -> str:
    """The text, fit to be shown and of ``MAX_TEXT`` characters at most."""
    return _clean(text[:MAX_TEXT]).strip()


def address(text: str) -> str:
    """The IP address, written as RFC 5952 wants it (RFC 8460 section 4.4), or empty text for what is none."""
    return _address(text[:64]) if text else ""


def host_name(text: str) -> str:
    """The host name in lower-case A-labels without the final dot, or empty text for what is none."""
    return _host_name(text[:MAX_TEXT]) if text else ""


# The same few turn up again and again; what goes in is cut first, so that the caches stay small.
@lru_cache(2048)
def _address(text: str) -> str:
    try:
        # A zone id names an interface of this host and tells nobody anything.
        return str(ip_address(text.partition("%")[0].strip()))
    except ValueError:
        return ""


# MX hosts with an underscore exist, though no policy can be theirs.
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
