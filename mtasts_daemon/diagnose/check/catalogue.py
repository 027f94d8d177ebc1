"""The catalogue of findings: one row per slug. ``docs/findings.md`` is generated from it.

A slug is never renamed. Sentences begin after the subject: "mx1.example.com: STARTTLS is not offered".
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from ... import errors
from ...notify.alert import Severity

__all__ = ["CATALOGUE", "Demand", "FindingKind"]


class Demand(Enum):
    """How strictly a sender must authenticate the host, which decides the severity of many findings."""

    ENFORCED = 0
    """An enforced policy, or usable TLSA records."""
    TESTING = 1
    NONE = 2


@dataclass(frozen=True, slots=True)
class FindingKind:
    """One kind of finding.

    ``severities`` are for each ``Demand`` in order. ``ours`` marks faults of this host: the domain could
    not be checked. ``advice`` is reported only to someone who runs the domain (``--mine``).
    """

    slug: str
    severities: tuple[Severity, Severity, Severity]
    sentence: str
    rfc: str
    remedy: str
    ours: bool = False
    advice: bool = False

    def severity(self, demand: Demand) -> Severity:
        """Return the severity under ``demand``."""
        return self.severities[demand.value]


_LETTERS = {"E": Severity.ERROR, "W": Severity.WARNING, "N": Severity.NOTE, "O": Severity.OK}

_S, _F, _G = "RFC 8461 3.1", "RFC 8461 3.3", "RFC 8461 3.2"
_V, _T, _D = "RFC 8461 4.2", "RFC 3207 4", "RFC 7672 3.1"

# Slug, severities (enforced, testing, otherwise), sentence, RFC section, remedy.
_ROWS: tuple[tuple[str, str, str, str, str], ...] = (
    # -- the _mta-sts record
    ("sts-record-ok", "OOO", "the _mta-sts record is valid", _S, ""),
    ("sts-record-missing", "NNN", "the domain has no MTA-STS policy", _S,
     "Publish a policy, first in mode testing, and then the TXT record _mta-sts."),
    ("sts-record-alias", "NNN", "the _mta-sts record is an alias (CNAME)", _S,
     "Nothing to do, if the operator of the target changes the id when the policy changes."),
    ("sts-lookup-failed", "EEE", "the _mta-sts record cannot be looked up", _S,
     "Repair the domain's name servers or its DNSSEC signatures; new senders find no policy meanwhile."),
    ("sts-policy-without-record", "WWW", "a policy is served, but no valid _mta-sts record announces it", _S,
     "Publish the TXT record _mta-sts with v=STSv1 and an id; without it senders do not fetch the policy."),
    # -- the policy host
    ("policy-host-address-failed", "WWW", "one address of the policy host does not work, another does", _F,
     "Repair the service at that address or remove the address record."),
    ("policy-host-certificate-expires", "WWW", "the policy host's certificate expires within 14 days", _F,
     "Renew the certificate; senders reject the policy host as soon as it has expired."),
    ("policy-not-checked", "NNN", "the policy could not be fetched because of this host", _F,
     "Check this host with mtastsctl selftest."),
    # -- the policy
    ("policy-ok", "OOO", "the policy is valid and enforced", _G, ""),
    ("policy-mode-testing", "NNN", "the policy is in mode testing: senders report failures but deliver anyway",
     "RFC 8461 5", "Change to mode enforce when the TLS reports show no failures."),
    ("policy-mode-none", "NNN", "the policy is in mode none: senders treat the domain as without a policy",
     "RFC 8461 5", "If the policy is being removed, keep mode none until the largest max_age ever served has passed."),
    ("policy-max-age-short", "WWW", "max_age is below one day", _G,
     "Raise max_age to weeks, so that a blocked policy host cannot make senders forget the policy."),
    ("policy-mx-mismatch", "EWN", "no mx pattern of the policy permits this MX host", "RFC 8461 4.1",
     "Add the host to the policy and change the id, or remove the MX record."),
    ("policy-mx-none-match", "EWN", "the policy permits none of the MX hosts: senders defer all mail", "RFC 8461 4.1",
     "Correct the mx lines of the policy, then change the id in the _mta-sts record."),
    ("policy-pattern-unused", "NNN", "this mx pattern of the policy matches no MX host", "RFC 8461 4.1",
     "Remove the pattern if no backup host needs it."),
    # -- MX
    ("mx-lookup-failed", "EEE", "the MX records cannot be looked up", "RFC 5321 5.1",
     "Repair the domain's name servers or its DNSSEC signatures; mail is deferred meanwhile."),
    ("domain-not-found", "EEE", "the domain does not exist", "RFC 5321 5.1", "Check the spelling of the domain."),
    ("mx-null", "NNN", "the domain accepts no mail (null MX)", "RFC 7505 3", ""),
    ("mx-null-not-alone", "EEE", "a null MX is published with other MX records: Postfix returns all mail", "RFC 7505 3",
     "Remove the null MX (MX 0 .) if the domain accepts mail; otherwise remove all other MX records."),
    ("mx-missing", "WWW", "there are no MX records: senders use the domain's own address", "RFC 5321 5.1",
     "Publish an MX record, or a null MX (MX 0 .) if the domain accepts no mail."),
    ("mx-and-address-missing", "EEE", "there are neither MX records nor addresses: senders return all mail",
     "RFC 5321 5.1", "Publish an MX record, or a null MX (MX 0 .) if the domain accepts no mail."),
    ("mx-no-address", "EEE", "the MX host has no address", "RFC 5321 5.1",
     "Publish A or AAAA records for the host, or remove the MX record."),
    ("mx-address-lookup-failed", "EEE", "the address of the MX host cannot be looked up", "RFC 5321 5.1",
     "Repair the name servers of the host's zone."),
    ("mx-not-hostname", "EEE", "the MX record does not name a host", "RFC 5321 5.1",
     "Write a host name into the MX record, never an address."),
    ("mx-alias", "WWW", "the MX host is an alias (CNAME)", "RFC 2181 10.3",
     "Name the canonical host in the MX record; some senders reject an alias."),
    ("mx-more-hosts", "NNN", "there are more MX hosts than are probed", "RFC 5321 5.1", ""),
    ("mx-more-addresses", "NNN", "the MX host has more addresses than are probed", "RFC 5321 5.1", ""),
    ("mx-not-probed", "NNN", "the MX host was not probed: connections to port 25 are switched off", "RFC 5321 5.1",
     "Check without --no-smtp, and with check.port25: true."),
    # -- SMTP
    ("smtp-ok", "OOO", "offers STARTTLS with a certificate that is valid for its name", _V, ""),
    ("smtp-address-refused", "EEE", "the MX host has an address that no sender can reach", "RFC 5321 5.1",
     "Publish a public address for the host."),
    ("smtp-connect-refused", "EEE", "refuses connections to port 25", "RFC 5321 4.5.4.1",
     "Start the mail server, or remove the host from the MX records."),
    ("smtp-connect-timeout", "EEE", "does not answer on port 25", "RFC 5321 4.5.4.1",
     "Check the host and the firewall in front of it."),
    ("smtp-connect-failed", "EEE", "cannot be connected to on port 25", "RFC 5321 4.5.4.1",
     "Check the host and the firewall in front of it."),
    ("smtp-address-failed", "WWW", "one address of the MX host does not accept connections, another does",
     "RFC 5321 5.1", "Repair the service at that address or remove the address record."),
    ("smtp-no-route", "NNN", "this host has no route to the address, so it was not probed", "RFC 5321 5.1",
     "Run the check from a host with IPv4 and IPv6."),
    ("smtp-busy", "NNN", "was not probed in time, because too many probes were under way here", "RFC 5321 5.1",
     "Repeat the check later."),
    ("smtp-timeout", "EEE", "accepts the connection but does not answer in time", "RFC 5321 4.5.3.2",
     "Check the load of the mail server and any delay that it imposes on new clients."),
    ("smtp-closed", "EEE", "closes the connection during the session", "RFC 5321 3.8",
     "Read the mail server's log at the time of the check."),
    ("smtp-greeting-rejected", "WWW", "rejects this host in its greeting", "RFC 5321 3.1",
     "The server may reject this host only: repeat the check from another address."),
    ("smtp-ehlo-rejected", "EEE", "rejects EHLO", "RFC 5321 4.1.1.1",
     "Let the mail server speak ESMTP; without EHLO there is no STARTTLS."),
    ("smtp-protocol", "EEE", "does not speak SMTP", "RFC 5321 4.2", "Let a mail server listen on port 25."),
    ("smtp-too-large", "EEE", "sends more data than an SMTP session can need", "RFC 5321 4.5.3.1",
     "Check that a mail server listens on port 25."),
    ("starttls-not-offered", "EWW", "does not offer STARTTLS", _T,
     "Enable TLS in the mail server, and check that no firewall in front of it removes STARTTLS."),
    ("starttls-rejected", "EWW", "offers STARTTLS but rejects it", _T,
     "Read the mail server's log: its key or certificate probably cannot be loaded."),
    ("starttls-injection", "EEE", "sends data in the clear after the reply to STARTTLS", "RFC 3207 4.2",
     "Update the mail server: it, or a proxy in front of it, mixes plaintext into TLS."),
    ("tls-version-old", "EWW", "offers no TLS version of 1.2 or later", "RFC 8996",
     "Enable TLS 1.2 and 1.3 in the mail server."),
    ("tls-handshake-failed", "EWW", "the TLS handshake fails", _T,
     "Read the mail server's log; check its key, certificate and cipher settings."),
    ("smtp-ehlo-tls-failed", "EWW", "does not answer EHLO under TLS", "RFC 3207 4.2",
     "Check the mail server; it must accept EHLO again after STARTTLS."),
    ("certificate-expired", "EWN", "the certificate has expired", _V, "Renew the certificate and reload the server."),
    ("certificate-not-yet-valid", "EWN", "the certificate is not valid yet", _V,
     "Check the clock of the host that issued the certificate, or wait."),
    ("certificate-self-signed", "EWN", "the certificate is self-signed", _V,
     "Use a certificate of a public authority; MTA-STS senders accept no other."),
    ("certificate-untrusted", "EWN", "the certificate has no trusted issuer", _V,
     "Configure the full chain: the certificate, then the intermediates, without the root."),
    ("certificate-invalid", "EWN", "the certificate is rejected", _V, "Replace the certificate."),
    ("certificate-name-mismatch", "EWN", "the certificate is not for the name of the MX host", _V,
     "Get a certificate whose DNS names contain the host as the MX record names it."),
    ("certificate-expires", "WWW", "the certificate expires within 14 days", _V,
     "Renew the certificate; automatic renewal seems not to work."),
    ("requiretls-announced", "OOO", "announces REQUIRETLS", "RFC 8689 2", ""),
    ("requiretls-partial", "WWW", "some MX hosts announce REQUIRETLS and others do not", "RFC 8689 4.2.1",
     "Announce REQUIRETLS on all hosts; a message that requires it bounces at the others."),
    # -- DANE
    ("dane-ok", "OOO", "the TLSA records match the certificate", _D, ""),
    ("dane-mismatch", "EEE", "no TLSA record matches the certificate: DANE senders defer mail to this host", _D,
     "Publish a TLSA record for the key in use, and publish the next one before the key changes."),
    ("dane-unusable", "WWW", "no TLSA record is usable: senders require TLS but do not check the certificate", _D,
     "Publish records 3 1 1 (or 2 1 1) with a SHA-256 digest."),
    ("dane-no-starttls", "EEE", "has TLSA records but offers no working STARTTLS: DANE senders defer mail",
     "RFC 7672 2.2", "Repair STARTTLS, or remove the TLSA records."),
    ("dane-partial", "NNN", "has no TLSA records, other MX hosts do", "RFC 7672 2.2",
     "Publish TLSA records for every MX host; an attacker can direct mail to the host without."),
    ("dane-lookup-failed", "EEE", "the DANE lookups fail: DANE senders defer mail to this host", "RFC 7672 2.1.3",
     "Repair the name servers or the DNSSEC signatures of the host's zone."),
    ("dane-missing", "NNN", "the domain does not use DANE", "RFC 7672 2.2",
     "Sign the zones of the domain and of its MX hosts, and publish TLSA records."),
    ("dane-not-checked", "NNN", "DANE was not checked: the resolver of this host does not validate DNSSEC",
     "RFC 7672 2.2", "Use a local validating resolver, or list it in dns.trust_ad."),
    # -- TLSRPT
    ("tlsrpt-ok", "OOO", "TLS reports are requested, and the addresses accept them", "RFC 8460 3", ""),
    ("tlsrpt-missing", "NNN", "the domain requests no TLS reports", "RFC 8460 3",
     "Publish the TXT record _smtp._tls, for example v=TLSRPTv1; rua=mailto:tlsrpt@example.com."),
    ("tlsrpt-lookup-failed", "WWW", "the _smtp._tls record cannot be looked up", "RFC 8460 3",
     "Repair the domain's name servers."),
    ("tlsrpt-rua-invalid", "WWW", "a report address is invalid", "RFC 8460 3",
     "Correct the rua field: mailto: or https: URIs, separated by commas."),
    ("tlsrpt-rua-unreachable", "WWW", "reports cannot be delivered to this address", "RFC 8460 3",
     "Repair the receiver, or remove the address from the record."),
    # -- all of it
    ("no-transport-security", "WWW", "neither MTA-STS nor DANE protects mail to this domain", "RFC 8461 1",
     "Publish an MTA-STS policy or TLSA records; until then an attacker in the path can read the mail."),
)  # fmt: skip

_OURS: tuple[tuple[str, str, str], ...] = (
    ("dns-unavailable", "the resolver of this host does not answer", "Check this host with mtastsctl selftest."),
    ("port25-blocked", "this host cannot connect to port 25 of any server, so no MX host was checked",
     "Run the check from a host whose provider permits outgoing connections to port 25."),
    ("check-timeout", "the check did not finish in time", "Repeat the check."),
)  # fmt: skip

_ADVICE: tuple[tuple[str, str, str, str, str], ...] = (
    ("tlsrpt-advised", "W", "without TLS reports you do not learn that senders fail", "RFC 8460 3",
     "Publish the TXT record _smtp._tls, for example v=TLSRPTv1; rua=mailto:tlsrpt@example.com."),
    ("policy-max-age-advised", "W", "max_age is below one week", _G,
     "Raise max_age to at least 604800; RFC 8461 suggests weeks or more."),
    ("policy-testing-long", "W", "the policy seems to have been in testing for more than 90 days", "RFC 8461 8.2",
     "Read the TLS reports and change to mode enforce; testing protects nothing."),
    ("certificate-expires-soon", "W", "the certificate expires within 30 days", _V,
     "Check that automatic renewal works."),
    ("dane-next-key", "N", "there is one TLSA record only, so the key cannot be changed without an outage",
     "RFC 7671 8.1", "Publish a second record for the next key, and keep both through every change."),
    ("mx-ipv6-advised", "N", "no MX host has an IPv6 address", "RFC 7381",
     "Add IPv6 to one MX host; some senders have no IPv4."),
)  # fmt: skip

# Errors of the parsers and of the fetcher: their own sentence, and what to do about each.
_REMEDIES: Mapping[str, str] = {
    "sts-record-multiple": "Remove all TXT records at _mta-sts that begin with v=STSv1 but one.",
    "sts-record-syntax": "Write the record as v=STSv1; id=20240101T000000;",
    "sts-record-no-id": "Add an id: v=STSv1; id=20240101T000000;",
    "sts-record-bad-id": "Use 1 to 32 letters and digits as the id.",
    "policy-host-not-found": "Publish A or AAAA records for mta-sts.DOMAIN, or remove the _mta-sts record.",
    "policy-host-lookup-failed": "Repair the name servers of mta-sts.DOMAIN.",
    "policy-address-refused": "Publish a public address for mta-sts.DOMAIN.",
    "policy-connect-failed": "Start the web server for mta-sts.DOMAIN, and open port 443.",
    "policy-timeout": "Let the web server answer within seconds; senders give up after a minute.",
    "policy-tls-failed": "Enable TLS 1.2 and 1.3, and a certificate for mta-sts.DOMAIN.",
    "policy-http-malformed": "Check the web server for mta-sts.DOMAIN.",
    "policy-http-status": "Serve the policy with status 200 at /.well-known/mta-sts.txt.",
    "policy-http-redirect": "Serve the policy itself at mta-sts.DOMAIN; senders must not follow redirects.",
    "policy-media-type": "Serve the policy with Content-Type: text/plain.",
    "policy-content-encoding": "Serve the policy without compression.",
    "policy-too-large": "Shorten the policy to less than 64 KiB.",
    "webpki-expired": "Renew the certificate of mta-sts.DOMAIN.",
    "webpki-not-yet-valid": "Check the clock of the host that issued the certificate, or wait.",
    "webpki-name-mismatch": "Get a certificate whose DNS names contain mta-sts.DOMAIN.",
    "webpki-self-signed": "Use a certificate of a public authority for mta-sts.DOMAIN.",
    "webpki-untrusted": "Configure the full chain: the certificate, then the intermediates, without the root.",
    "webpki-invalid": "Replace the certificate of mta-sts.DOMAIN.",
    "policy-not-text": "Write the policy in US-ASCII.",
    "policy-line-syntax": "Write each line as name: value.",
    "policy-version": "Begin the policy with version: STSv1.",
    "policy-mode": "Write mode: enforce, mode: testing or mode: none.",
    "policy-max-age": "Write max_age as seconds, for example max_age: 604800.",
    "policy-mx-missing": "Add an mx line for each MX host.",
    "policy-mx-too-many": "Use *.domain patterns; more than 500 mx lines are not read.",
    "policy-mx-syntax": "Write each mx as a host name or *.domain, without a final dot.",
    "policy-json-syntax": "Serve the policy in the form of RFC 8461, not in that of the draft of 2017.",
    "tlsrpt-record-multiple": "Remove all TXT records at _smtp._tls that begin with v=TLSRPTv1 but one.",
    "tlsrpt-record-syntax": "Write the record as v=TLSRPTv1; rua=mailto:tlsrpt@example.com",
    "tlsrpt-record-no-rua": "Add a rua field: v=TLSRPTv1; rua=mailto:tlsrpt@example.com",
}

_TREES: tuple[tuple[type[errors.MtaStsError], str, str], ...] = (
    (errors.StsRecordError, "EEE", _S),
    (errors.PolicyFetchError, "EEE", _F),
    (errors.PolicySyntaxError, "EEE", _G),
    (errors.TlsrptRecordError, "WWW", "RFC 8460 3"),
)


def _leaves(root: type[errors.MtaStsError]) -> Iterator[type[errors.MtaStsError]]:
    for kind in root.__subclasses__():
        if kind.slug:
            yield kind
        yield from _leaves(kind)


def _severities(letters: str) -> tuple[Severity, Severity, Severity]:
    first, second, third = (_LETTERS[letter] for letter in (letters if len(letters) == 3 else letters * 3))
    return first, second, third


def _sentence(kind: type[errors.MtaStsError]) -> str:
    text = (kind.__doc__ or "").partition("\n")[0].rstrip(".")
    return text[0].lower() + text[1:] if text[1:2] in " " or text[1:2].islower() else text


def _kinds() -> Iterator[FindingKind]:
    for slug, letters, sentence, rfc, remedy in _ROWS:
        ours = slug in ("policy-not-checked", "smtp-busy", "smtp-no-route")
        yield FindingKind(slug, _severities(letters), sentence, rfc, remedy, ours=ours)
    for slug, sentence, remedy in _OURS:
        yield FindingKind(slug, _severities("N"), sentence, "", remedy, ours=True)
    for slug, letters, sentence, rfc, remedy in _ADVICE:
        yield FindingKind(slug, _severities(letters), sentence, rfc, remedy, advice=True)
    for root, letters, rfc in _TREES:
        for kind in _leaves(root):
            if kind.slug in _REMEDIES:
                yield FindingKind(kind.slug, _severities(letters), _sentence(kind), rfc, _REMEDIES[kind.slug])


CATALOGUE: Mapping[str, FindingKind] = {kind.slug: kind for kind in _kinds()}
"""All kinds of findings by slug."""
