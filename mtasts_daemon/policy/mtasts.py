"""MTA-STS discovery: TXT records to an StsRecord, a policy body to an StsPolicy, MX names to patterns.

Strict RFC 8461 grammar (sections 3.1 and 3.2). A policy body may also have a byte order mark, blank lines, blanks at
the end of a line, and LF without CR. ``draft2017`` has another ``PolicyFormat``, for the drafts of 2017.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from .. import errors
from ..text import quoted

__all__ = [
    "MAX_AGE_LIMIT",
    "MAX_BODY",
    "MAX_MX_LINES",
    "RFC8461",
    "Mode",
    "MxPattern",
    "PolicyFormat",
    "StsPolicy",
    "StsRecord",
    "build_policy",
    "parse_policy",
    "parse_txt",
]

MAX_BODY = 65536
"""Octets of a policy body that are read (RFC 8461 section 3.3)."""

MAX_MX_LINES = 500
"""mx fields of a policy; more are refused, since 64 KiB of short ones would take 1.6 MB and 15 ms."""

MAX_AGE_LIMIT = 31557600
"""Seconds; about a year (RFC 8461 section 3.2). A longer max_age is reduced to this."""


class Mode(Enum):
    """The effect of a failed validation (RFC 8461 section 5)."""

    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


class StsRecord(NamedTuple):
    """The one valid ``_mta-sts`` TXT record of a domain."""

    id: str


@dataclass(frozen=True, slots=True)
class MxPattern:
    """One ``mx`` of a policy, in lower case: a host name, or ``*.`` and a domain."""

    text: str

    @property
    def wildcard(self) -> bool:
        """Return True if the left-most label matches any one label."""
        return self.text.startswith("*.")

    def permits(self, host: str) -> bool:
        """Return True if the MX record's name matches; the wildcard is exactly one label (RFC 8461 section 4.1)."""
        name = host.lower().removesuffix(".")
        if not self.wildcard:
            return name == self.text
        label, dot, parent = name.partition(".")
        return bool(label and dot) and parent == self.text[2:]


@dataclass(frozen=True, slots=True)
class StsPolicy:
    """A valid policy. ``max_age`` is in seconds and already capped; ``mx`` keeps the order, without repeats."""

    mode: Mode
    mx: tuple[MxPattern, ...]
    max_age: int

    def permits(self, host: str) -> bool:
        """Return True if any pattern permits the MX host."""
        return any(pattern.permits(host) for pattern in self.mx)

    def permits_any(self, hosts: Iterable[str]) -> bool:
        """Return True if any pattern permits any of the MX hosts, in time linear in both."""
        patterns = {pattern.text for pattern in self.mx}
        for host in hosts:
            name = host.lower().removesuffix(".")
            label, dot, parent = name.partition(".")
            if name in patterns or (label and dot and f"*.{parent}" in patterns):
                return True
        return False

    @property
    def lines(self) -> tuple[str, ...]:
        """The policy in canonical form, as a TLS report quotes it (RFC 8460 section 4.4).

        Made from validated fields only, so that no remote text passes through: extension fields are left out.
        """
        mx = (f"mx: {pattern.text}" for pattern in self.mx)
        return ("version: STSv1", f"mode: {self.mode.value}", *mx, f"max_age: {self.max_age}")


# -- TXT, RFC 8461 section 3.1 -----------------------------------------------------------------------------

_FIELD_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}"
_TXT_FIELD = re.compile(rf"({_FIELD_NAME})=([\x21-\x3a\x3c\x3e-\x7e]+)\Z")
_ID = re.compile(r"[A-Za-z0-9]{1,32}\Z")


def parse_txt(records: Iterable[bytes], prefixes: tuple[bytes, ...] = (b"v=STSv1;",)) -> StsRecord | None:
    """Return the valid record among the TXT records found, or None if none begins with one of ``prefixes``.

    Raises a leaf of ``StsRecordError`` if there is more than one such record or it is malformed; the sender
    then acts as if there were none.
    """
    candidates = [record for record in records if record.startswith(prefixes)]
    if not candidates:
        return None
    if len(candidates) > 1:
        raise errors.StsRecordMultiple(f"{len(candidates)} found")
    try:
        text = candidates[0].decode("ascii")
    except UnicodeDecodeError:
        raise errors.StsRecordSyntax("it is not US-ASCII") from None
    return _parse_txt_fields(text)


def _parse_txt_fields(text: str) -> StsRecord:
    # sts-field-delim = *WSP ";" *WSP, and the last one may close the record.
    fields = [part.strip(" \t") for part in text.split(";")][1:]
    if fields and not fields[-1]:
        fields.pop()
    record_id: str | None = None
    for field in fields:
        match = _TXT_FIELD.match(field)
        if match is None:
            raise (
                errors.StsRecordIdInvalid(quoted(field))
                if field.startswith("id=")
                else errors.StsRecordSyntax(quoted(field))
            )
        # Of a repeated field only the first counts (RFC 8461 section 3.2 says so for the policy).
        if match[1] == "id" and record_id is None:
            if not _ID.match(match[2]):
                raise errors.StsRecordIdInvalid(quoted(match[2]))
            record_id = match[2]
    if record_id is None:
        raise errors.StsRecordIdMissing()
    return StsRecord(record_id)


# -- the policy, RFC 8461 section 3.2 ----------------------------------------------------------------------

_POLICY_FIELD = re.compile(rf"({_FIELD_NAME}):[ \t]*(.*)\Z", re.DOTALL)
_EXTENSION_VALUE = re.compile(r"[^\x00-\x20\x7f](?:[^\x00-\x1f\x7f]*[^\x00-\x20\x7f])?\Z")
_MAX_AGE = re.compile(r"[0-9]{1,10}\Z")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_MX = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*\Z")


def parse_policy(body: bytes) -> StsPolicy:
    """Return the policy in ``body``. Raises a leaf of ``PolicySyntaxError`` that names the line."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise errors.PolicyNotText(f"octet {error.start} cannot be decoded") from None
    seen: dict[str, str] = {}
    patterns: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r").rstrip(" \t")
        if not line:
            continue
        match = _POLICY_FIELD.match(line)
        if match is None or not _EXTENSION_VALUE.match(match[2]):
            raise errors.PolicyLineSyntax(f"line {number}: {quoted(line)}")
        name, value = match[1], match[2]
        if name == "mx":
            patterns.append(value)
            if len(patterns) > MAX_MX_LINES:  # before the rest is parsed
                raise errors.PolicyMxTooMany(f"more than {MAX_MX_LINES}")
        else:
            # Unknown fields are ignored; of a repeated one only the first counts.
            seen.setdefault(name, value)
    return build_policy(seen.get("version"), seen.get("mode"), seen.get("max_age"), patterns)


def build_policy(version: str | None, mode: str | None, max_age: str | None, patterns: Sequence[str]) -> StsPolicy:
    """Return the policy of these fields. Raises a leaf of ``PolicySyntaxError``."""
    if version != "STSv1":
        raise errors.PolicyVersion(quoted(version or "no version"))
    try:
        valid_mode = Mode(mode)
    except ValueError:
        raise errors.PolicyMode(quoted(mode or "no mode")) from None
    if max_age is None or not _MAX_AGE.match(max_age):
        raise errors.PolicyMaxAge(quoted(max_age or "no max_age"))
    if len(patterns) > MAX_MX_LINES:
        raise errors.PolicyMxTooMany(f"more than {MAX_MX_LINES}")
    for pattern in patterns:
        if not _is_mx(pattern):
            raise errors.PolicyMxSyntax(quoted(pattern))
    if not patterns and valid_mode is not Mode.NONE:
        raise errors.PolicyMxMissing()
    mx = tuple(MxPattern(text) for text in dict.fromkeys(pattern.lower() for pattern in patterns))
    return StsPolicy(valid_mode, mx, min(int(max_age), MAX_AGE_LIMIT))


def _is_mx(pattern: str) -> bool:
    # An all-numeric last label makes an address or nothing at all; no certificate and no MX record has it.
    return len(pattern) <= 255 and bool(_MX.match(pattern)) and not pattern.rpartition(".")[2].isdigit()


# -- the format --------------------------------------------------------------------------------------------


class PolicyFormat(NamedTuple):
    """A version of the protocol: how its record and its policy are parsed, and where the policy is.

    ``locations`` are paths on the policy host with their media types; the next one is tried if one is not found.
    """

    parse_txt: Callable[[Iterable[bytes]], StsRecord | None]
    parse_policy: Callable[[bytes], StsPolicy]
    locations: tuple[tuple[str, frozenset[str]], ...]


RFC8461 = PolicyFormat(parse_txt, parse_policy, (("/.well-known/mta-sts.txt", frozenset({"text/plain"})),))
