"""TLS reports as real senders write them, and the mails and archives that carry them."""

import base64
import gzip
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import dkim  # type: ignore[import-untyped]
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

NOW = 1_795_892_400.0
"""28 November 2026, 19:00 UTC."""

DAY_BEGINS = 1_795_737_600
"""27 November 2026, 00:00 UTC."""


def report(**changes: Any) -> dict[str, Any]:
    """Return a report as in RFC 8460, with one failure."""
    content: dict[str, Any] = {
        "organization-name": "Reporter Inc.",
        "date-range": {"start-datetime": "2026-11-27T00:00:00Z", "end-datetime": "2026-11-27T23:59:59Z"},
        "contact-info": "tlsrpt@reporter.example",
        "report-id": "2026-11-27T00:00:00Z_example.com",
        "policies": [policy()],
    }
    return {key: value for key, value in (content | changes).items() if value is not ...}


def policy(**changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "policy": {
            "policy-type": "sts",
            "policy-string": ["version: STSv1", "mode: testing", "mx: mx1.example.com", "max_age: 604800"],
            "policy-domain": "example.com",
            "mx-host": ["mx1.example.com"],
        },
        "summary": {"total-successful-session-count": 100, "total-failure-session-count": 3},
        "failure-details": [detail()],
    }
    return {key: value for key, value in (content | changes).items() if value is not ...}


def detail(**changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "result-type": "certificate-expired",
        "sending-mta-ip": "2001:db8::1",
        "receiving-mx-hostname": "mx1.example.com",
        "receiving-ip": "192.0.2.25",
        "failed-session-count": 3,
    }
    return {key: value for key, value in (content | changes).items() if value is not ...}


def google() -> dict[str, Any]:
    """No failure-details if all is well; sending-mta-ip may be empty."""
    return report(
        **{
            "organization-name": "Google Inc.",
            "contact-info": "smtp-tls-reporting@google.com",
            "policies": [
                policy(
                    **{
                        "summary": {"total-successful-session-count": 42, "total-failure-session-count": 0},
                        "failure-details": ...,
                    }
                )
            ],
        }
    )


def google_failure() -> dict[str, Any]:
    return report(
        **{
            "organization-name": "Google Inc.",
            "contact-info": "smtp-tls-reporting@google.com",
            "policies": [policy(**{"failure-details": [detail(**{"sending-mta-ip": ""})]})],
        }
    )


def microsoft() -> dict[str, Any]:
    """Dates without zone, ids that end in +domain, no mx-host."""
    return report(
        **{
            "organization-name": "Microsoft Corporation",
            "contact-info": "tlsrpt-noreply@microsoft.com",
            "date-range": {"start-datetime": "2026-11-27T00:00:00", "end-datetime": "2026-11-27T23:59:59"},
            "report-id": "133456789012345678+example.com",
            "policies": [
                {
                    "policy": {
                        "policy-type": "sts",
                        "policy-string": ["version: STSv1"],
                        "policy-domain": "example.com",
                    },
                    "summary": {"total-successful-session-count": 7, "total-failure-session-count": 1},
                    "failure-details": [
                        {"result-type": "sts-policy-fetch-error", "failed-session-count": 1},
                    ],
                }
            ],
        }
    )


def microsoft_tlsa() -> dict[str, Any]:
    """A TLSA policy-string of one text that is itself a JSON array; policy-domain is the recipient domain."""
    records = json.dumps(["3 1 1 00FF", "2 1 1 11AA"])
    return report(
        **{
            "organization-name": "Microsoft Corporation",
            "contact-info": "tlsrpt-noreply@microsoft.com",
            "policies": [
                policy(
                    policy={"policy-type": "tlsa", "policy-string": [records], "policy-domain": "example.com"},
                )
            ],
        }
    )


def mail_ru() -> dict[str, Any]:
    """Totals that disagree, no policy-string, words around the reason code."""
    return report(
        **{
            "organization-name": "Mail.Ru",
            "contact-info": "tlsrpt@corp.mail.ru",
            "policies": [
                policy(
                    policy={"policy-type": "sts", "policy-domain": "example.com"},
                    **{
                        "summary": {"total-successful-session-count": 5, "total-failure-session-count": 1},
                        "failure-details": [
                            detail(**{"failed-session-count": 4, "failure-reason-code": "SSL error: expired\r\n(10)"})
                        ],
                    },
                )
            ],
        }
    )


def stalwart() -> dict[str, Any]:
    """contact-info is null, the range ends at the next day's beginning."""
    return report(
        **{
            "contact-info": None,
            "date-range": {"start-datetime": "2026-11-27T00:00:00Z", "end-datetime": "2026-11-28T00:00:00Z"},
        }
    )


def rfc_sample() -> dict[str, Any]:
    """RFC 8460 appendix B: mx-host is a text (erratum 6241), three kinds of failures."""
    return report(
        **{
            "organization-name": "Company-X",
            "contact-info": "sts-reporting@company-x.example",
            "report-id": "5065427c-23d3-47ca-b6e0-946ea0e8c4be",
            "policies": [
                policy(
                    policy={
                        "policy-type": "sts",
                        "policy-string": [
                            "version: STSv1",
                            "mode: testing",
                            "mx: *.mail.example.com",
                            "max_age: 86400",
                        ],
                        "policy-domain": "example.com",
                        "mx-host": "*.mail.example.com",
                    },
                    **{
                        "summary": {"total-successful-session-count": 5326, "total-failure-session-count": 303},
                        "failure-details": [
                            detail(**{"failed-session-count": 100}),
                            detail(**{"result-type": "starttls-not-supported", "failed-session-count": 200}),
                            detail(
                                **{
                                    "result-type": "validation-failure",
                                    "failed-session-count": 3,
                                    "failure-reason-code": "X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED",
                                    "additional-information": "https://reports.company-x.example/report_info?id=5065427c",
                                }
                            ),
                        ],
                    },
                )
            ],
        }
    )


WILD: Mapping[str, Callable[[], dict[str, Any]]] = {
    "google": google,
    "google-failure": google_failure,
    "microsoft": microsoft,
    "microsoft-tlsa": microsoft_tlsa,
    "mail-ru": mail_ru,
    "stalwart": stalwart,
    "rfc-sample": rfc_sample,
    "mx-host-pattern": lambda: report(
        policies=[
            policy(policy={"policy-type": "sts", "policy-domain": "example.com", "mx-host-pattern": ["*.x.example"]})
        ]
    ),
    "contact-missing": lambda: report(**{"contact-info": ...}),
    "unknown-result-type": lambda: report(
        policies=[policy(**{"failure-details": [detail(**{"result-type": "quantum-failure"})]})]
    ),
    "unknown-policy-type": lambda: report(
        policies=[policy(policy={"policy-type": "smime", "policy-domain": "example.com"})]
    ),
    "draft-spelling": lambda: {
        "Organization-Name": "Draft Ltd.",
        "Date-Range": {"Start-Datetime": "2026-11-27 00:00:00", "End-Datetime": "2026-11-27 23:59:59"},
        "Contact_Info": "a@draft.example",
        "Report-ID": "draft-1",
        "Policies": [
            {
                "Policy": {"Policy-Type": "sts", "Policy-Domain": "EXAMPLE.com."},
                "Summary": {"Total-Successful-Session-Count": "11", "Total-Failure-Session-Count": 2.0},
                "Failure_Details": {"Result-Type": "starttls_not_supported", "Failed-Session-Count": "2"},
            }
        ],
    },
}


def dumps(content: Any) -> bytes:
    return json.dumps(content).encode()


def zipped(text: bytes, names: tuple[str, ...] = ("report.json",)) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, text)
    return file.getvalue()


FILE_NAME = f"reporter.example!example.com!{DAY_BEGINS}!{DAY_BEGINS + 86399}!001.json.gz"


def mail(
    body: bytes,
    *,
    sender: str = "tlsrpt@reporter.example",
    submitter: str | None = "reporter.example",
    domain: str = "example.com",
    media_type: str = "application/tlsrpt+gzip",
    name: str = FILE_NAME,
    extra: str = "",
) -> bytes:
    """Return an unsigned report mail as in RFC 8460 section 5.3."""
    head = [
        f"From: {sender}",
        f"To: tlsrpt@{domain}",
        f"Subject: Report Domain: {domain} Submitter: {submitter} Report-ID: <1@{submitter}>",
        "Date: Sat, 28 Nov 2026 01:02:03 +0000",
        "Message-ID: <1@reporter.example>",
        f"TLS-Report-Domain: {domain}",
        *([f"TLS-Report-Submitter: {submitter}"] if submitter is not None else []),
        "MIME-Version: 1.0",
        'Content-Type: multipart/report; report-type="tlsrpt"; boundary="==x"',
    ]
    attachment = base64.encodebytes(body).decode().replace("\n", "\r\n")
    lines = [
        *head,
        "",
        "--==x",
        "Content-Type: text/plain",
        "",
        "This is a TLS report.",
        "--==x",
        f"Content-Type: {media_type}",
        "Content-Transfer-Encoding: base64",
        f'Content-Disposition: attachment; filename="{name}"',
        "",
        attachment + "--==x--",
        "",
    ]
    return extra.encode() + "\r\n".join(lines).encode()


@cache
def key(name: str = "reporter") -> tuple[bytes, str]:
    """Return a private key in PEM and the p= of its record; the same for the same name."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem, base64.b64encode(public).decode()


def key_record(name: str = "reporter", tags: str = "s=tlsrpt; ") -> bytes:
    return f"v=DKIM1; k=rsa; {tags}p={key(name)[1]}".encode()


def signed(message: bytes, domain: str = "reporter.example", *, who: str = "reporter", length: bool = False) -> bytes:
    """Return the mail with a DKIM signature over all fields that RFC 8460 section 5.3 requires."""
    headers = [b"from", b"to", b"subject", b"date", b"message-id", b"content-type", b"mime-version"]
    if b"TLS-Report-Submitter" in message:
        headers += [b"tls-report-domain", b"tls-report-submitter"]
    signer = dkim.DKIM(message, tlsrpt=False)
    field: bytes = signer.sign(
        b"sel",
        domain.encode(),
        key(who)[0],
        canonicalize=(b"relaxed", b"relaxed"),
        include_headers=headers,
        length=length,
    )
    return field.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") + message


def packed(content: Any) -> bytes:
    return gzip.compress(dumps(content), mtime=0)
