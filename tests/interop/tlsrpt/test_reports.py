"""The reports that arrive: by mail through Postfix, and over HTTPS."""

import email
import gzip
import json
import re
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.ca import Flaw
from tests.fakes.smtp import MailSink
from tests.interop.postfix import eventually
from tests.interop.tlsrpt.conftest import MAILBOX, SENDER, Reporting
from tests.interop.tlsrpt.test_collected import SENDINGS

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120, func_only=True)]


def in_mail(octets: bytes) -> tuple[Message, dict[str, Any]]:
    """Return the mail and its report."""
    mail = email.message_from_bytes(octets)
    (part,) = [part for part in mail.walk() if part.get_content_type() == "application/tlsrpt+gzip"]
    packed = part.get_payload(decode=True)
    assert isinstance(packed, bytes)
    return mail, json.loads(gzip.decompress(packed))


def assert_counts(report: dict[str, Any], domain: str, name: str) -> None:
    """Compare the report with the mail sent."""
    _, count, result = SENDINGS[name]
    (policy,) = report["policies"]
    assert policy["policy"]["policy-type"] == "sts"
    assert policy["policy"]["policy-domain"] == domain
    failed = count if result else 0
    assert policy["summary"] == {
        "total-successful-session-count": count - failed,
        "total-failure-session-count": failed,
    }
    details = [(found["result-type"], found["failed-session-count"]) for found in policy.get("failure-details", ())]
    assert details == ([(result, count)] if result else [])


@dataclass(frozen=True, slots=True)
class Reported:
    """The site after all mail was sent, and the day's reports."""

    reporting: Reporting
    receivers: dict[str, MailSink]
    """Recipients of report mails, by domain."""


@pytest.fixture(scope="session")
def reported(reporting: Reporting) -> Reported:
    receivers: dict[str, MailSink] = {}
    domains = {"mailbox.report.example": f"mailto:{MAILBOX}", "bounced.report.example": "mailto:tls@nowhere.invalid"}
    for domain, rua in domains.items():
        reporting.sent(domain, Flaw.GOOD, 1, rua)
    for name, (flaw, count, _) in SENDINGS.items():
        by_https, by_mail = f"{name}.https.report.example", f"{name}.mail.report.example"
        reporting.sent(by_https, flaw, count, reporting.host.url("reports.https.example", f"/{name}"))
        receiver = f"reports.{name}.example"
        sink = receivers[by_mail] = reporting.site.world.exchanger(f"mx.{receiver}")
        reporting.site.world.send_mail_for(receiver, sink)
        reporting.sent(by_mail, flaw, count, f"mailto:tls@{receiver}")
    reporting.day_is_over()
    reporting.site.daemon.ctl("tlsrpt", "send", reporting.yesterday)
    return Reported(reporting, receivers)


@pytest.mark.parametrize("name", SENDINGS)
def test_report_over_https_matches_the_sessions(reported: Reported, name: str) -> None:
    (post,) = [post for post in reported.reporting.host.posts if post.target == f"/{name}"]
    assert post.headers["content-type"] == "application/tlsrpt+gzip"
    assert_counts(json.loads(gzip.decompress(post.body)), f"{name}.https.report.example", name)


@pytest.mark.parametrize("name", SENDINGS)
def test_report_by_mail_matches_the_sessions(reported: Reported, name: str) -> None:
    domain = f"{name}.mail.report.example"
    sink = reported.receivers[domain]
    eventually(lambda: sink.messages, "the report")
    (message,) = sink.messages
    assert message.recipients == (f"tls@reports.{name}.example",)
    mail, report = in_mail(message.content)
    assert_counts(report, domain, name)
    assert (mail["TLS-Report-Domain"], mail["TLS-Report-Submitter"]) == (domain, "sender.example")


def test_postfix_delivers_a_report_to_a_mailbox(reported: Reported) -> None:
    new = reported.reporting.site.machine.root / "var/mail/postmaster/new"

    def look() -> list[Path]:
        return [*new.iterdir()] if new.is_dir() else []

    (file,) = eventually(look, "a mail in the mailbox")
    mail, report = in_mail(file.read_bytes())
    assert report["policies"][0]["policy"]["policy-domain"] == "mailbox.report.example"
    assert mail["TLS-Required"] == "No"


def test_older_postfix_sends_reports_by_a_separate_transport(reported: Reported) -> None:
    postfix = reported.reporting.site.postfix

    def look() -> list[str]:
        return [line for line in postfix.log.splitlines() if "/tls-reports/smtp[" in line and "status=sent" in line]

    assert all("to=<tls@reports." in line for line in eventually(look, "a report by its own transport"))


def test_bounce_identifies_the_dead_address(reported: Reported) -> None:
    site = reported.reporting.site
    eventually(lambda: "relay=tls-bounce" in site.postfix.log, "the bounce's delivery")
    octets = (site.machine.root / "tmp/bounce").read_bytes()
    local, _, _ = SENDER.partition("@")
    assert f"Delivered-To: {local}+".encode() in octets
    site.daemon.ctl("tlsrpt", "bounce", send=octets)
    (suppressed,) = json.loads(site.daemon.ctl("tlsrpt", "suppress", "list", "--json"))
    assert suppressed["uri"] == "mailto:tls@nowhere.invalid"
    assert suppressed["reason"].startswith("bounced 5.")


def test_mail_with_tls_required_no_is_not_reported(reported: Reported) -> None:
    # The receiver is the domain itself; all sessions of its transport are collected. The sender has no own transport.
    reporting, domain = reported.reporting, "itself.report.example"
    with reporting.sender("other@sender.example"):
        reporting.sent(domain, Flaw.GOOD, 2, f"mailto:tls@{domain}")
        reporting.day_is_over()
        reporting.site.daemon.ctl("tlsrpt", "send", reporting.yesterday, domain)
    log = reporting.site.postfix
    eventually(lambda: re.search(rf"/smtp\[\d+\]: \w+: to=<tls@{domain}>.*status=sent", log.log), "its delivery")
    assert log.log.count(f"TLSRPT: status=success, domain={domain}") == 2


def test_status_shows_the_states_of_reports(reported: Reported) -> None:
    days = json.loads(reported.reporting.site.daemon.ctl("tlsrpt", "status", "--json"))["days"]
    (reports,) = [day["reports"] for day in days if day["day"] == reported.reporting.yesterday]
    assert reports["delivered"] >= 2 * len(SENDINGS)
    assert (reports["pending"], reports["failed"], reports["waiting"]) == (0, 0, 0)
