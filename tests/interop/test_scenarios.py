"""Mail is delivered or deferred, for each state of a domain (RFC 8461 section 5)."""

import pytest

from tests.fakes.ca import Flaw
from tests.interop.site import Site, every_dialect

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120, func_only=True)]


def assert_verified(site: Site, exchanger: str) -> None:
    assert f"Verified TLS connection established to {exchanger}" in site.postfix.log


@every_dialect
def test_mail_without_a_policy_is_delivered_in_the_clear(site: Site, dialect: str, domain: str) -> None:
    exchanger = site.world.exchanger(f"mx.{domain}", flaw=None)
    site.world.send_mail_for(domain, exchanger)
    assert site.postfix.send(domain).delivered
    assert [message.tls for message in exchanger.messages] == [None]


@every_dialect
def test_enforce_with_a_good_mx_delivers_over_verified_tls(site: Site, dialect: str, domain: str) -> None:
    exchanger = site.world.exchanger(f"mx.{domain}")
    site.world.send_mail_for(domain, exchanger)
    site.world.publish(domain, "enforce", [exchanger.name])
    assert site.postfix.send(domain).delivered
    assert_verified(site, exchanger.name)
    # RFC 8461 section 4.3: SNI is the MX host's name.
    assert [(message.recipients, message.sni) for message in exchanger.messages] == [
        ((f"user@{domain}",), exchanger.name)
    ]


@every_dialect
def test_enforce_with_a_matching_wildcard_delivers(site: Site, dialect: str, domain: str) -> None:
    exchanger = site.world.exchanger(f"mx.{domain}")
    site.world.send_mail_for(domain, exchanger)
    site.world.publish(domain, "enforce", [f"*.{domain}"])
    assert site.postfix.send(domain).delivered
    assert_verified(site, exchanger.name)


@every_dialect
def test_injected_mx_with_a_good_certificate_gets_no_mail(site: Site, dialect: str, domain: str) -> None:
    injected = site.world.exchanger(f"forged.{domain}")
    site.world.send_mail_for(domain, injected)
    site.world.publish(domain, "enforce", [f"mx.{domain}"])
    sent = site.postfix.send(domain)
    assert sent.deferred
    assert site.postfix.rests_deferred(sent.queue_id)
    assert injected.messages == []
    if dialect == "tlsrpt":
        # smtp_tls_enforce_sts_mx_patterns: Postfix does not connect to it
        assert f"MX name '{injected.name}' does not match STS MX pattern for '{domain}'" in site.postfix.log
        assert injected.connections == 0
    else:
        assert (sent.dsn, sent.reason) == ("4.7.5", "Server certificate not verified")


@every_dialect
def test_injected_mx_does_not_block_the_true_one(site: Site, dialect: str, domain: str) -> None:
    injected, true = site.world.exchanger(f"forged.{domain}"), site.world.exchanger(f"mx.{domain}")
    site.world.send_mail_for(domain, injected, true)
    site.world.publish(domain, "enforce", [true.name])
    assert site.postfix.send(domain).delivered
    assert (len(injected.messages), len(true.messages)) == (0, 1)


BAD_CERTIFICATES = {
    Flaw.WRONG_NAME: "num=62:hostname mismatch",
    Flaw.SELF_SIGNED: "self-signed certificate",
    Flaw.UNTRUSTED: "untrusted issuer ",
    Flaw.EXPIRED: "certificate has expired",
}


@every_dialect
@pytest.mark.parametrize("flaw", BAD_CERTIFICATES)
def test_enforce_defers_mail_to_a_bad_certificate(site: Site, dialect: str, domain: str, flaw: Flaw) -> None:
    exchanger = site.world.exchanger(f"mx.{domain}", flaw=flaw)
    site.world.send_mail_for(domain, exchanger)
    site.world.publish(domain, "enforce", [exchanger.name])
    sent = site.postfix.send(domain)
    assert (sent.status, sent.dsn, sent.reason) == ("deferred", "4.7.5", "Server certificate not verified")
    assert site.postfix.rests_deferred(sent.queue_id)
    assert exchanger.messages == []
    where = f"{exchanger.name}[{exchanger.address[0]}]:25"
    assert f"certificate verification failed for {where}: {BAD_CERTIFICATES[flaw]}" in site.postfix.log


@every_dialect
def test_enforce_defers_mail_if_starttls_is_stripped(site: Site, dialect: str, domain: str) -> None:
    exchanger = site.world.exchanger(f"mx.{domain}", flaw=None)
    site.world.send_mail_for(domain, exchanger)
    site.world.publish(domain, "enforce", [exchanger.name])
    sent = site.postfix.send(domain)
    assert (sent.status, sent.dsn) == ("deferred", "4.7.4")
    assert sent.reason.startswith("TLS is required, but was not offered by host")
    assert site.postfix.rests_deferred(sent.queue_id)
    assert exchanger.messages == []


@every_dialect
@pytest.mark.parametrize("mode", ["testing", "none"])
def test_policy_not_enforced_delivers_to_a_bad_mx(site: Site, dialect: str, domain: str, mode: str) -> None:
    exchanger = site.world.exchanger(f"mx.{domain}", flaw=Flaw.SELF_SIGNED)
    site.world.send_mail_for(domain, exchanger)
    site.world.publish(domain, mode, [f"another.{domain}"])
    assert site.postfix.send(domain).delivered
    assert len(exchanger.messages) == 1
    assert site.world.fetches(domain) == 1


@every_dialect
def test_cached_policy_is_enforced_while_its_host_is_down(site: Site, dialect: str, domain: str) -> None:
    good, bad = site.world.exchanger(f"mx.{domain}"), site.world.exchanger(f"bad.{domain}", flaw=Flaw.SELF_SIGNED)
    site.world.send_mail_for(domain, good)
    site.world.publish(domain, "enforce", [good.name, bad.name])
    assert site.postfix.send(domain).delivered
    # A new id makes the daemon fetch again, which fails; the answer then comes from disk.
    site.world.publish(domain, "enforce", [good.name, bad.name], policy_id="2")
    site.world.policy_host_down(domain)
    site.daemon.kill()
    site.daemon.start()
    assert site.postfix.send(domain).delivered
    assert site.postfix.log.count(f"Verified TLS connection established to {good.name}") == 2
    site.world.send_mail_for(domain, bad)
    sent = site.postfix.send(domain)
    assert (sent.status, sent.reason) == ("deferred", "Server certificate not verified")
    assert bad.messages == []
    assert site.world.fetches(domain) == 1


@every_dialect
def test_new_id_moves_mail_to_the_new_mx(site: Site, dialect: str, domain: str) -> None:
    old, new = site.world.exchanger(f"old.{domain}"), site.world.exchanger(f"new.{domain}")
    site.world.send_mail_for(domain, old)
    site.world.publish(domain, "enforce", [old.name])
    assert site.postfix.send(domain).delivered
    site.world.publish(domain, "enforce", [new.name], policy_id="2")
    site.world.send_mail_for(domain, new)
    site.daemon.comes_to_answer(domain, new.name)
    assert site.postfix.send(domain).delivered
    assert_verified(site, new.name)
    assert (len(old.messages), len(new.messages)) == (1, 1)
