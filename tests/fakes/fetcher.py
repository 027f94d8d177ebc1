"""A PolicyFetcher in memory with a body, an error or a gate for each domain."""

import asyncio
from collections import defaultdict

from mtasts_daemon.errors import MtaStsError
from mtasts_daemon.ports import FetchedBody

__all__ = ["FakeFetcher", "policy_text"]


def policy_text(mode: str = "enforce", *mx: str, max_age: int = 604800) -> bytes:
    """Return a policy body."""
    lines = ["version: STSv1", f"mode: {mode}", *(f"mx: {host}" for host in mx or ("mx.example.com",))]
    return "\r\n".join([*lines, f"max_age: {max_age}", ""]).encode()


class FakeFetcher:
    """Implements ``ports.PolicyFetcher``. ``fetches`` records (domain, live), in order."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes | MtaStsError | Exception] = {}
        self.gates: defaultdict[str, asyncio.Event | None] = defaultdict(lambda: None)
        self.fetches: list[tuple[str, bool]] = []

    async def fetch(self, policy_domain: str, *, live: bool) -> FetchedBody:
        self.fetches.append((policy_domain, live))
        gate = self.gates[policy_domain]
        if gate is not None:
            await gate.wait()
        served = self.bodies[policy_domain]
        if isinstance(served, MtaStsError):
            raise type(served)(served.detail)
        if isinstance(served, Exception):
            raise served
        return FetchedBody(served)

    async def close(self) -> None:
        pass
