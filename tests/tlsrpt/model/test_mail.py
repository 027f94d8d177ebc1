"""The mail that carries a report, RFC 8460 section 5.3."""

import base64
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest

from mtasts_daemon.tlsrpt.model.mail import envelope_sender, message
from mtasts_daemon.tlsrpt.model.report import Report
from tests.tlsrpt.reports import BODY, REPORT, REPORTER

TAG = "0123456789abcdef0123"


def octets(report: Report = REPORT, body: bytes = BODY) -> bytes:
    return message(
        report, body, tag=TAG, sender="tlsrpt@sender.example", to="tls@example.com", created_at=1_790_000_000.7
    )


def mail(report: Report = REPORT) -> EmailMessage:
    return message_from_bytes(octets(report), policy=policy.default)


def test_its_header_is_the_one_of_section_5_3() -> None:
    assert dict(mail().items()) == {
        "Date": "Mon, 21 Sep 2026 14:13:20 +0000",
        "From": "tlsrpt@sender.example",
        "To": "tls@example.com",
        "Subject": "Report Domain: example.com Submitter: sender.example "
        "Report-ID: <5065427c23d347cab6e0946ea0e8c4be@sender.example>",
        "Message-ID": f"<{TAG}@sender.example>",
        "TLS-Report-Domain": "example.com",
        "TLS-Report-Submitter": "sender.example",
        "TLS-Required": "No",
        "Auto-Submitted": "auto-generated",
        "MIME-Version": "1.0",
        "Content-Type": f'multipart/report; report-type="tlsrpt"; boundary="=_{TAG}"',
    }


def test_its_parts_are_a_text_and_the_packed_report() -> None:
    text, report = mail().iter_parts()
    assert text.get_content_type() == "text/plain"
    assert "aggregate TLS report for example.com" in text.get_content()
    assert report.get_content_type() == "application/tlsrpt+gzip"
    assert report.get_content_disposition() == "attachment"
    assert report.get_filename() == REPORT.file_name
    assert report.get_content() == BODY


@pytest.mark.parametrize("domain", ["example.com", ".".join(["a" * 60] * 4)])
def test_no_octet_and_no_line_is_one_that_mail_cannot_carry(domain: str) -> None:
    sent = octets(Report("2026-09-21", domain, f"{'f' * 32}@{domain}"), BODY * 100)
    assert sent.isascii()
    assert b"\0" not in sent
    assert sent.replace(b"\r\n", b"").count(b"\n") == sent.replace(b"\r\n", b"").count(b"\r") == 0
    # RFC 5321 section 4.5.3.1.6
    assert max(map(len, sent.split(b"\r\n"))) <= 998
    assert sent.endswith(b"\r\n")


def test_it_is_the_same_whenever_it_is_made() -> None:
    assert octets() == octets()


def test_an_independent_reader_takes_it() -> None:
    reader = pytest.importorskip("parsedmarc")
    read = reader.parse_report_email(octets(), offline=True)
    assert read["report_type"] == "smtp_tls"
    assert read["report"]["report_id"] == REPORT.report_id
    assert read["report"]["contact_info"] == REPORTER.contact
    assert len(read["report"]["policies"]) == 3


def test_base64_is_in_lines_of_76() -> None:
    lines = base64.b64encode(BODY).decode()
    assert lines[:76] in octets().decode().split("\r\n")


def test_a_bounce_comes_back_to_an_address_that_names_the_mail() -> None:
    assert envelope_sender("tlsrpt@sender.example", TAG) == f"tlsrpt+{TAG}@sender.example"
    assert envelope_sender("a" * 43 + "@sender.example", TAG) == f"{'a' * 43}+{TAG}@sender.example"


def test_a_sender_too_long_for_that_is_used_as_it_is() -> None:
    assert envelope_sender("a" * 44 + "@sender.example", TAG) == "a" * 44 + "@sender.example"
