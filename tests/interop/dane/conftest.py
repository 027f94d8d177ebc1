"""One signed world for all tests without Postfix, and one for each Postfix, with all scenarios set up."""

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from mtasts_daemon.policy.precedence import DaneLevel, DaneMode, dane_level
from tests.fakes.smtp import MailSink
from tests.interop.daemon import Daemon
from tests.interop.dane.nameservers import NameServers
from tests.interop.dane.scenarios import SCENARIOS, UNSIGNED, Scenario
from tests.interop.dane.signed_world import SignedWorld
from tests.interop.machine import Machine
from tests.interop.network import Network, Unavailable
from tests.interop.postfix import Postfix
from tests.interop.prepare import TREES

SUFFIX = "levels.example"

ZONES = {"on": "on.example", "always": "always.example", "QUERYwithTLSRPT": "attributes.example"}
"""The daemon's map names, and the domains whose mail uses each."""

SMART_HOST = "smarthost.example"
RELAYED = "relayed.on.example"
"""A domain whose mail goes to the smart host."""

SETTINGS = {"zones": {"on": {"dane": "on"}, "always": {"dane": "always"}, "QUERYwithTLSRPT": {"dane": "on"}}}

# The first does not ask the daemon. If the daemon answers for every domain, Postfix does no DANE itself.
_SERVICES = """
levels unix - - y - - smtp -o smtp_dns_support_level=dnssec -o inet_protocols=all
  -o smtp_tls_policy_maps=texthash:/etc/postfix/levels
on unix - - y - - smtp -o smtp_dns_support_level=dnssec -o inet_protocols=all
  -o smtp_tls_security_level=dane -o smtp_tls_policy_maps=${daemon}:on
always unix - - y - - smtp -o smtp_dns_support_level=dnssec -o inet_protocols=all
  -o smtp_tls_security_level=may -o smtp_tls_policy_maps=${daemon}:always
attributes unix - - y - - smtp -o smtp_dns_support_level=dnssec -o inet_protocols=all
  -o smtp_tls_security_level=dane -o smtp_tls_policy_maps=${daemon}:QUERYwithTLSRPT
"""
# The last service listed, if this Postfix has it.
_TLSRPT = "  -o smtp_tlsrpt_enable=yes -o smtp_tlsrpt_socket_name=run/mtasts/tlsrpt.sock\n"


@contextmanager
def _or_skip() -> Iterator[None]:
    try:
        yield
    except Unavailable as error:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(error))


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed world, and the mail exchangers of each scenario's domain."""

    world: SignedWorld
    servers: NameServers
    exchangers: dict[str, Sequence[MailSink]]


@contextmanager
def open_signed(network: Network, folder: pytest.TempPathFactory, *suffixes: str) -> Iterator[Signed]:
    """Set up all scenarios below each of ``suffixes``, which select the transport of their mail."""
    with (
        NameServers(network, [f"{UNSIGNED}.{suffix}" for suffix in suffixes]) as servers,
        SignedWorld(network, folder.mktemp("signed"), servers) as world,
    ):
        domains = {scenario.domain(suffix): scenario for suffix in suffixes for scenario in SCENARIOS}
        with world.at_once():
            exchangers = {domain: scenario.prepare(world, domain) for domain, scenario in domains.items()}
        yield Signed(world, servers, exchangers)


@pytest.fixture(scope="session")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signed]:
    with _or_skip(), Network() as network, open_signed(network, tmp_path_factory, SUFFIX) as opened:
        yield opened


@dataclass(frozen=True, slots=True)
class Sender:
    """A Postfix that asks the daemon, and a table of its own for the domains below ``SUFFIX``.

    That table contains the level of the decision table for each scenario.
    """

    postfix: Postfix
    daemon: Daemon
    signed: Signed


@pytest.fixture(scope="session", params=["3.7", "3.10"])
def sender(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sender]:
    with (
        _or_skip(),
        Network() as network,
        open_signed(network, tmp_path_factory, SUFFIX, *ZONES.values()) as opened,
        Machine(TREES[request.param], network) as machine,
    ):
        postfix = Postfix(machine, request.param, opened.world.ca.pem)
        etc = machine.root / "etc/postfix"
        with (etc / "master.cf").open("a") as services, (etc / "transport").open("a") as transport:
            services.write(_SERVICES)
            services.write(_TLSRPT if request.param == "3.10" else "")
            transport.writelines(f".{suffix} {suffix.split('.')[0]}:\n" for suffix in (SUFFIX, *ZONES.values()))
            transport.write(f"{RELAYED} on:[{SMART_HOST}]\n")
        (etc / "levels").write_text("".join(_line(opened.world, scenario) for scenario in SCENARIOS))
        folder = tmp_path_factory.mktemp(f"dane-{request.param}")
        postfix.start()
        try:
            tlsrpt = {"tlsrpt": {"socket": str(postfix.sockets / "tlsrpt.sock")}}
            with Daemon(opened.world, folder, SETTINGS | tlsrpt, sockets=postfix.sockets) as daemon:
                yield Sender(postfix, daemon, opened)
        finally:
            (folder / "mail.log").write_text(postfix.log)


def _line(world: SignedWorld, scenario: Scenario) -> str:
    domain = scenario.domain(SUFFIX)
    level = dane_level(world.walk(domain), scenario.policy, DaneMode.ALWAYS).level
    if level is DaneLevel.NOTFOUND:
        return ""
    if level is not DaneLevel.SECURE:
        return f"{domain} {level.value}\n"
    names = ":".join(pattern.removeprefix("*") for pattern in world.patterns[domain])
    return f"{domain} secure match={names} servername=hostname\n"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the last log lines of Postfix and the daemon to a failure."""
    report = yield
    sender = getattr(item, "funcargs", {}).get("sender")
    if report.failed and isinstance(sender, Sender):
        for name, log in (("Postfix", sender.postfix.log), ("the daemon", sender.daemon.log)):
            report.sections.append((f"last words of {name}", "\n".join(log.splitlines()[-40:])))
    return report
