"""One signed world for all tests that need no Postfix, and one with each Postfix, all scenarios in place."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from mtasts_daemon.policy.precedence import DaneLevel, DaneMode, dane_level
from tests.fakes.smtp import MailSink
from tests.interop.dane.nameservers import NameServers
from tests.interop.dane.scenarios import SCENARIOS, UNSIGNED, Scenario
from tests.interop.dane.signed_world import SignedWorld
from tests.interop.machine import Machine
from tests.interop.network import Network, Unavailable
from tests.interop.postfix import Postfix
from tests.interop.prepare import TREES

SUFFIX = "levels.example"


@contextmanager
def _or_skip() -> Iterator[None]:
    try:
        yield
    except Unavailable as error:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(error))


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed world, and the exchangers of each scenario in it."""

    world: SignedWorld
    servers: NameServers
    exchangers: dict[str, Sequence[MailSink]]


@contextmanager
def open_signed(network: Network, folder: pytest.TempPathFactory, suffix: str) -> Iterator[Signed]:
    """All scenarios below ``suffix``, which chooses the transport that their mail goes by."""
    with (
        NameServers(network, [f"{UNSIGNED}.{suffix}"]) as servers,
        SignedWorld(network, folder.mktemp("signed"), servers) as world,
    ):
        with world.at_once():
            exchangers = {scenario.name: scenario.prepare(world, scenario.domain(suffix)) for scenario in SCENARIOS}
        yield Signed(world, servers, exchangers)


@pytest.fixture(scope="session")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signed]:
    with _or_skip(), Network() as network, open_signed(network, tmp_path_factory, SUFFIX) as opened:
        yield opened


@dataclass(frozen=True, slots=True)
class Sender:
    """A Postfix whose policy table holds, for each scenario, what the decision table makes of its DNS."""

    postfix: Postfix
    signed: Signed


@pytest.fixture(scope="session", params=["3.7", "3.10"])
def sender(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sender]:
    with (
        _or_skip(),
        Network() as network,
        open_signed(network, tmp_path_factory, SUFFIX) as opened,
        Machine(TREES[request.param], network) as machine,
    ):
        postfix = Postfix(machine, request.param, opened.world.ca.pem)
        etc = machine.root / "etc/postfix"
        with (etc / "master.cf").open("a") as services, (etc / "transport").open("a") as transport:
            services.write(
                "levels unix - - y - - smtp -o smtp_dns_support_level=dnssec -o inet_protocols=all\n"
                "  -o smtp_tls_policy_maps=texthash:/etc/postfix/levels\n"
            )
            transport.write(f".{SUFFIX} levels:\n")
        (etc / "levels").write_text("".join(_line(opened.world, scenario) for scenario in SCENARIOS))
        postfix.start()
        yield Sender(postfix, opened)


def _line(world: SignedWorld, scenario: Scenario) -> str:
    domain = scenario.domain(SUFFIX)
    level = dane_level(world.walk(domain), scenario.policy, DaneMode.ALWAYS).level
    if level is not DaneLevel.SECURE:
        return f"{domain} {level.value}\n"
    names = ":".join(pattern.removeprefix("*") for pattern in world.patterns[domain])
    return f"{domain} secure match={names} servername=hostname\n"
