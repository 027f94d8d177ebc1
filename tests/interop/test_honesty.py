"""A Postfix with default settings: which function fails without each setting that the README requires."""

import hashlib
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.interop.postfix import Postfix
from tests.interop.site import Site, every_postfix, only_with_attributes

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120, func_only=True)]


@every_postfix
def test_without_a_ca_file_every_enforced_policy_defers(site: Site) -> None:
    for domain, delivered in (("trust.nocafile.example", False), ("trust.plain.example", True)):
        exchanger = site.world.exchanger(f"mx.{domain}")
        site.world.send_mail_for(domain, exchanger)
        site.world.publish(domain, "enforce", [exchanger.name])
        sent = site.postfix.send(domain)
        assert sent.delivered is delivered
        assert sent.deferred is not delivered
        assert len(exchanger.messages) == delivered
    assert "certificate verification failed for mx.trust.nocafile.example" in site.postfix.log


@only_with_attributes
def test_without_a_security_level_no_report_is_made(site: Site) -> None:
    with report_socket(site.postfix) as reports:
        for domain in ("reported.nolevel.example", "reported.report.example"):
            exchanger = site.world.exchanger(f"mx.{domain}")
            site.world.send_mail_for(domain, exchanger)
            site.world.publish(domain, "enforce", [exchanger.name])
            site.world.records(f"_smtp._tls.{domain}", 'TXT "v=TLSRPTv1; rua=mailto:tls@reports.example"')
            assert site.postfix.send(domain).delivered
            assert f"Verified TLS connection established to {exchanger.name}" in site.postfix.log
        report = json.loads(reports.recv(1 << 18))
        reports.setblocking(False)
        with pytest.raises(BlockingIOError):
            reports.recv(1)
    assert report["d"] == "reported.report.example"
    policy = report["policies"][0]
    assert (policy["policy-type"], policy["policy-domain"], policy["f"]) == (2, "reported.report.example", 0)
    assert policy["mx-host"] == ["mx.reported.report.example"]
    assert "mode: enforce" in policy["policy-string"]


@every_postfix
def test_dane_only_defers_unless_postfix_asks_for_dnssec(site: Site) -> None:
    for domain, delivered in (("dane.plain.example", False), ("dane.dnssec.example", True)):
        exchanger = site.world.exchanger(f"mx.{domain}")
        certificate = x509.load_pem_x509_certificate(site.world.ca.issue(exchanger.name).read_bytes())
        key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        site.world.records(f"_25._tcp.{exchanger.name}", f"TLSA 3 1 1 {hashlib.sha256(key).hexdigest()}", "! * ad")
        site.world.records(exchanger.name, f"A {exchanger.address[0]}", "! * ad")
        site.world.records(domain, f"MX 10 {exchanger.name}.", "! * ad")
        sent = site.postfix.send(domain)
        assert sent.delivered is delivered
        assert sent.deferred is not delivered
        if not delivered:
            assert (sent.dsn, sent.reason) == ("4.7.5", "client TLS configuration problem")
    assert "Verified TLS connection established to mx.dane.dnssec.example" in site.postfix.log


@contextmanager
def report_socket(postfix: Postfix) -> Iterator[socket.socket]:
    """The socket for TLS reports."""
    path = postfix.sockets / "tlsrpt.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reports:
        reports.settimeout(20)
        reports.bind(str(path))
        path.chmod(0o660)
        yield reports
    path.unlink()
