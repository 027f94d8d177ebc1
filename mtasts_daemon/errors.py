"""The error tree.

Each leaf has a ``slug`` (log key, metric label, report reason; never renamed), and a ``tlsrpt_result``: the result
type of RFC 8460 section 4.3 that it is reported as. The first line of a leaf's docstring is the sentence an operator
reads; ``detail`` adds the facts. Exceptions of libraries are translated into these where they are raised.
"""

from typing import ClassVar


class MtaStsError(Exception):
    """Base class of all errors that this program names."""

    slug: ClassVar[str] = ""
    tlsrpt_result: ClassVar[str | None] = None

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail

    @property
    def sentence(self) -> str:
        """Return the sentence of the leaf and the detail."""
        sentence = (self.__class__.__doc__ or "").partition("\n")[0].rstrip(".")
        return f"{sentence}: {self.detail}" if self.detail else sentence

    def __str__(self) -> str:
        return self.sentence


class PublishError(MtaStsError):
    """Publishing failed."""

    slug = "publish-failed"


# -- DNS ---------------------------------------------------------------------------------------------------


class DnsError(MtaStsError):
    """A DNS query got no usable answer."""


class DnsTimeout(DnsError):
    """No resolver answered in time."""

    slug = "dns-timeout"


class DnsServerFailure(DnsError):
    """The resolver returned SERVFAIL, which it also does for bogus DNSSEC."""

    slug = "dns-servfail"


class DnsRefused(DnsError):
    """The resolver refused to answer (REFUSED, NOTIMP or another error code)."""

    slug = "dns-refused"


class DnsMalformed(DnsError):
    """The resolver's answer is malformed."""

    slug = "dns-malformed"


class DnsUnreachable(DnsError):
    """No resolver could be reached."""

    slug = "dns-unreachable"


# -- the TXT record, RFC 8461 section 3.1 ------------------------------------------------------------------


class StsRecordError(MtaStsError):
    """The _mta-sts TXT record is not valid."""

    tlsrpt_result = "sts-policy-invalid"


class StsRecordMultiple(StsRecordError):
    """There is more than one TXT record with v=STSv1."""

    slug = "sts-record-multiple"


class StsRecordSyntax(StsRecordError):
    """The TXT record does not follow the grammar of RFC 8461 section 3.1."""

    slug = "sts-record-syntax"


class StsRecordIdMissing(StsRecordError):
    """The TXT record has no id field."""

    slug = "sts-record-no-id"


class StsRecordIdInvalid(StsRecordError):
    """The TXT record's id is not 1 to 32 letters and digits."""

    slug = "sts-record-bad-id"


# -- fetching the policy, RFC 8461 section 3.3 -------------------------------------------------------------


class PolicyFetchError(MtaStsError):
    """The policy could not be fetched."""

    tlsrpt_result: ClassVar[str | None] = "sts-policy-fetch-error"


class PolicyHostNotFound(PolicyFetchError):
    """The policy host has no address."""

    slug = "policy-host-not-found"


class PolicyHostLookupFailed(PolicyFetchError):
    """The policy host's address could not be looked up."""

    slug = "policy-host-lookup-failed"


class PolicyAddressRefused(PolicyFetchError):
    """The policy host's address is not permitted."""

    slug = "policy-address-refused"


class PolicyConnectFailed(PolicyFetchError):
    """The connection to the policy host failed."""

    slug = "policy-connect-failed"


class PolicyTimeout(PolicyFetchError):
    """The policy host did not answer completely in time."""

    slug = "policy-timeout"


class PolicyTlsFailed(PolicyFetchError):
    """The TLS handshake with the policy host failed."""

    slug = "policy-tls-failed"


class PolicyHttpBroken(PolicyFetchError):
    """The policy host's answer was not well-formed HTTP or ended early."""

    slug = "policy-http-malformed"


class PolicyHttpStatus(PolicyFetchError):
    """The policy host answered with a status other than 200."""

    slug = "policy-http-status"


class PolicyRedirect(PolicyFetchError):
    """The policy host answered with a redirect, which must not be followed."""

    slug = "policy-http-redirect"


class PolicyMediaType(PolicyFetchError):
    """The policy is not served as text/plain."""

    slug = "policy-media-type"


class PolicyEncoding(PolicyFetchError):
    """The policy is served with a content encoding."""

    slug = "policy-content-encoding"


class PolicyTooLarge(PolicyFetchError):
    """The policy is larger than 64 KiB."""

    slug = "policy-too-large"


class OwnFetchFailure(PolicyFetchError):
    """This host could not fetch the policy; that says nothing about the policy host."""

    tlsrpt_result = None


class PolicyFetchBusy(OwnFetchFailure):
    """Too many fetches were under way for this one."""

    slug = "policy-fetch-busy"


class HttpsUnavailable(OwnFetchFailure):
    """HTTPS is not available on this host; the log says why."""

    slug = "https-unavailable"


class NoRoute(OwnFetchFailure):
    """This host has no route to the policy host."""

    slug = "https-no-route"


class ProxyFailed(OwnFetchFailure):
    """The proxy of https.proxy did not connect to the policy host."""

    slug = "https-proxy-failed"


class CaCertificatesMissing(OwnFetchFailure):
    """This host has no CA certificates, so no certificate can be verified; install them or set https.ca_file."""

    slug = "https-no-ca-certificates"


class ResolverUnreachable(OwnFetchFailure):
    """The policy host's address could not be looked up because no resolver could be reached."""

    slug = "https-resolver-unreachable"


OWN_FETCH_SLUGS = frozenset(leaf.slug for leaf in OwnFetchFailure.__subclasses__())
"""Slugs of failures that are ours: retried soon, not counted, never reported to a domain as its failure."""


class WebPkiError(PolicyFetchError):
    """The policy host's certificate is not valid for it."""

    tlsrpt_result = "sts-webpki-invalid"


class WebPkiExpired(WebPkiError):
    """The policy host's certificate has expired."""

    slug = "webpki-expired"


class WebPkiNotYetValid(WebPkiError):
    """The policy host's certificate is not yet valid."""

    slug = "webpki-not-yet-valid"


class WebPkiNameMismatch(WebPkiError):
    """The policy host's certificate is for another name."""

    slug = "webpki-name-mismatch"


class WebPkiSelfSigned(WebPkiError):
    """The policy host's certificate is self-signed."""

    slug = "webpki-self-signed"


class WebPkiUntrusted(WebPkiError):
    """The policy host's certificate has no trusted issuer."""

    slug = "webpki-untrusted"


class WebPkiInvalid(WebPkiError):
    """The policy host's certificate was rejected."""

    slug = "webpki-invalid"


# -- the policy's text, RFC 8461 section 3.2 ---------------------------------------------------------------


class PolicySyntaxError(MtaStsError):
    """The policy is not valid."""

    tlsrpt_result = "sts-policy-invalid"


class PolicyNotText(PolicySyntaxError):
    """The policy is not UTF-8 text."""

    slug = "policy-not-text"


class PolicyLineSyntax(PolicySyntaxError):
    """A line of the policy does not follow the grammar of RFC 8461 section 3.2."""

    slug = "policy-line-syntax"


class PolicyVersion(PolicySyntaxError):
    """The policy has no version STSv1."""

    slug = "policy-version"


class PolicyMode(PolicySyntaxError):
    """The policy has no mode of enforce, testing or none."""

    slug = "policy-mode"


class PolicyMaxAge(PolicySyntaxError):
    """The policy has no max_age of 1 to 10 digits."""

    slug = "policy-max-age"


class PolicyMxMissing(PolicySyntaxError):
    """The policy has no mx, but its mode is not none."""

    slug = "policy-mx-missing"


class PolicyMxTooMany(PolicySyntaxError):
    """The policy has too many mx lines."""

    slug = "policy-mx-too-many"


class PolicyMxSyntax(PolicySyntaxError):
    """An mx of the policy is not a host name or a *. pattern."""

    slug = "policy-mx-syntax"


class PolicyJsonSyntax(PolicySyntaxError):
    """The 2017 draft's JSON policy is not valid."""

    slug = "policy-json-syntax"


# -- talking with Postfix ----------------------------------------------------------------------------------


class FrameError(MtaStsError):
    """A request did not follow its protocol."""

    slug = "frame-malformed"


class ReplyError(MtaStsError):
    """Postfix would not accept the policy-table entry."""

    slug = "reply-refused"


# -- TLSRPT, RFC 8460 --------------------------------------------------------------------------------------


class TlsrptEventError(MtaStsError):
    """A TLSRPT event cannot be used."""


class EventTooLarge(TlsrptEventError):
    """The TLSRPT event is larger than 256 KiB."""

    slug = "event-too-large"


class EventNotJson(TlsrptEventError):
    """The TLSRPT event is not a JSON object."""

    slug = "event-not-json"


class EventVersion(TlsrptEventError):
    """The TLSRPT event has a version of the datagram protocol other than 1."""

    slug = "event-version"


class EventShape(TlsrptEventError):
    """A member of the TLSRPT event is missing or has the wrong type."""

    slug = "event-shape"


class EventPolicyType(TlsrptEventError):
    """The TLSRPT event has an unknown policy type."""

    slug = "event-policy-type"


class EventDomain(TlsrptEventError):
    """The TLSRPT event's domain cannot have a policy."""

    slug = "event-domain"


class EventNotKept(TlsrptEventError):
    """The TLSRPT event was dropped because the queue was full."""

    slug = "event-not-kept"


class TlsrptRecordError(MtaStsError):
    """The _smtp._tls TXT record is not valid."""


class TlsrptRecordMultiple(TlsrptRecordError):
    """There is more than one TXT record with v=TLSRPTv1."""

    slug = "tlsrpt-record-multiple"


class TlsrptRecordSyntax(TlsrptRecordError):
    """The TXT record is too long or not US-ASCII."""

    slug = "tlsrpt-record-syntax"


class TlsrptRecordNoRua(TlsrptRecordError):
    """The TXT record has no rua field."""

    slug = "tlsrpt-record-no-rua"


class DsnError(MtaStsError):
    """The message is not a delivery status notification about a report."""

    slug = "dsn-unusable"


# -- TLS reports received from others, RFC 8460 section 4 ---------------------------------------------------


class ReceivedReportError(MtaStsError):
    """The message has no usable TLS report."""


class ReceivedReportMissing(ReceivedReportError):
    """No part of the message is a TLS report."""

    slug = "report-missing"


class ReceivedReportTooLarge(ReceivedReportError):
    """The TLS report is too large."""

    slug = "report-too-large"


class ReceivedReportArchive(ReceivedReportError):
    """The TLS report could not be unpacked."""

    slug = "report-archive-invalid"


class ReceivedReportSyntax(ReceivedReportError):
    """The TLS report is not JSON."""

    slug = "report-not-json"


class ReceivedReportShape(ReceivedReportError):
    """A required member of the TLS report is missing."""

    slug = "report-incomplete"


class ReceivedReportRange(ReceivedReportError):
    """The time range of the TLS report is not valid."""

    slug = "report-range-invalid"


class ReceivedReportDeferred(MtaStsError):
    """The TLS report cannot be accepted now; the sender should retry."""

    slug = "report-deferred"


class ReceivedReportQuota(ReceivedReportDeferred):
    """The submitter exceeded its daily number of reports."""

    slug = "report-quota-exceeded"


class SignatureKeyUnavailable(ReceivedReportDeferred):
    """The key of a DKIM signature could not be looked up."""

    slug = "report-key-unavailable"


# -- this host -----------------------------------------------------------------------------------------


class StoreError(MtaStsError):
    """The store failed."""

    slug = "store-failed"


class StoreDamaged(StoreError):
    """The store's file is damaged."""

    slug = "store-damaged"


class StoreSchemaNewer(StoreError):
    """The store was written by a newer version of this program."""

    slug = "store-schema-newer"


class ConfigError(MtaStsError):
    """The configuration is not valid."""

    slug = "config-invalid"
