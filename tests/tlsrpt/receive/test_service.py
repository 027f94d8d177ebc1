"""The receiver as a part of the daemon: configuration, and maintenance with a clock that jumps."""

from pathlib import Path
from typing import Any

import pytest

from mtasts_daemon.config import Config
from mtasts_daemon.errors import ConfigError
from mtasts_daemon.tlsrpt.receive.model import ReportSource
from mtasts_daemon.tlsrpt.receive.queries import known_domains
from mtasts_daemon.tlsrpt.receive.service import ReceiveService
from tests.fakes.clock import FakeClock

from .corpus import NOW, dumps, report
from .test_contract import DKIM

HOUR = 3600.0


def configured(folder: Path, **receive: Any) -> Config:
    settings = {"own_domains": ["example.com"], "database": str(folder / "received.sqlite")} | receive
    return Config.model_validate({"receive": settings, "store": {"path": str(folder / "policies.sqlite")}})


def service(clock: FakeClock) -> ReceiveService:
    def no_resolver() -> Any:
        raise AssertionError

    return ReceiveService({}, no_resolver, clock)


async def test_setting_that_came_with_an_unreadable_token_applies_when_that_is_readable(tmp_path: Path) -> None:
    receive = service(FakeClock())
    old, new, token = tmp_path / "old.sock", tmp_path / "new.sock", tmp_path / "token"
    try:
        await receive.configure(configured(tmp_path, lmtp_socket=str(old)))
        assert old.is_socket()
        config = configured(tmp_path, lmtp_socket=str(new), fleet_token_file=str(token))
        with pytest.raises(ConfigError):
            await receive.configure(config)
        token.write_text("a-token-of-our-own-daemons")
        token.chmod(0o600)
        await receive.configure(config)
        assert new.is_socket()
        assert not old.exists()
    finally:
        await receive.stop()


async def test_clock_that_jumps_years_ahead_removes_no_report(tmp_path: Path) -> None:
    clock = FakeClock(NOW)
    receive = service(clock)
    try:
        await receive.configure(configured(tmp_path))
        await receive.take_body(dumps(report()), ReportSource.LMTP, DKIM)
        clock.advance(2 * HOUR)
        clock.set_back(-10 * 365 * 24 * HOUR)
        await receive.maintain()
        assert await receive.read(known_domains()) == ["example.com"]
        clock.set_back(10 * 365 * 24 * HOUR)
        await receive.maintain()
        clock.advance(800 * 24 * HOUR)
        await receive.maintain()
        assert await receive.read(known_domains()) == []
    finally:
        await receive.stop()
