"""From an empty zone to an enforced policy that real senders follow, and back, without lost mail."""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dns.rdatatype import RdataType

from tests.fakes.webhook import Webhook
from tests.interop.daemon import Daemon
from tests.interop.machine import Machine
from tests.interop.network import Unavailable
from tests.interop.postfix import Postfix, eventually
from tests.interop.prepare import TREES
from tests.tlsrpt.receive import corpus

from .place import AUTHORITY, FRONTS, SENDER, ZONE, Place

pytestmark = pytest.mark.interop

CORP = f"corp.{ZONE}"
POLICY = f"version: STSv1\r\nmode: enforce\r\nmx: mx1.{ZONE}\r\nmx: mx2.{ZONE}\r\nmax_age: 60\r\n".encode()


HOOK_PORT = 8099


@contextmanager
def or_skip() -> Iterator[None]:
    try:
        yield
    except Unavailable as error:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(error))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with or_skip(), Place(tmp_path) as opened:
        yield opened


@pytest.fixture
def webhook(place: Place) -> Iterator[Webhook]:
    opened = place.network.call(lambda: Webhook(HOOK_PORT))
    yield opened
    opened.close()


def ctl(daemon: Daemon, *arguments: str, code: int = 0) -> str:
    """Run mtastsctl next to the daemon; any exit code is accepted."""
    try:
        printed = daemon.ctl(*arguments)
    except AssertionError as error:
        if code:
            return str(error)
        raise
    assert code == 0, printed
    return printed


@pytest.mark.timeout(300)
def test_domain_goes_from_nothing_to_enforced_and_back(place: Place, webhook: Webhook, tmp_path: Path) -> None:
    one, two = place.exchanger(1, CORP), place.exchanger(2, CORP)
    # The first daemon's reports come in by mail, and its alerts go out by mail, both through the first MX host. Its
    # alerts go to a webhook too.
    one.deliver(f"tls@{CORP}=lmtp:unix:run/mtasts/receive.sock, ops@{CORP}=take:")
    place.front("nginx")
    domain = {"mode": "enforce", "mx": "auto", "max_age": "1m", "rollout": "automatic", "rua": [f"mailto:tls@{CORP}"]}
    lmtp = one.machine.root / "var/spool/postfix/run/mtasts/receive.sock"
    sections = {
        "receive": {"lmtp_socket": str(lmtp), "lmtp_mode": "0666"},
        "notify": {"mail": f"ops@{CORP}", "smtp": f"{one.address}:25", "webhook": webhook.url},
    }
    with place.publisher({CORP: domain}, sections=sections, clean_days=1) as publisher:
        publisher.logs("admin-listening")
        # Testing goes live at once; DNS follows.
        assert place.dig(f"_mta-sts.{CORP}", RdataType.TXT) == []
        assert "all servers agree" in ctl(publisher, "publish", "apply", CORP)
        assert place.dig(f"mta-sts.{CORP}", RdataType.A) == [FRONTS["nginx"]]
        assert place.dig(f"_smtp._tls.{CORP}", RdataType.TXT) == [f'"v=TLSRPTv1; rua=mailto:tls@{CORP}"']
        (text,) = place.dig(f"_mta-sts.{CORP}", RdataType.TXT, AUTHORITY)
        assert place.fetch(f"mta-sts.{CORP}", FRONTS["nginx"]) == (200, POLICY.replace(b"enforce", b"testing"))
        assert place.fetch(f"mta-sts.{CORP}", FRONTS["nginx"], path="/")[0] == 404
        assert "as DNS has it" in ctl(publisher, "publish", "records", CORP, "--diff")

        with sending(place, tmp_path) as (postfix, sender):
            assert sender.lookup(CORP, "QUERYwithTLSRPT").startswith("OK may ")
            assert postfix.send(CORP).delivered
            assert "0 of 1 days with reports" in ctl(publisher, "publish", "rollout", CORP)
            begun_days_ago(place, publisher, 2)
            assert "0 of 1 days with reports" in ctl(publisher, "publish", "rollout", CORP)
            report(place, sender, sessions=1)
            (taken,) = eventually(lambda: received(publisher), "the sender's report")
            assert (taken["method"], taken["submitter"], taken["counted"]) == ("dkim", SENDER, True)

            # The evidence suffices: a check takes the step, and DNS follows.
            ctl(publisher, "publish", "status", CORP, "--check")
            assert "publish-rollout-advanced" in publisher.log
            assert place.fetch(f"mta-sts.{CORP}", FRONTS["nginx"]) == (200, POLICY)
            assert place.dig(f"_mta-sts.{CORP}", RdataType.TXT, AUTHORITY) != [text]
            (text,) = place.dig(f"_mta-sts.{CORP}", RdataType.TXT, AUTHORITY)
            sender.ctl("cache", "refresh", CORP)
            assert sender.lookup(CORP, "QUERYwithTLSRPT").startswith("OK secure ")
            assert postfix.send(CORP).delivered
            assert f"Verified TLS connection established to mx1.{ZONE}" in postfix.log

            # Both certificates break: the sender holds mail back, and the publisher's operator gets an alert.
            one.use_certificate("wrong.example")
            two.use_certificate("wrong.example")
            assert postfix.send(CORP).deferred
            alert = one.machine.root / "tmp/taken"

            def alerted() -> bool:
                publisher.ctl("publish", "status", CORP, "--check", codes=(0, 1))  # it takes two that see it
                mailed = alert.exists() and b"publish-mx-broken" in alert.read_bytes()
                return mailed and bool(posted(webhook, "publish-mx-broken"))

            eventually(alerted, "the alert by mail and webhook", seconds=90)
            assert b"certificate" in alert.read_bytes()
            for found in posted(webhook, "publish-mx-broken"):
                assert (found["subject"], found["severity"], found["resolved"]) == (CORP, "error", False)
                assert "certificate" in found["sentence"]
            ctl(publisher, "publish", "status", CORP, code=1)

            # Removal: the new id announces mode none, and mail is delivered although the certificates stay broken.
            printed = ctl(publisher, "publish", "remove", CORP)
            assert "mode none is served" in printed
            assert place.dig(f"_mta-sts.{CORP}", RdataType.TXT) != [text]
            assert b"mode: none" in place.fetch(f"mta-sts.{CORP}", FRONTS["nginx"])[1]
            sender.ctl("cache", "refresh", CORP)
            assert not sender.lookup(CORP, "QUERYwithTLSRPT").startswith("OK secure ")
            assert postfix.send(CORP).delivered


def posted(webhook: Webhook, slug: str) -> list[dict[str, Any]]:
    """The alerts of a kind that the webhook received."""
    return [alert for _, body in list(webhook.received) for alert in body["alerts"] if alert["slug"] == slug]


def begun_days_ago(place: Place, publisher: Daemon, days: int) -> None:
    """Let the phase of the rollout have begun earlier: nobody can wait for midnight here."""
    publisher.stop()
    with closing(sqlite3.connect(place.folder / "publisher/publish.sqlite")) as connection, connection:
        connection.execute("UPDATE domain SET phase_since = phase_since - ?", (days * 86400,))
    publisher.start()
    publisher.logs("tlsrpt-receiver-listening", times=2)
    publisher.logs("admin-listening", times=2)


def report(place: Place, sender: Daemon, *, sessions: int) -> None:
    """Have the sender's daemon report what it collected about the domain today, as if that had been yesterday."""

    def collected() -> bool:
        shown = json.loads(sender.ctl("tlsrpt", "show", "--json", "today", CORP))
        return sum(int(policy["successful"]) for policy in shown["policies"]) == sessions

    eventually(collected, "the TLS results")
    yesterday = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%d")
    with closing(sqlite3.connect(place.folder / "sender/tlsrpt.sqlite", timeout=20)) as connection, connection:
        connection.execute("UPDATE OR IGNORE report_unit SET day = ?", (yesterday,))
    sender.ctl("tlsrpt", "send", yesterday)


def received(publisher: Daemon) -> list[dict[str, Any]]:
    """The reports about the domain that the publishing daemon has stored."""
    found: list[dict[str, Any]] = json.loads(ctl(publisher, "reports", "list", "--domain", CORP, "--json"))
    return found


@contextmanager
def sending(place: Place, tmp_path: Path) -> Iterator[tuple[Postfix, Daemon]]:
    """The sending host: Postfix, and a second daemon that reports by signed mail."""
    key = tmp_path / "dkim.pem"
    key.write_bytes(corpus.key("sender")[0])
    key.chmod(0o600)
    with Machine(TREES["3.10"], place.network) as machine:
        postfix = Postfix(machine, "3.10", place.ca.pem)
        tlsrpt = {
            "socket": str(postfix.sockets / "tlsrpt.sock"),
            "organization": "Sender",
            "contact": f"tls@{SENDER}",
            "sender": f"tls@{SENDER}",
            "spread": "0s",
            "dkim": {"domain": SENDER, "selector": "sel", "key_file": str(key)},
        }
        settings = {"tlsrpt": tlsrpt, "zones": {"QUERYwithTLSRPT": {"default_level": "may"}}}
        with place.daemon("sender", settings, sockets=postfix.sockets) as sender:
            postfix.start()
            sender.logs("admin-listening")
            yield postfix, sender


@pytest.mark.timeout(300)
@pytest.mark.parametrize("front", ["nginx", "caddy", "apache"])
def test_policy_is_served_through_a_real_web_server(place: Place, front: str) -> None:
    name = f"{front}.{ZONE}"
    host = f"mta-sts.{name}"
    with place.publisher(
        {name: {"mode": "testing", "mx": ["mx1.report.example"]}}, addresses=[FRONTS[front]]
    ) as daemon:
        daemon.logs("public-listening")
        place.front(front)
        expected = f"version: STSv1\r\nmode: testing\r\nmx: mx1.{ZONE}\r\nmax_age: 2592000\r\n".encode()
        verify = front != "caddy"  # it issues its own certificates here, on demand
        for _ in range(3):
            assert place.fetch(host, FRONTS[front], verify=verify) == (200, expected), place.logs()
        assert place.fetch(host, FRONTS[front], path="/ask?domain=" + host, verify=verify)[0] == 404
        if front == "caddy":
            # No certificate for a name that is not published, or that does not resolve to this host.
            for other in (f"mta-sts.nginx.{ZONE}", "mta-sts.other.example"):
                with pytest.raises(OSError, match=r"(?i)alert|reset|internal error"):
                    place.fetch(other, FRONTS[front], verify=False)


def test_wrong_key_is_refused_by_the_name_server_and_reported(place: Place) -> None:
    place.key_file.write_text("d3Jvbmcta2V5LXdyb25nLWtleS13cm9uZy1rZXktMzI=\n")
    place.front("nginx")
    with place.publisher({CORP: {"mode": "testing", "mx": [f"mx1.{ZONE}"]}}) as publisher:
        publisher.logs("admin-listening")
        said = ctl(publisher, "publish", "apply", CORP, code=75)
        assert "127.0.1.53" in said
        assert place.dig(f"mta-sts.{CORP}", RdataType.A) == []
