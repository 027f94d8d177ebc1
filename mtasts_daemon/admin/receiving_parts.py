"""The parts of the receiving side, as its HTTP server sees them."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..counters import Counters
from ..diagnose.check.service import CheckService
from ..diagnose.watch.watch import DomainWatch
from ..ports import Clock
from ..public.server import PublicServer
from ..publish.operations import PublishOperations
from ..tlsrpt.receive.service import ReceiveService

__all__ = ["ReceivingParts"]


@dataclass(frozen=True, slots=True)
class ReceivingParts:
    """The parts of the receiving side; they live as long as its process."""

    receive: ReceiveService
    publish: PublishOperations
    public: PublicServer
    checks: CheckService
    watch: DomainWatch
    counters: Counters
    clock: Clock
    failures: Callable[[], Mapping[str, str]]
    """Parts and background tasks that failed: name to reason."""
    configured: Callable[[int], "asyncio.Future[None]"]
    """Return a future that is done once the configuration with this number is in force."""
