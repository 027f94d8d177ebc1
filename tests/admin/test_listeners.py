"""The sockets of the admin side."""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mtasts_daemon.admin.listeners import AdminListeners
from mtasts_daemon.config.sections.admin import AdminSettings


def run(test: Callable[[AdminListeners], Awaitable[None]]) -> None:
    """Run a test with listeners that do not serve; close them after it."""

    async def live() -> None:
        listeners = AdminListeners({}, None)
        try:
            await test(listeners)
        finally:
            await listeners.close()

    asyncio.run(live())


def settings(path: Path, listen: str = "") -> AdminSettings:
    return AdminSettings.model_validate({"socket": str(path)} | ({"listen": listen} if listen else {}))


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Until this is set, the resolver hangs."""
    answers, asked = threading.Event(), socket.getaddrinfo

    def hang(host: str, port: int, **how: Any) -> Any:
        if not how["flags"] & socket.AI_NUMERICHOST:
            assert answers.wait(30)
        return asked(host, port, **how)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    return answers


def test_resolving_a_host_name_does_not_block_the_loop(tmp_path: Path, answers: threading.Event) -> None:
    async def test(listeners: AdminListeners) -> None:
        change = asyncio.create_task(listeners.change(settings(tmp_path / "admin.sock", "localhost:0")))
        await asyncio.sleep(0)
        assert not change.done()
        answers.set()
        await change
        assert connects(tmp_path / "admin.sock")

    run(test)


def test_resolver_timeout_changes_no_listener(
    tmp_path: Path, answers: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtasts_daemon.lookup.listeners._FOUND_WITHIN", 0.01)
    old, new = tmp_path / "old.sock", tmp_path / "new.sock"

    async def test(listeners: AdminListeners) -> None:
        await listeners.change(settings(old))
        with pytest.raises(OSError, match=r"cannot listen on localhost:0: .*address of localhost in time"):
            await listeners.change(settings(new, "localhost:0"))
        assert connects(old)
        assert not new.exists()

    run(test)
    answers.set()


def test_change_that_ends_after_close_leaves_no_socket(tmp_path: Path, answers: threading.Event) -> None:
    async def test(listeners: AdminListeners) -> None:
        change = asyncio.create_task(listeners.change(settings(tmp_path / "admin.sock", "localhost:0")))
        await asyncio.sleep(0)
        await listeners.close()
        answers.set()
        with pytest.raises(OSError, match="the daemon is stopping"):
            await change
        assert not (tmp_path / "admin.sock").exists()

    run(test)


def test_cancelled_change_leaves_no_socket(tmp_path: Path, answers: threading.Event) -> None:
    async def test(listeners: AdminListeners) -> None:
        change = asyncio.create_task(listeners.change(settings(tmp_path / "admin.sock", "localhost:0")))
        await asyncio.sleep(0)
        assert (tmp_path / "admin.sock").exists()
        change.cancel()
        with pytest.raises(asyncio.CancelledError):
            await change
        assert not (tmp_path / "admin.sock").exists()

    run(test)
    answers.set()
