"""From a received report to the operator: the alert as a mail that a real Postfix delivers and as a webhook, and the
advice next to what checks saw of the domain."""

import email
import http.client
import json
import smtplib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email import policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.fakes.ca import Flaw
from tests.fakes.webhook import Webhook
from tests.interop.postfix import Postfix, eventually
from tests.interop.site import Site, open_site
from tests.tlsrpt.receive import corpus
from tests.tlsrpt.receive.site import dated, txt

pytestmark = [pytest.mark.interop, pytest.mark.timeout(180, func_only=True)]

DOMAIN = "received.example"
HOST = f"mx.{DOMAIN}"
OPERATOR = "postmaster@alerts.example"
HOOK_PORT, ADMIN_PORT = 8099, 8463
_MAIN = f"""
virtual_mailbox_domains = alerts.example
virtual_mailbox_base = /var/mail
virtual_mailbox_maps = inline:{{ {OPERATOR}=postmaster/ }}
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
"""
_MASTER = """
lmtp    unix - - y - - lmtp
virtual unix - n n - - virtual
"""


@dataclass(frozen=True, slots=True)
class Alerting:
    site: Site
    webhook: Webhook
    expired_at: datetime

    @property
    def mails(self) -> list[EmailMessage]:
        """The mails that Postfix delivered to the operator."""
        folder = self.site.machine.root / "var/mail/postmaster/new"
        files = sorted(folder.iterdir()) if folder.exists() else []
        return [email.message_from_bytes(file.read_bytes(), policy=policy.default) for file in files]

    @property
    def alerts(self) -> list[dict[str, Any]]:
        """The alerts that were posted."""
        return [alert for _, body in self.webhook.received for alert in body["alerts"]]

    def submit(self, days_ago: int, *, failed: int) -> None:
        """Send a signed report about the day by way of Postfix, and wait until it is accepted."""
        day = corpus.policy(
            policy={"policy-type": "sts", "policy-domain": DOMAIN},
            summary={"total-successful-session-count": 90, "total-failure-session-count": failed},
        )
        if failed:
            details = {"result-type": "certificate-expired", "receiving-mx-hostname": HOST}
            day["failure-details"] = [details | {"failed-session-count": failed}]
        else:
            del day["failure-details"]
        report = corpus.report(**{"date-range": dated(days_ago), "report-id": f"day-{days_ago}", "policies": [day]})
        message = corpus.signed(corpus.mail(corpus.packed(report), domain=DOMAIN))

        def session() -> bytes:
            with smtplib.SMTP("127.0.0.1", 25, local_hostname="test.example", timeout=20) as smtp:
                smtp.ehlo()
                smtp.mail("tlsrpt@reporter.example")
                smtp.rcpt(f"tlsrpt@{DOMAIN}")
                return smtp.data(message)[1]

        queued = self.site.machine.network.call(session).decode().rpartition("queued as ")[2].strip()
        sent = self.site.postfix.outcome(queued)
        assert f"report accepted; new: {DOMAIN}" in sent.reason

    def get(self, path: str) -> str:
        """What the admin listener returns; empty while it does not listen."""

        def get() -> str:
            connection = http.client.HTTPConnection("127.0.0.1", ADMIN_PORT, timeout=20)
            try:
                connection.request("GET", path)
                return connection.getresponse().read().decode()
            except ConnectionError:
                return ""
            finally:
                connection.close()

        return self.site.machine.network.call(get)

    def restart(self) -> None:
        """Alerts are evaluated a few seconds after each start."""
        before = self.site.daemon.log.count("tlsrpt-receiver-listening")
        self.site.daemon.kill()
        self.site.daemon.start()
        self.site.daemon.logs("tlsrpt-receiver-listening", times=before + 1)


def _settings(postfix: Postfix) -> dict[str, Any]:
    lmtp = str(postfix.sockets / "receive.sock")
    return {
        "receive": {"own_domains": [DOMAIN], "lmtp_socket": lmtp, "lmtp_mode": "0666"},
        "notify": {"mail": OPERATOR, "webhook": f"http://127.0.0.1:{HOOK_PORT}/alerts"},
        "admin": {"listen": f"127.0.0.1:{ADMIN_PORT}"},
    }


@pytest.fixture(scope="module")
def alerting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alerting]:
    folder = tmp_path_factory.mktemp("alerting")
    with open_site("3.10", folder, _settings) as site:
        site.world.records("sel._domainkey.reporter.example", txt(corpus.key_record()))
        etc = site.machine.root / "etc/postfix"
        (etc / "master.cf").write_text((etc / "master.cf").read_text() + _MASTER)
        main = (etc / "main.cf").read_text() + _MAIN
        route = f"inline:{{tlsrpt@{DOMAIN}=lmtp:unix:run/mtasts/receive.sock}}"
        (etc / "main.cf").write_text(main.replace("transport_maps = ", f"transport_maps = {route}, "))
        site.machine.run("install", "-d", "-o", "nobody", "/var/mail/postmaster")
        site.machine.run("postfix", "reload")
        site.daemon.logs("tlsrpt-receiver-listening")
        webhook = site.machine.network.call(lambda: Webhook(HOOK_PORT))
        try:
            yield Alerting(site, webhook, _expired_exchanger(site, folder))
        finally:
            webhook.close()


def _expired_exchanger(site: Site, folder: Path) -> datetime:
    """Watch the domain, whose exchanger has an expired certificate; the moment of its expiry."""
    exchanger = site.world.exchanger(HOST, flaw=Flaw.EXPIRED)
    site.world.send_mail_for(DOMAIN, exchanger)
    site.world.publish(DOMAIN, "enforce", [HOST])
    site.daemon.reload(check={"domains": [DOMAIN]})
    site.daemon.logs("domain-checked")
    pem = (folder / f"{HOST}_{Flaw.EXPIRED}.pem").read_bytes()
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc


def test_new_failure_reaches_the_operator_by_mail_and_webhook_once(alerting: Alerting) -> None:
    alerting.submit(6, failed=0)
    alerting.submit(1, failed=7)
    alerting.restart()
    mail = eventually(lambda: next(iter(alerting.mails), None), "the alert's mail")
    text = mail.get_content()
    sentence = f"new failure certificate-expired at {HOST}: 7 sessions"
    assert sentence in text
    assert "renew the certificate and reload the mail server" in text
    assert (mail["To"], mail["Auto-Submitted"]) == (OPERATOR, "auto-generated")
    eventually(lambda: alerting.alerts, "the webhook")
    (alert,) = [one for one in alerting.alerts if one["slug"] == "tls-reports-new-failure"]
    assert (alert["subject"], alert["resolved"]) == (DOMAIN, False)
    assert alert["sentence"].startswith(sentence)
    assert alert["details"] == {"subject": f"certificate-expired {HOST}"}
    # The evaluation after another start finds the same alerts and sends none.
    alerting.restart()
    eventually(lambda: 'mtasts_received_alerts{kind="new-failure"} 1.0' in alerting.get("/metrics"), "an evaluation")
    assert alerting.site.daemon.log.count("slug=tls-reports-new-failure") == 1


def test_advice_names_the_expiry_alike_in_command_and_api(alerting: Alerting) -> None:
    moment = alerting.expired_at
    day = datetime.now(UTC) - timedelta(days=1)
    expected = (
        f"{HOST}'s certificate expired on {moment.day} {moment:%B %Y at %H:%M} UTC;"
        f" failures were first reported for {day.day} {day:%B %Y}."
    )
    api = json.loads(alerting.get(f"/api/v1/received/{DOMAIN}"))
    assert expected in [one["sentence"] for one in api["advice"]]
    command = json.loads(alerting.site.daemon.ctl("reports", "show", "--json", DOMAIN))
    assert command["advice"] == api["advice"]
    assert command["failures"] == api["failures"]
    assert expected in alerting.site.daemon.ctl("reports", "show", DOMAIN)


def test_test_alert_reaches_mailbox_and_webhook(alerting: Alerting) -> None:
    before = len(alerting.mails)
    assert alerting.site.daemon.ctl("notify", "test") == "mail: delivered\nwebhook: delivered\n"
    mail = eventually(lambda: alerting.mails[before:], "the test alert's mail")[0]
    assert "sent by mtastsctl notify test" in mail.get_content()
    assert alerting.alerts[-1]["slug"] == "test"
