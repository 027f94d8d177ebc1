"""``mtastsctl explain --live`` for signed domains: the output about DANE."""

import pytest

from tests.interop.dane.conftest import ZONES, Sender

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120, func_only=True)]

SUFFIX = ZONES["on"]

with_the_daemon = pytest.mark.parametrize("sender", ["3.10"], indirect=True, scope="session")


def assert_shown(sender: Sender, key: str, *lines: str) -> None:
    """Check that lines of the explanation begin with ``lines``, in this order."""
    shown = sender.daemon.ctl("explain", "--live", key).splitlines()
    at = 0
    for line in lines:
        found = next((number for number in range(at, len(shown)) if shown[number].startswith(line)), None)
        assert found is not None, (line, shown)
        at = found + 1


@with_the_daemon
def test_explanation_shows_each_mx_host(sender: Sender) -> None:
    domain = f"one-of-two.{SUFFIX}"
    assert_shown(
        sender,
        domain,
        "+ DANE             the MX records are signed (mx, TTL ",
        f"    MX host        mx1.{domain} has no TLSA records (tlsa-absent)",
        f"+   MX host        mx2.{domain} has usable TLSA records (tlsa-usable)",
        f"                   _25._tcp.mx2.{domain} TLSA 3 1 1 ",
        f"+ permitted hosts  mx1.{domain}, mx2.{domain} ",
        "+ DNSSEC           the resolver validates ",
        "  decision         DANE is required: only MX hosts with usable TLSA records are delivered to (map names: ",
        "= on               OK dane-only   (dane-usable-and-none)",
    )


@with_the_daemon
def test_unusable_record_is_shown_with_the_reason(sender: Sender) -> None:
    domain = f"unusable.{SUFFIX}"
    shown = sender.daemon.ctl("explain", "--live", domain)
    assert f"! {'  MX host':<16} mx.{domain} has TLSA records of which none is usable" in shown
    assert " (unusable: certificate usage 1 is not 2 or 3)" in shown
    assert "= on               OK secure match=" in shown


@with_the_daemon
def test_failed_lookup_is_shown_with_its_question(sender: Sender) -> None:
    domain = f"bogus-tlsa-of-one.{SUFFIX}"
    failed = f"the lookup of TLSA _25._tcp.mx1.{domain} failed (dns-servfail)"
    assert_shown(
        sender,
        domain,
        f"!   MX host        mx1.{domain} cannot be judged: {failed}",
        f"+   MX host        mx2.{domain} has usable TLSA records",
        "= on               OK dane-only   (dane-usable)",
    )
    assert_shown(sender, f"bogus-mx.{SUFFIX}", "! DANE             the MX lookup failed (dns-servfail, TTL 60 s)")


@with_the_daemon
def test_forged_mx_is_shown_as_not_permitted(sender: Sender) -> None:
    domain = f"forged-mx.unsigned.{SUFFIX}"
    assert_shown(
        sender,
        domain,
        "  DANE             the MX records are not signed, so TLSA records are ignored",
        f"    MX host        forged-for-{domain} is not checked (mx-insecure)",
        "! permitted hosts  the policy permits none of the MX hosts",
        "= on               OK secure match=",
    )


@with_the_daemon
def test_bracketed_host_and_port_are_explained(sender: Sender) -> None:
    host = f"mx.dane-ee.{SUFFIX}"
    assert_shown(
        sender,
        f"[{host}]:587",
        "+ DANE             the host is given, so there is no MX lookup",
        f"    MX host        {host} has no TLSA records (tlsa-absent)",
    )
    shown = sender.daemon.ctl("explain", "--live", f"[{host}]:25")
    assert f"{host} has usable TLSA records" in shown
