"""A received TLS report as frozen values, RFC 8460 section 4, and the bounds within which it is accepted."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "DEFAULT_LIMITS",
    "RESULT_TYPES",
    "Deviation",
    "FailureDetail",
    "IntakeLimits",
    "ReceivedReport",
    "ReportSource",
    "ReportedPolicy",
]


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """Limits for input from strangers. Sizes are bytes; all other values are counts."""

    mail: int = 10 << 20
    compressed: int = 5 << 20
    unpacked: int = 20 << 20
    ratio: int = 200
    ratio_from: int = 1 << 20
    """The ratio is checked from this unpacked size on: short reports of long lists compress well."""
    depth: int = 16
    tokens: int = 1_000_000
    """Brackets, commas and strings of the JSON text. They bound the memory that its objects take."""
    policies: int = 1000
    details: int = 10_000
    strings: int = 1000
    text: int = 1024
    count: int = 1 << 53
    range_seconds: int = 7 * 86400


DEFAULT_LIMITS = IntakeLimits()

RESULT_TYPES = frozenset(
    {
        *("starttls-not-supported", "certificate-host-mismatch", "certificate-expired", "certificate-not-trusted"),
        *("validation-failure", "tlsa-invalid", "dnssec-invalid", "dane-required"),
        *("sts-policy-fetch-error", "sts-policy-invalid", "sts-webpki-invalid"),
    }
)
"""RFC 8460 section 4.3."""


class ReportSource(StrEnum):
    """The path by which a report arrived."""

    LMTP = "lmtp"
    PIPE = "pipe"
    HTTPS = "https"
    IMAP = "imap"
    FILE = "file"


class Deviation(StrEnum):
    """A way in which a report departs from RFC 8460. The value is the slug, ``sentence`` is for people."""

    sentence: str

    ATTACHMENT_TYPE = "attachment-type", "the attachment does not have a media type of RFC 8460 section 6"
    BASE64_INVALID = "base64-invalid", "the base64 text of the attachment is damaged"
    GZIP_TRAILING_DATA = "gzip-trailing-data", "data follows the compressed report"
    GZIP_TRUNCATED = "gzip-truncated", "the compressed report ends early"
    ZIP_ARCHIVE = "zip-archive", "the report is a zip archive instead of gzip"
    NOT_UTF8 = "not-utf8", "the report is not UTF-8"
    CONTROL_CHARACTERS = "control-characters", "texts contain control characters"
    JSON_TRAILING_DATA = "json-trailing-data", "data follows the JSON text"
    KEY_SPELLING = "key-spelling", "members are spelled differently from RFC 8460 section 4.4"
    TEXT_TOO_LONG = "text-too-long", "a text is longer than 1024 characters"
    ORGANIZATION_MISSING = "organization-missing", "organization-name is missing"
    CONTACT_MISSING = "contact-missing", "contact-info is missing or null"
    CONTACT_INVALID = "contact-invalid", "contact-info is not an e-mail address"
    REPORT_ID_MISSING = "report-id-missing", "report-id is missing"
    DATE_FORMAT = "date-format", "date-range is not written as RFC 3339 requires"
    RANGE_MISSING = "range-missing", "date-range is missing and was taken from the file name"
    RANGE_REVERSED = "range-reversed", "date-range ends before it begins"
    RANGE_NOT_ONE_DAY = "range-not-one-day", "date-range is not one UTC day"
    POLICIES_NOT_A_LIST = "policies-not-a-list", "policies is not an array"
    POLICIES_TOO_MANY = "policies-too-many", "there are more than 1000 policies; the rest was dropped"
    POLICY_INVALID = "policy-invalid", "an item of policies is not an object"
    POLICY_TYPE_UNKNOWN = "policy-type-unknown", "policy-type is none of RFC 8460 section 4.2"
    POLICY_DOMAIN_MISSING = "policy-domain-missing", "policy-domain is missing"
    POLICY_DOMAIN_INVALID = "policy-domain-invalid", "policy-domain is not a domain name"
    POLICY_STRING_FORM = "policy-string-form", "policy-string is not an array of lines"
    MX_HOST_FORM = "mx-host-form", "mx-host is not an array (RFC 8460 erratum 6241)"
    SUMMARY_MISSING = "summary-missing", "summary is missing"
    COUNT_INVALID = "count-invalid", "a session count is not a whole number"
    DETAILS_FORM = "details-form", "failure-details is not an array of objects"
    DETAILS_TOO_MANY = "details-too-many", "there are more than 10000 failure details; the rest was dropped"
    RESULT_TYPE_MISSING = "result-type-missing", "a failure has no result-type"
    RESULT_TYPE_UNKNOWN = "result-type-unknown", "a result-type is none of RFC 8460 section 4.3"
    ADDRESS_INVALID = "address-invalid", "an IP address cannot be read"
    TOTALS_DISAGREE = "totals-disagree", "failure-details count more sessions than summary"
    SUBMITTER_DISAGREES = "submitter-disagrees", "contact-info names another domain than the signature"

    def __new__(cls, value: str, sentence: str = "") -> "Deviation":
        """Make a member of ``value`` with its sentence."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        return member


@dataclass(frozen=True, slots=True)
class FailureDetail:
    """Sessions that failed in the same way, RFC 8460 section 4.4. Empty text means that it was not reported."""

    result_type: str
    count: int
    mx_host: str = ""
    sending_ip: str = ""
    receiving_ip: str = ""
    helo: str = ""
    info: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ReportedPolicy:
    """The sessions of one policy. ``domain`` is a lower-case A-label name; for TLSA it is usually an MX host."""

    type: str
    domain: str
    successful: int
    failed: int
    strings: tuple[str, ...] = ()
    mx_hosts: tuple[str, ...] = ()
    failures: tuple[FailureDetail, ...] = ()


@dataclass(frozen=True, slots=True)
class ReceivedReport:
    """The content of a report. ``begin`` and ``end`` are seconds since the epoch, ``end`` as in the report."""

    organization: str
    contact: str
    report_id: str
    begin: int
    end: int
    policies: tuple[ReportedPolicy, ...]
    deviations: frozenset[Deviation] = frozenset()

    @property
    def contact_domain(self) -> str:
        """The domain of ``contact``, in lower case, or empty text."""
        return self.contact.rpartition("@")[2].lower() if "@" in self.contact else ""
