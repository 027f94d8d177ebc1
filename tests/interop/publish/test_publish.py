"""From an empty zone to an enforced policy that real senders follow, and back, without lost mail."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dns.rdatatype import RdataType

from tests.interop.daemon import Daemon
from tests.interop.machine import Machine
from tests.interop.network import Unavailable
from tests.interop.postfix import Postfix
from tests.interop.prepare import TREES

from .place import AUTHORITY, FRONTS, ZONE, Place

pytestmark = pytest.mark.interop

CORP = f"corp.{ZONE}"
POLICY = f"version: STSv1\r\nmode: enforce\r\nmx: mx1.{ZONE}\r\nmx: mx2.{ZONE}\r\nmax_age: 60\r\n".encode()


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
def test_domain_goes_from_nothing_to_enforced_and_back(place: Place, tmp_path: Path) -> None:
    one, two = place.exchanger(1, CORP), place.exchanger(2, CORP)
    place.front("nginx")
    settings = {CORP: {"mode": "enforce", "mx": "auto", "max_age": "1m", "rua": [f"mailto:tls@{CORP}"]}}
    with place.publisher(settings) as publisher:
        # The gate is closed: the policy host has no records and cannot be reached.
        publisher.logs("publish-gate-refused")
        assert "the policy host has no address" in publisher.log
        assert place.dig(f"_mta-sts.{CORP}", RdataType.TXT) == []
        applied = ctl(publisher, "publish", "apply", CORP)
        assert "all servers agree" in applied
        assert place.dig(f"mta-sts.{CORP}", RdataType.A) == [FRONTS["nginx"]]
        assert place.dig(f"_smtp._tls.{CORP}", RdataType.TXT) == [f'"v=TLSRPTv1; rua=mailto:tls@{CORP}"']
        (text,) = place.dig(f"_mta-sts.{CORP}", RdataType.TXT, AUTHORITY)
        assert place.fetch(f"mta-sts.{CORP}", FRONTS["nginx"]) == (200, POLICY)
        assert place.fetch(f"mta-sts.{CORP}", FRONTS["nginx"], path="/")[0] == 404
        assert "as DNS has it" in ctl(publisher, "publish", "records", CORP, "--diff")

        with sending(place, tmp_path) as (postfix, sender):
            assert sender.lookup(CORP, "QUERYwithTLSRPT").startswith("OK secure ")
            assert postfix.send(CORP).delivered
            assert f"Verified TLS connection established to mx1.{ZONE}" in postfix.log

            # Both certificates break: the sender holds mail back, and the publisher's operator is alerted.
            one.use_certificate("wrong.example")
            two.use_certificate("wrong.example")
            held = postfix.send(CORP)
            assert held.deferred
            publisher.stop()
            publisher.start()
            ctl(publisher, "publish", "status", CORP, "--check", code=1)
            ctl(publisher, "publish", "status", CORP, "--check", code=1)
            assert "slug=publish-mx-broken" in publisher.log

            # Removal: the new id announces mode none, and mail is delivered although the certificates stay broken.
            printed = ctl(publisher, "publish", "remove", CORP)
            assert "mode none is served" in printed
            assert place.dig(f"_mta-sts.{CORP}", RdataType.TXT) != [text]
            assert b"mode: none" in place.fetch(f"mta-sts.{CORP}", FRONTS["nginx"])[1]
            sender.ctl("cache", "refresh", CORP)
            assert not sender.lookup(CORP, "QUERYwithTLSRPT").startswith("OK secure ")
            assert postfix.send(CORP).delivered


@contextmanager
def sending(place: Place, tmp_path: Path) -> Iterator[tuple[Postfix, Daemon]]:
    with Machine(TREES["3.10"], place.network) as machine:
        postfix = Postfix(machine, "3.10", place.ca.pem)
        settings = {"tlsrpt": {"socket": str(postfix.sockets / "tlsrpt.sock")}}
        with place.daemon("sender", settings, sockets=postfix.sockets) as sender:
            postfix.start()
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
        said = ctl(publisher, "publish", "apply", CORP, code=75)
        assert "127.0.1.53" in said
        assert place.dig(f"mta-sts.{CORP}", RdataType.A) == []
