"""A site: one real Postfix, its daemon, and a fake Internet, on a private network."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fakes.dns import FakeDns
from tests.interop.daemon import Daemon
from tests.interop.machine import Machine
from tests.interop.network import Network, Unavailable
from tests.interop.postfix import Postfix
from tests.interop.prepare import TREES, ensure
from tests.interop.world import NAMESERVER, World

__all__ = ["OVERRIDES", "Site", "every_dialect", "every_postfix", "only_with_attributes", "open_site"]

every_dialect = pytest.mark.parametrize(
    ("site", "dialect"),
    [("3.7", "plain"), ("3.10", "plain"), ("3.10", "tlsrpt")],
    indirect=["site"],
    scope="session",
)
every_postfix = pytest.mark.parametrize("site", ["3.7", "3.10"], indirect=True, scope="session")
only_with_attributes = pytest.mark.parametrize("site", ["3.10"], indirect=True, scope="session")

OVERRIDES: Final = {
    "fixed.plain.example": {"reply": "encrypt", "reason": "the partner insists"},
    "skipped.plain.example": {"skip": True, "reason": "their certificate is broken"},
    "dane.plain.example": {"reply": "dane-only", "reason": "signed, and checked by Postfix"},
    "dane.dnssec.example": {"reply": "dane-only", "reason": "signed, and checked by Postfix"},
}


@dataclass(frozen=True, slots=True)
class Site:
    """The running parts of a site."""

    machine: Machine
    postfix: Postfix
    daemon: Daemon
    world: World


@contextmanager
def open_site(
    version: str, folder: Path, settings: Callable[[Postfix], Mapping[str, Any]] = lambda _postfix: {}
) -> Iterator[Site]:
    """Start a site, and stop it at the end. Skips the test if the host cannot; in CI that is a failure.

    ``settings`` returns further settings of the daemon once the paths of Postfix's files are known.
    """
    try:
        ensure(TREES[version])
        dns = FakeDns(address=NAMESERVER, port=53)
        with Network() as network, Machine(TREES[version], network) as machine, World(network, folder, dns) as world:
            postfix = Postfix(machine, version, world.ca.pem)
            postfix.start()
            try:
                more = {"overrides": OVERRIDES, **settings(postfix)}
                with Daemon(world, folder, more, sockets=postfix.sockets) as daemon:
                    yield Site(machine, postfix, daemon, world)
            finally:
                (folder / "mail.log").write_text(postfix.log)
    except Unavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no machine with Postfix {version}: {error}")
        pytest.skip(f"no machine with Postfix {version}: {error}")
