"""The stream of a check that does not finish in time."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from mtasts_daemon.admin.check import check_routes
from mtasts_daemon.admin.http import AdminSite
from mtasts_daemon.config import Config
from mtasts_daemon.counters import Counters
from mtasts_daemon.diagnose.check import service
from mtasts_daemon.diagnose.check.catalogue import CATALOGUE
from mtasts_daemon.diagnose.check.gather import CheckStep
from tests.diagnose.evidences import evidence

Api = TestClient[web.Request, web.Application]


class StuckChecker:
    """Takes one step of each check; ends none until ``ends`` is set."""

    def __init__(self) -> None:
        self.ends = False
        self.cancelled = 0

    async def gather(self, domain: str, on_step: Callable[[CheckStep], None]) -> Any:
        on_step(CheckStep("txt", domain, "no record"))
        try:
            if not self.ends:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return evidence()

    async def close(self) -> None:
        pass


@pytest.fixture
def checker() -> StuckChecker:
    return StuckChecker()


@pytest.fixture
async def api(checker: StuckChecker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    monkeypatch.setattr(service, "_WITHIN", 0.05)
    made: Any = checker
    checks = service.CheckService(lambda _config: made)
    await checks.configure(Config())
    site, parts = AdminSite(Counters(), writable=True), SimpleNamespace(checks=checks)
    site.app.add_routes(check_routes(parts))  # type: ignore[arg-type]
    async with TestClient(TestServer(site.app)) as client:
        yield client
    await checks.stop()


async def lines(api: Api) -> list[dict[str, Any]]:
    async with asyncio.timeout(60):
        answer = await api.get("/api/v1/check/example.com")
        assert answer.status == 200
        return [json.loads(line) for line in (await answer.read()).splitlines()]


async def test_check_that_hangs_ends_the_stream_with_check_timeout(api: Api, checker: StuckChecker) -> None:
    step, last = await lines(api)
    assert step == {"step": {"name": "txt", "subject": "example.com", "found": "no record"}}
    assert last == {"error": {"slug": "check-timeout", "detail": CATALOGUE["check-timeout"].sentence}}
    assert checker.cancelled == 1
    # A later check of the domain is a new one.
    checker.ends = True
    assert (await lines(api))[-1]["result"]["domain"] == "example.com"
