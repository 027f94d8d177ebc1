"""The JSON text of a TLS report to a ``ReceivedReport``, RFC 8460 section 4.4.

Liberal: differences from the RFC are recorded as ``Deviation`` and the rest is kept. Only a report that cannot be
assigned to a day, or that has no policies at all, is rejected, with a leaf of ``ReceivedReportError``.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from ...errors import ReceivedReportRange, ReceivedReportShape
from ...policy.next_hop import policy_domain
from ..model.event import address, host_name
from .json_text import load_json
from .model import (
    DEFAULT_LIMITS,
    RESULT_TYPES,
    Deviation,
    FailureDetail,
    IntakeLimits,
    ReceivedReport,
    ReportedPolicy,
)

__all__ = ["FileNameFacts", "file_name_facts", "parse_report"]

_DAY = 86400
_EARLIEST = 1_400_000_000
"""May 2014. No report is older than the RFC's first draft."""

_POLICY_TYPES = frozenset({"sts", "tlsa", "no-policy-found"})
_SLUG = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}\Z")
_NUMBER = re.compile(r"\s*([0-9]{1,16})(?:\.0*)?\s*\Z")
_MAILBOX = re.compile(r"[^@\s]{1,64}@[^@\s]{1,253}\Z")


@dataclass(frozen=True, slots=True)
class FileNameFacts:
    """The facts in a report's file name, RFC 8460 section 5.1. None and empty text mean unknown."""

    submitter: str = ""
    domain: str = ""
    begin: int | None = None
    end: int | None = None
    unique: str = ""


_FILE_NAME = re.compile(
    r"(?:.*[/\\])?([^!/\\]{1,253})!([^!]{1,253})!([0-9]{9,11})!([0-9]{9,11})(?:!([^!]{1,128}?))?(?:\.json)?(?:\.gz|\.zip)?\Z",
    re.IGNORECASE,
)


def file_name_facts(name: str) -> FileNameFacts:
    """Read the file name ``submitter!domain!begin!end!unique-id.json.gz``. Other names give no facts."""
    match = _FILE_NAME.match(name)
    if match is None:
        return FileNameFacts()
    submitter, domain, begin, end, unique = match.groups()
    return FileNameFacts(host_name(submitter), _domain(domain), int(begin), int(end), _slug_text(unique or ""))


def _slug_text(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]", "", text)[:128]


def parse_report(
    text: bytes, *, now: float, name: FileNameFacts = FileNameFacts(), limits: IntakeLimits = DEFAULT_LIMITS
) -> ReceivedReport:
    """Parse the JSON text. ``name`` supplies missing values (RFC 8460 section 5.6: the text takes precedence)."""
    reader = _ReportReader(limits)
    members = reader.load(text)
    begin, end = reader.date_range(members, name, now)
    policies = reader.policies(members, name)
    report_id = reader.text(reader.member(members, "report-id")).strip("<> ")
    if not report_id:
        reader.note(Deviation.REPORT_ID_MISSING)
        report_id = name.unique
    return ReceivedReport(
        organization=reader.organization(members),
        contact=reader.contact(members),
        report_id=report_id[:255],
        begin=begin,
        end=end,
        policies=policies,
        deviations=frozenset(reader.deviations),
    )


@lru_cache(maxsize=1024)
def _domain(text: str) -> str:
    try:
        return policy_domain(text.strip().rstrip("."))
    except ValueError:
        return ""


class _ReportReader:
    """Reads one report and collects its deviations."""

    def __init__(self, limits: IntakeLimits) -> None:
        self.deviations: set[Deviation] = set()
        self._limits = limits
        self._details = 0

    def note(self, deviation: Deviation) -> None:
        self.deviations.add(deviation)

    def load(self, text: bytes) -> Mapping[str, Any]:
        found, deviations = load_json(text, self._limits)
        self.deviations |= deviations
        if isinstance(found, list) and len(found) == 1:
            found = found[0]
        if not isinstance(found, dict):
            raise ReceivedReportShape("it is not a JSON object")
        return found

    def member(self, members: Mapping[str, Any], *names: str) -> Any:
        """Return the first of ``names`` that is present, also spelled in other case or with underscores."""
        for name in names:
            if name in members:
                if name != names[0]:
                    self.note(Deviation.KEY_SPELLING)
                return members[name]
        for key, value in members.items():
            if key.lower().replace("_", "-").strip() in names:
                self.note(Deviation.KEY_SPELLING)
                return value
        return None

    def text(self, value: object) -> str:
        """Return the value as one printable line of bounded length; empty text if it is no text."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            return ""
        if len(value) > self._limits.text:
            self.note(Deviation.TEXT_TOO_LONG)
            value = value[: self._limits.text]
        if not value.isprintable():
            self.note(Deviation.CONTROL_CHARACTERS)
            # Line ends separate words. All else, such as marks that reverse the direction of writing, is dropped.
            value = "".join(char if char.isprintable() else " " if char in "\r\n\t" else "" for char in value)
        return value.strip()

    # -- the report ----------------------------------------------------------------------------------------

    def organization(self, members: Mapping[str, Any]) -> str:
        name = self.text(self.member(members, "organization-name"))
        if not name:
            self.note(Deviation.ORGANIZATION_MISSING)
        return name[:255]

    def contact(self, members: Mapping[str, Any]) -> str:
        value = self.member(members, "contact-info")
        if isinstance(value, list) and value:
            value = value[0]
        contact = self.text(value).removeprefix("mailto:").removeprefix("smtp:").strip("<> ")
        if not contact:
            self.note(Deviation.CONTACT_MISSING)
            return ""
        if not _MAILBOX.match(contact):
            self.note(Deviation.CONTACT_INVALID)
        return contact[:320]

    def date_range(self, members: Mapping[str, Any], name: FileNameFacts, now: float) -> tuple[int, int]:
        found = self.member(members, "date-range")
        written = found if isinstance(found, dict) else {}
        begin = self._moment(self.member(written, "start-datetime"))
        end = self._moment(self.member(written, "end-datetime"))
        if begin is None and end is None and name.begin is not None:
            self.note(Deviation.RANGE_MISSING)
            begin, end = name.begin, name.end
        if begin is None and end is None:
            raise ReceivedReportShape("it has no date-range")
        if begin is None or end is None:
            self.note(Deviation.RANGE_MISSING)
            begin = begin if begin is not None else (end or 0) - _DAY + 1
            end = end if end is not None else begin + _DAY - 1
        if end < begin:
            self.note(Deviation.RANGE_REVERSED)
            begin, end = end, begin
        if end - begin > self._limits.range_seconds:
            raise ReceivedReportRange(f"it covers {(end - begin) // _DAY} days")
        if begin < _EARLIEST or end > now + 2 * _DAY:
            raise ReceivedReportRange(f"it covers {datetime.fromtimestamp(begin, UTC):%Y-%m-%d}")
        if begin % _DAY or end - begin not in (_DAY - 1, _DAY):
            self.note(Deviation.RANGE_NOT_ONE_DAY)
        return begin, end

    def _moment(self, value: object) -> int | None:
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.note(Deviation.DATE_FORMAT)
            return int(value) if 0 <= value < 1e11 else None
        if not isinstance(value, str):
            return None
        text = value.strip()[:64]
        try:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                self.note(Deviation.DATE_FORMAT)
                moment = moment.replace(tzinfo=UTC)
            return max(int(moment.timestamp()), 0)
        except (ValueError, OverflowError):
            self.note(Deviation.DATE_FORMAT)
            return int(text) if text.isascii() and text.isdigit() and len(text) <= 11 else None

    # -- policies ------------------------------------------------------------------------------------------

    def policies(self, members: Mapping[str, Any], name: FileNameFacts) -> tuple[ReportedPolicy, ...]:
        found = self.member(members, "policies", "policy")
        if isinstance(found, dict):
            self.note(Deviation.POLICIES_NOT_A_LIST)
            found = [found]
        if not isinstance(found, list):
            raise ReceivedReportShape("it has no policies")
        if len(found) > self._limits.policies:
            self.note(Deviation.POLICIES_TOO_MANY)
            found = found[: self._limits.policies]
        policies = []
        for item in found:
            if isinstance(item, dict):
                policies.append(self._policy(item, name))
            else:
                self.note(Deviation.POLICY_INVALID)
        return tuple(policies)

    def _policy(self, item: Mapping[str, Any], name: FileNameFacts) -> ReportedPolicy:
        found = self.member(item, "policy")
        # A policy whose members are one level too high is still readable.
        policy = found if isinstance(found, dict) else item
        kind = self.text(self.member(policy, "policy-type")).lower()
        if kind not in _POLICY_TYPES:
            self.note(Deviation.POLICY_TYPE_UNKNOWN)
            kind = kind if _SLUG.match(kind) else "unknown"
        successful, failed = self._summary(item)
        failures = tuple(self._failures(self.member(item, "failure-details")))
        counted = sum(failure.count for failure in failures)
        if failed is None:
            failed = min(counted, self._limits.count - 1)
        elif counted > failed:
            self.note(Deviation.TOTALS_DISAGREE)
        return ReportedPolicy(
            type=kind,
            domain=self._policy_domain(policy, name),
            successful=successful,
            failed=failed,
            strings=self._strings(self.member(policy, "policy-string"), Deviation.POLICY_STRING_FORM),
            mx_hosts=self._strings(self.member(policy, "mx-host", "mx-host-pattern"), Deviation.MX_HOST_FORM),
            failures=failures,
        )

    def _policy_domain(self, policy: Mapping[str, Any], name: FileNameFacts) -> str:
        written = self.text(self.member(policy, "policy-domain"))
        if not written:
            self.note(Deviation.POLICY_DOMAIN_MISSING)
            return name.domain
        domain = _domain(written) or host_name(written)
        if not domain:
            self.note(Deviation.POLICY_DOMAIN_INVALID)
        return domain

    def _strings(self, value: object, deviation: Deviation) -> tuple[str, ...]:
        if isinstance(value, str):
            self.note(deviation)
            value = value.splitlines() if deviation is Deviation.POLICY_STRING_FORM else value.split(",")
        if not isinstance(value, list):
            if value is not None:
                self.note(deviation)
            return ()
        if len(value) == 1 and isinstance(value[0], str) and value[0].lstrip().startswith("["):
            value = self._unwrapped(value, deviation)
        texts = (self.text(item) for item in value[: self._limits.strings])
        return tuple(text for text in texts if text)

    def _unwrapped(self, value: list[Any], deviation: Deviation) -> list[Any]:
        """Microsoft writes one string that is itself a JSON array."""
        try:
            inner = json.loads(value[0][: self._limits.text * self._limits.strings])
        except (ValueError, RecursionError):
            return value
        if not isinstance(inner, list):
            return value
        self.note(deviation)
        return inner

    def _summary(self, item: Mapping[str, Any]) -> tuple[int, int | None]:
        found = self.member(item, "summary")
        if not isinstance(found, dict):
            self.note(Deviation.SUMMARY_MISSING)
            return 0, None
        successful = self._count(self.member(found, "total-successful-session-count", "total-successful-sessions"))
        failed = self._count(
            self.member(found, "total-failure-session-count", "total-failed-session-count", "total-failure-sessions")
        )
        return successful or 0, failed

    def _count(self, value: object) -> int | None:
        if isinstance(value, str) and (match := _NUMBER.match(value)):
            self.note(Deviation.COUNT_INVALID)
            value = int(match[1])
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < self._limits.count:
            return value
        self.note(Deviation.COUNT_INVALID)
        return None

    # -- failures ------------------------------------------------------------------------------------------

    def _failures(self, value: object) -> Iterable[FailureDetail]:
        if value is None:
            return
        if isinstance(value, dict):
            self.note(Deviation.DETAILS_FORM)
            value = [value]
        if not isinstance(value, list):
            self.note(Deviation.DETAILS_FORM)
            return
        for item in value:
            if self._details >= self._limits.details:
                self.note(Deviation.DETAILS_TOO_MANY)
                return
            if isinstance(item, dict):
                self._details += 1
                yield self._failure(item)
            else:
                self.note(Deviation.DETAILS_FORM)

    def _failure(self, item: Mapping[str, Any]) -> FailureDetail:
        count = self._count(self.member(item, "failed-session-count"))
        reason = self.text(self.member(item, "failure-reason-code"))
        return FailureDetail(
            result_type=self._result_type(self.text(self.member(item, "result-type"))),
            count=1 if count is None else count,
            mx_host=self._host(self.member(item, "receiving-mx-hostname")),
            sending_ip=self._address(self.member(item, "sending-mta-ip")),
            receiving_ip=self._address(self.member(item, "receiving-ip")),
            helo=self.text(self.member(item, "receiving-mx-helo"))[:255],
            info=self.text(self.member(item, "additional-information", "additional-info-uri")),
            reason=reason,
        )

    def _result_type(self, written: str) -> str:
        kind = written.lower().replace("_", "-").replace(" ", "-")
        if kind in RESULT_TYPES:
            return kind
        self.note(Deviation.RESULT_TYPE_UNKNOWN if kind else Deviation.RESULT_TYPE_MISSING)
        return kind if _SLUG.match(kind) else "unknown"

    def _host(self, value: object) -> str:
        text = self.text(value)
        return host_name(text) or text[:253]

    def _address(self, value: object) -> str:
        text = self.text(value)
        found = address(text.strip("[]")) if text else ""
        if text and not found:
            self.note(Deviation.ADDRESS_INVALID)
        return found
