"""A running daemon, and ``mtastsctl`` with its configuration."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mtasts_daemon.cli.main import ctl_main
from tests.fakes.ca import Flaw
from tests.fakes.https import Behaviour
from tests.fakes.process import Internet, Process

__all__ = ["DOMAINS", "Ctl", "Ran"]

DOMAINS = ("a.example", "b.example", "c.example")


class Ran(NamedTuple):
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Ctl:
    """Run the command within this process, with the daemon's configuration."""

    def __init__(self, captured: pytest.CaptureFixture[str], config: Path) -> None:
        self._captured = captured
        self.config = str(config)

    def __call__(self, *arguments: str) -> Ran:
        return self.bare(*arguments, "-c", self.config)

    def bare(self, *arguments: str) -> Ran:
        code = ctl_main(arguments)
        out, err = self._captured.readouterr()
        return Ran(code, out, err)


@pytest.fixture(scope="module")
def internet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Internet]:
    with Internet(tmp_path_factory.mktemp("internet")) as internet:
        for domain in (*DOMAINS, "new.example"):
            internet.publish(domain)
        internet.publish("expired.example", behaviour=Behaviour(certificate=Flaw.EXPIRED))
        yield internet


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, internet: Internet) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("daemon")
    with Process(folder, internet, {"admin": {"socket": str(folder / "admin.sock")}}) as daemon:
        for domain in DOMAINS:
            daemon.lookup(domain)
        daemon.logged("admin-listening")
        yield daemon


@pytest.fixture
def ctl(capsys: pytest.CaptureFixture[str], daemon: Process) -> Ctl:
    return Ctl(capsys, daemon.config)
