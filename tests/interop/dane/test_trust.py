"""Trust in the resolver and choice of the resolver: DANE is switched on and off, and logged, at run time."""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fakes.dns import FakeDns
from tests.interop.daemon import Daemon
from tests.interop.network import Network, Unavailable
from tests.interop.world import NAMESERVER, World

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120, func_only=True)]

DOMAIN: Final = "signed.example"
MX: Final = f"mx.{DOMAIN}"
ELSEWHERE: Final = "10.53.0.1"
"""A resolver that is not on a loopback address."""
OLD, DEAD, MUTE = "127.0.5.1", "127.0.5.2", "127.0.5.3"
ZONES: Final = {"postfix": {"dane": "on"}}
OFF, ON = "warning: dnssec-not-validated ", "info: dnssec-validated "


@dataclass
class Lab:
    """``DOMAIN`` with a policy and TLSA records, and resolvers that validate or not."""

    world: World
    folder: Path
    dns: FakeDns
    others: list[FakeDns] = field(default_factory=list)

    def validate(self, validates: bool) -> None:
        """Make the resolver set the AD bit, or not."""
        self.world.do(lambda: setattr(self.dns, "authenticated", validates))
        self.world.records("", "NS a.root.")

    def resolver(self, address: str, *, validates: bool) -> None:
        """Start another resolver with the same zones."""
        other = FakeDns(self.world.zone, address=address, port=53, authenticated=validates)
        self.world.wait(other.start())
        self.others.append(other)

    def daemon(self, etc: dict[str, str] | None = None, **settings: Any) -> Daemon:
        return Daemon(self.world, self.folder, {"zones": ZONES} | settings, etc=etc)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    try:
        network = Network()
    except Unavailable as error:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(error))
    dns = FakeDns(address=NAMESERVER, port=53)
    with network, World(network, tmp_path, dns) as world:
        lab = Lab(world, tmp_path, dns)
        world.records(DOMAIN, f"60 MX 10 {MX}.")
        world.records(MX, "60 A 192.0.2.1")
        world.records(f"_25._tcp.{MX}", f"60 TLSA 3 1 1 {'00' * 32}")
        world.publish(DOMAIN, "enforce", [MX])
        lab.validate(True)
        try:
            yield lab
        finally:
            for other in lab.others:
                world.wait(other.close())


def assert_by_policy(daemon: Daemon, zone: str = "postfix") -> None:
    assert daemon.lookup(DOMAIN, zone).startswith("OK secure ")


def assert_by_dane(daemon: Daemon, zone: str = "postfix") -> None:
    assert daemon.lookup(DOMAIN, zone) == "OK dane-only"


# -- the probe ---------------------------------------------------------------------------------------------


def test_dane_is_off_without_validation_and_on_again_after_it(lab: Lab) -> None:
    lab.validate(False)
    with lab.daemon() as daemon:
        daemon.logs(OFF)
        assert_by_policy(daemon)
        # A resolver that validates again is noticed within a minute, or at once on reload.
        lab.validate(True)
        daemon.reload()
        daemon.logs(ON)
        assert_by_dane(daemon)
        lab.validate(False)
        daemon.reload()
        daemon.logs(OFF, times=2)
        assert_by_policy(daemon)


def test_verdicts_are_dropped_when_validation_is_lost(lab: Lab) -> None:
    with lab.daemon() as daemon:
        daemon.logs(ON)
        lab.validate(False)
        assert_by_policy(daemon)  # as if the domain were not signed, until the next check
        daemon.reload()
        daemon.logs(OFF)
        lab.validate(True)
        daemon.reload()
        daemon.logs(ON, times=2)
        assert_by_dane(daemon)


def test_ad_is_trusted_from_loopback_and_configured_networks(lab: Lab) -> None:
    lab.world.network.add_address(ELSEWHERE)
    lab.resolver(ELSEWHERE, validates=True)
    asked = {"resolvers": [ELSEWHERE]}
    with lab.daemon(dns=asked) as daemon:
        daemon.logs(OFF)
        assert_by_policy(daemon)
        daemon.reload(dns=asked | {"trust_ad": ["10.53.0.0/24"]})
        daemon.logs(ON)
        assert_by_dane(daemon)
        daemon.reload(dns=asked)
        daemon.logs(OFF, times=2)
        assert_by_policy(daemon)


def test_answer_for_a_bogus_name_means_no_validation(lab: Lab) -> None:
    bogus = {"resolvers": [NAMESERVER], "bogus_probe": "a:bogus.example"}
    lab.world.records("bogus.example", "A 192.0.2.2")
    with lab.daemon(dns=bogus) as daemon:
        daemon.logs(OFF)
        assert_by_policy(daemon)
        lab.world.records("bogus.example", "! * servfail")
        daemon.reload()
        daemon.logs(ON)
        assert_by_dane(daemon)


def test_unanswered_probe_changes_nothing(lab: Lab) -> None:
    with lab.daemon() as daemon:
        daemon.logs(ON)
        lab.world.records("", "NS a.root.", "! * servfail")
        daemon.reload()
        assert_by_dane(daemon)
        assert OFF not in daemon.log


# -- dane: auto --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("main_cf", "modes", "read"),
    [
        ("smtp_tls_security_level = dane\nsmtp_dns_support_level = dnssec\n", "postfix=on query=on", "read"),
        ("smtp_tls_security_level = may\n", "postfix=off query=off", "read"),
        (None, "postfix=off query=on", '"cannot be read"'),
    ],
)
def test_auto_follows_the_settings_of_postfix(lab: Lab, main_cf: str | None, modes: str, read: str) -> None:
    with lab.daemon({} if main_cf is None else {"postfix/main.cf": main_cf}, zones={}) as daemon:
        daemon.logs(ON)
        (line,) = (line for line in daemon.log.splitlines() if line.startswith("info: dane "))
        assert line.startswith(f'info: dane zones="{modes} ')
        assert line.endswith(f"main_cf={read}")
        for name in ("postfix", "QUERY"):
            (assert_by_dane if f"{name.lower()}=on" in modes else assert_by_policy)(daemon, name)


def test_auto_reads_main_cf_again_on_reload(lab: Lab) -> None:
    with lab.daemon({"postfix/main.cf": ""}, zones={}) as daemon:
        daemon.logs(ON)
        assert_by_policy(daemon)
        daemon.write_etc("postfix/main.cf", "smtp_dns_support_level = dnssec\n")
        daemon.reload()
        daemon.logs('info: dane zones="postfix=on ')
        assert_by_dane(daemon)


# -- which resolver ----------------------------------------------------------------------------------------


def test_changed_resolv_conf_is_read_and_probed(lab: Lab) -> None:
    lab.resolver(OLD, validates=False)
    with lab.daemon({"resolv.conf": f"nameserver {OLD}\n"}, dns={}) as daemon:
        daemon.logs(OFF)
        assert_by_policy(daemon)
        daemon.write_etc("resolv.conf", f"# DHCP\nnameserver {NAMESERVER}\n")
        # Here the TXT record of a live policy is checked every second, and resolv.conf every few seconds.
        daemon.comes_to_answer(DOMAIN, "dane-only")
        assert f"info: resolvers ask={NAMESERVER}:53" in daemon.log
        assert ON in daemon.log


@pytest.mark.parametrize("address", [DEAD, MUTE])
def test_dead_or_silent_first_resolver_is_skipped(lab: Lab, address: str) -> None:
    with lab.world.network.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as nobody:
        nobody.bind((MUTE, 53))
        with lab.daemon(dns={"resolvers": [address, NAMESERVER]}) as daemon:
            daemon.logs(ON)
            daemon.comes_to_answer(DOMAIN, "dane-only")
            assert daemon.complaints == []


def test_cached_policy_applies_without_any_resolver(lab: Lab) -> None:
    with lab.daemon() as daemon:
        daemon.logs(ON)
        assert_by_dane(daemon)
        daemon.reload(dns={"resolvers": [DEAD]})
        daemon.stop()
        daemon.start()
        assert_by_policy(daemon)
        assert daemon.lookup("another.example") == "NOTFOUND "


# -- a policy that permits no MX host ----------------------------------------------------------------------


def test_mx_mismatch_is_logged_once_with_patterns_and_hosts(lab: Lab) -> None:
    world = lab.world
    world.publish("unmatched.example", "enforce", ["mx.unmatched.example", "*.unmatched.example"])
    world.records("unmatched.example", "60 MX 10 mx.elsewhere.example.", "60 MX 20 a.b.unmatched.example.")
    line = (
        "warning: policy-permits-no-mx-host domain={0} mx=mx.{0},*.{0} hosts=mx.elsewhere.example,a.b.{0} "
        'meaning="the domain cannot be delivered to until its policy or its MX records are corrected"'
    ).format("unmatched.example")
    with lab.daemon() as daemon:
        daemon.logs(ON)
        for _ in range(3):
            assert daemon.lookup("unmatched.example").startswith("OK secure ")
        daemon.logs(line)
        # Fetched again, with the same content.
        world.publish("unmatched.example", "enforce", ["mx.unmatched.example", "*.unmatched.example"], policy_id="2")
        daemon.comes_to_log("policy-renewed", by_asking="unmatched.example")
        assert daemon.log.count("warning: policy-permits-no-mx-host ") == 1


def test_new_mx_mismatch_is_noticed_at_a_refresh(lab: Lab) -> None:
    with lab.daemon(zones={"postfix": {"dane": "off"}}) as daemon:
        assert_by_policy(daemon)
        lab.world.records(DOMAIN, "60 MX 10 mx.elsewhere.example.")
        lab.world.publish(DOMAIN, "enforce", [MX], policy_id="2")
        daemon.comes_to_log(
            f"warning: policy-permits-no-mx-host domain={DOMAIN} mx={MX} hosts=mx.elsewhere.example ", by_asking=DOMAIN
        )
