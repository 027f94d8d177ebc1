"""Lookups by Postfix: each kind of table, overrides, smart hosts, and restarts without loss."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.fakes.ca import Flaw
from tests.interop.postfix import eventually
from tests.interop.site import Site, every_postfix

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120, func_only=True)]


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
def test_mail_is_protected_over_tcp(site: Site, transport: str) -> None:
    good, bad = f"good.{transport}.example", f"bad.{transport}.example"
    for domain, flaw in ((good, Flaw.GOOD), (bad, Flaw.WRONG_NAME)):
        exchanger = site.world.exchanger(f"mx.{domain}", flaw=flaw)
        site.world.send_mail_for(domain, exchanger)
        site.world.publish(domain, "enforce", [exchanger.name])
    assert site.postfix.send(good).delivered
    assert f"Verified TLS connection established to mx.{good}" in site.postfix.log
    assert site.postfix.send(bad).deferred


@every_postfix
def test_smart_host_uses_its_own_policy(site: Site) -> None:
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
def test_fixed_reply_is_used_by_postfix(site: Site) -> None:
    exchanger = site.world.exchanger("mx.fixed.plain.example", flaw=None)
    site.world.send_mail_for("fixed.plain.example", exchanger)
    sent = site.postfix.send("fixed.plain.example")
    assert (sent.status, sent.dsn) == ("deferred", "4.7.4")
    assert exchanger.messages == []


@every_postfix
def test_skipped_domain_gets_mail_despite_its_policy(site: Site) -> None:
    exchanger = site.world.exchanger("mx.skipped.plain.example", flaw=Flaw.EXPIRED)
    site.world.send_mail_for("skipped.plain.example", exchanger)
    site.world.publish("skipped.plain.example", "enforce", [exchanger.name])
    assert site.postfix.send("skipped.plain.example").delivered


@every_postfix
def test_restarts_under_load_defer_no_message(site: Site) -> None:
    with load(site, "restarts") as in_flight:
        for _ in range(3):
            site.daemon.stop()
            eventually(in_flight, "mail on its way while the daemon is down")
            site.daemon.start()


@every_postfix
def test_kill_under_load_defers_no_message(site: Site) -> None:
    # Postfix repeats a lookup once if its connection breaks; a second kill before the answer would defer mail.
    with load(site, "kill") as in_flight:
        eventually(in_flight, "mail on its way")
        site.daemon.kill()
        eventually(in_flight, "mail on its way while the daemon is down")
        site.daemon.start()


@contextmanager
def load(site: Site, name: str) -> Iterator[Callable[[], set[str]]]:
    """Send mail continuously during the block; all of it must be delivered at the first attempt.

    Yields a function that returns the queue ids that were not tried yet.
    """
    domains = [f"{name}-{number}.plain.example" for number in range(4)]
    for domain in domains:
        exchanger = site.world.exchanger(f"mx.{domain}")
        site.world.send_mail_for(domain, exchanger)
        site.world.publish(domain, "enforce", [exchanger.name])
    queue_ids: list[str] = []
    enough = threading.Event()

    def in_flight() -> set[str]:
        return set(queue_ids) - site.postfix.outcomes().keys()

    def stream() -> None:
        while not enough.is_set():
            queue_ids.extend(site.postfix.submit(*(f"user@{domain}" for domain in domains)))
            eventually(lambda: enough.is_set() or len(in_flight()) < 40, "an end to the jam")

    sender = threading.Thread(target=stream)
    sender.start()
    try:
        yield in_flight
    finally:
        enough.set()
        sender.join()
    eventually(lambda: not in_flight(), "an attempt to deliver each message")
    outcomes = site.postfix.outcomes()
    assert [outcomes[queue_id] for queue_id in queue_ids if not outcomes[queue_id].delivered] == []
    for domain in domains:
        assert f"Verified TLS connection established to mx.{domain}" in site.postfix.log
