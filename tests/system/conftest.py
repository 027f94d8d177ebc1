"""One machine for all tests, booted before the first test."""

import os
from collections.abc import Generator, Iterator

import pytest

from tests.fakes.dns import FakeDns
from tests.interop.network import Network, Unavailable
from tests.interop.prepare import ensure
from tests.interop.world import NAMESERVER, World
from tests.system.booted import BootedMachine
from tests.system.package import BUILD, MACHINE, build_packages
from tests.system.scene import Scene


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("system")
    work = folder / "build"
    work.mkdir()
    try:
        for tree in (BUILD, MACHINE):
            ensure(tree)
        first, second = build_packages(work, folder / "build.log", tests=os.environ.get("DEB_TESTS") == "1")
        dns = FakeDns(address=NAMESERVER, port=53)
        with (
            Network() as network,
            World(network, folder, dns) as world,
            BootedMachine(MACHINE, network, folder / "console.log") as machine,
        ):
            yield Scene(machine, world, first, second)
    except Unavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no booted machine: {error}")
        pytest.skip(f"no booted machine: {error}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the ends of the machine's journals next to a failure."""
    report = yield
    scene = getattr(item, "funcargs", {}).get("scene")
    if report.failed and isinstance(scene, Scene):
        for unit in ("mtasts-daemon*", "postfix*"):
            lines = scene.machine.attempt("journalctl", "--no-pager", "--lines=40", f"--unit={unit}")[1]
            report.sections.append((f"journal of {unit}", lines))
    return report
