"""A policy host, a resolver and a fetcher, for the tests of the fetcher."""

from ipaddress import ip_network
from typing import Any

import pytest

from mtasts_daemon import errors
from mtasts_daemon.https.policy_fetcher import HttpsPolicyFetcher
from mtasts_daemon.policy.dns_answer import RRType
from mtasts_daemon.ports import FetchedBody
from tests.fakes.ca import Ca
from tests.fakes.https import Behaviour, PolicyHost
from tests.fakes.resolver import FakeResolver

__all__ = ["DOMAIN", "HOST", "SOON", "World", "failure", "fetched"]

DOMAIN = "example.com"
HOST = f"mta-sts.{DOMAIN}"
LOOPBACK = (ip_network("127.0.0.0/8"),)
SOON = 1.0
"""Timeout in seconds of a fetch from a host that hangs."""


class World:
    """A policy host, a resolver that knows it at 127.0.0.1, and a fetcher."""

    def __init__(self, ca: Ca, behaviour: Behaviour, **settings: Any) -> None:
        self.host = PolicyHost(ca, {DOMAIN: behaviour})
        self.resolver = FakeResolver()
        self.resolver.put(HOST, RRType.A, ["127.0.0.1"])
        self.settings = {"ca_file": ca.pem, "allowed": LOOPBACK, "own": frozenset, "total": 10.0, **settings}

    async def __aenter__(self) -> "World":
        await self.host.start("0.0.0.0")
        self.fetcher = HttpsPolicyFetcher(self.resolver, port=self.host.port, **self.settings)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.fetcher.close()
        await self.host.stop()

    async def fetch(self, domain: str = DOMAIN, live: bool = False) -> FetchedBody:
        return await self.fetcher.fetch(domain, live=live)


async def fetched(ca: Ca, behaviour: Behaviour, **settings: Any) -> FetchedBody:
    async with World(ca, behaviour, **settings) as world:
        return await world.fetch()


async def failure(ca: Ca, behaviour: Behaviour, connections: int = 1, **settings: Any) -> errors.PolicyFetchError:
    """Fetch and return the error; check the number of ``connections``."""
    async with World(ca, behaviour, **settings) as world:
        with pytest.raises(errors.PolicyFetchError) as caught:
            await world.fetch()
        assert world.host.connections == connections
    assert caught.value.sentence.isascii()
    assert caught.value.sentence.isprintable()
    return caught.value
