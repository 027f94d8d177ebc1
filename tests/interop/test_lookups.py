"""How Postfix asks: each kind of table, overrides, smart hosts, and restarts that lose nothing."""

import threading

import pytest

from tests.fakes.ca import Flaw
from tests.interop.site import Site, every_postfix

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]


@every_postfix
@pytest.mark.parametrize(
    ("table", "attributes"),
    [
        ("socketmap:unix:/var/spool/postfix/run/mtasts/lookup.sock:postfix", False),
        ("socketmap:inet:127.0.0.1:8461:postfix", False),
        ("socketmap:inet:127.0.0.1:8461:QUERY", False),
        ("socketmap:inet:127.0.0.1:8461:QUERYwithTLSRPT", True),
        ("tcp:127.0.0.1:8462", False),
    ],
)
def test_postmap_prints_the_policy_table_entry(site: Site, table: str, attributes: bool) -> None:
    site.world.publish("postmap.example", "enforce", ["mx.postmap.example", "*.mx.postmap.example"])
    entry = site.postfix.postmap("Postmap.EXAMPLE", table)
    assert entry.startswith("secure match=mx.postmap.example:.mx.postmap.example servername=hostname")
    assert entry.count("\n") == 1
    for attribute in ("policy_type=sts", "policy_domain=postmap.example", "mx_host_pattern=*.mx.postmap.example"):
        assert (attribute in entry) is attributes
    assert ("{ policy_string = mode: enforce }" in entry) is attributes
    assert site.postfix.postmap("nobody.example", table) == ""
    assert site.postfix.postmap(".example", table) == ""


@every_postfix
@pytest.mark.parametrize("transport", ["inet", "tcptable"])
def test_mail_is_protected_over_tcp_too(site: Site, transport: str) -> None:
    good, bad = f"good.{transport}.example", f"bad.{transport}.example"
    for domain, flaw in ((good, Flaw.GOOD), (bad, Flaw.WRONG_NAME)):
        exchanger = site.world.exchanger(f"mx.{domain}", flaw=flaw)
        site.world.send_mail_for(domain, exchanger)
        site.world.publish(domain, "enforce", [exchanger.name])
    assert site.postfix.send(good).delivered
    assert f"Verified TLS connection established to mx.{good}" in site.postfix.log
    assert site.postfix.send(bad).deferred


@every_postfix
def test_a_smart_host_is_held_to_its_own_policy(site: Site) -> None:
    for domain, name, flaw, delivered in (
        ("relayed-well.plain.example", "good.smarthost.example", Flaw.GOOD, True),
        ("relayed-badly.plain.example", "bad.smarthost.example", Flaw.SELF_SIGNED, False),
    ):
        exchanger = site.world.exchanger(name, flaw=flaw)
        site.world.publish(name, "enforce", [name])
        assert site.postfix.send(domain).delivered is delivered
        assert len(exchanger.messages) == delivered
    assert "Verified TLS connection established to good.smarthost.example" in site.postfix.log


@every_postfix
def test_a_fixed_reply_is_what_postfix_goes_by(site: Site) -> None:
    exchanger = site.world.exchanger("mx.fixed.plain.example", flaw=None)
    site.world.send_mail_for("fixed.plain.example", exchanger)
    sent = site.postfix.send("fixed.plain.example")
    assert (sent.status, sent.dsn) == ("deferred", "4.7.4")
    assert exchanger.messages == []


@every_postfix
def test_a_skipped_domain_gets_its_mail_whatever_its_policy(site: Site) -> None:
    exchanger = site.world.exchanger("mx.skipped.plain.example", flaw=Flaw.EXPIRED)
    site.world.send_mail_for("skipped.plain.example", exchanger)
    site.world.publish("skipped.plain.example", "enforce", [exchanger.name])
    assert site.postfix.send("skipped.plain.example").delivered


@every_postfix
def test_restarts_under_load_defer_not_a_single_message(site: Site) -> None:
    domains = [f"load-{number}.plain.example" for number in range(4)]
    for domain in domains:
        exchanger = site.world.exchanger(f"mx.{domain}")
        site.world.send_mail_for(domain, exchanger)
        site.world.publish(domain, "enforce", [exchanger.name])
    queue_ids: list[str] = []
    restarted = threading.Event()

    def load() -> None:
        while not restarted.is_set():
            queue_ids.extend(site.postfix.submit(*(f"user@{domain}" for domain in domains)))

    sender = threading.Thread(target=load)
    sender.start()
    try:
        for _ in range(3):
            before = len(queue_ids)
            site.daemon.stop()
            site.daemon.start()
            assert len(queue_ids) > before, "no load while it restarted"
    finally:
        restarted.set()
        sender.join()
    not_sent = [sent for sent in site.postfix.outcomes(queue_ids) if not sent.delivered]
    assert not_sent == []
    for domain in domains:
        assert f"Verified TLS connection established to mx.{domain}" in site.postfix.log
