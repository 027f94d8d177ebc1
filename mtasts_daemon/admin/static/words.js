// Sentences for slugs and types of replies. A test compares them with the program's own.

export const SENTENCES = {
  "dns-timeout": "No resolver answered in time",
  "dns-servfail": "The resolver returned SERVFAIL, which it also does for bogus DNSSEC",
  "dns-refused": "The resolver refused to answer (REFUSED, NOTIMP or another error code)",
  "dns-malformed": "The resolver's answer is malformed",
  "dns-unreachable": "No resolver could be reached",
  "sts-record-multiple": "There is more than one TXT record with v=STSv1",
  "sts-record-syntax": "The TXT record does not follow the grammar of RFC 8461 section 3.1",
  "sts-record-no-id": "The TXT record has no id field",
  "sts-record-bad-id": "The TXT record's id is not 1 to 32 letters and digits",
  "policy-host-not-found": "The policy host has no address",
  "policy-host-lookup-failed": "The policy host's address could not be looked up",
  "policy-address-refused": "The policy host's address is not permitted",
  "policy-connect-failed": "The connection to the policy host failed",
  "policy-timeout": "The policy host did not answer completely in time",
  "policy-tls-failed": "The TLS handshake with the policy host failed",
  "policy-http-malformed": "The policy host's answer was not well-formed HTTP or ended early",
  "policy-http-status": "The policy host answered with a status other than 200",
  "policy-http-redirect": "The policy host answered with a redirect, which must not be followed",
  "policy-media-type": "The policy is not served as text/plain",
  "policy-content-encoding": "The policy is served with a content encoding",
  "policy-too-large": "The policy is larger than 64 KiB",
  "policy-fetch-busy": "Too many fetches were under way for this one",
  "https-unavailable": "HTTPS is not available on this host; the log says why",
  "https-no-route": "This host has no route to the policy host",
  "https-proxy-failed": "The proxy of https.proxy did not connect to the policy host",
  "https-no-ca-certificates": "This host has no CA certificates, so no certificate can be verified; install them or set https.ca_file",
  "https-resolver-unreachable": "The policy host's address could not be looked up because no resolver could be reached",
  "webpki-expired": "The policy host's certificate has expired",
  "webpki-not-yet-valid": "The policy host's certificate is not yet valid",
  "webpki-name-mismatch": "The policy host's certificate is for another name",
  "webpki-self-signed": "The policy host's certificate is self-signed",
  "webpki-untrusted": "The policy host's certificate has no trusted issuer",
  "webpki-invalid": "The policy host's certificate was rejected",
  "policy-not-text": "The policy is not UTF-8 text",
  "policy-line-syntax": "A line of the policy does not follow the grammar of RFC 8461 section 3.2",
  "policy-version": "The policy has no version STSv1",
  "policy-mode": "The policy has no mode of enforce, testing or none",
  "policy-max-age": "The policy has no max_age of 1 to 10 digits",
  "policy-mx-missing": "The policy has no mx, but its mode is not none",
  "policy-mx-too-many": "The policy has too many mx lines",
  "policy-mx-syntax": "An mx of the policy is not a host name or a *. pattern",
  "policy-json-syntax": "The 2017 draft's JSON policy is not valid",
};

/** The sentence of a slug, or the slug itself. */
export function sentence(slug) {
  return Object.hasOwn(SENTENCES, slug) ? SENTENCES[slug] : slug;
}

/** The types of replies in the order of the charts, with their effect on mail. */
export const KINDS = {
  secure: ["secure", "TLS to hosts of the policy"],
  "dane-only": ["dane-only", "DANE required"],
  dane: ["dane", "DANE if available"],
  level: ["level", "default level, with the policy for reports"],
  fixed: ["fixed", "the reply of an override"],
  none: ["none", "no policy: default level"],
  temp: ["temp", "mail is deferred"],
};

export const MODES = {
  enforce: "TLS required",
  testing: "failures are only reported",
  none: "withdrawn",
};

/** Result types of RFC 8460 section 4.3. */
export const RESULTS = {
  "starttls-not-supported": "The host does not offer STARTTLS",
  "certificate-host-mismatch": "The certificate is for another name",
  "certificate-not-trusted": "The certificate has no trusted issuer",
  "certificate-expired": "The certificate has expired",
  "validation-failure": "The handshake failed for another reason",
  "sts-policy-fetch-error": "The policy could not be fetched",
  "sts-policy-invalid": "The policy is not valid",
  "sts-webpki-invalid": "The policy host's certificate is not valid",
  "tlsa-invalid": "The TLSA records are not valid",
  "dnssec-invalid": "DNSSEC failed",
  "dane-required": "DANE is required, but no host has usable TLSA records",
};

const REASONS = Object.keys(RESULTS);

/** The colour of a result type in charts; always the same one. */
export function reasonSlug(reason) {
  const index = REASONS.indexOf(reason);
  return index < 0 ? "none" : `reason-${index}`;
}
