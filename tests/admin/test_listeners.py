"""The sockets of the admin interface."""

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mtasts_daemon.admin.listeners import AdminListeners
from mtasts_daemon.config.sections.admin import AdminSettings
from mtasts_daemon.counters import Counters
from tests.event_loop import idle
from tests.fakes.admin import Admin


@pytest.fixture
async def listeners() -> AsyncIterator[AdminListeners]:
    """Listeners of a daemon without parts."""
    parts = SimpleNamespace(counters=Counters(), receiving=None)
    listeners = AdminListeners({}, SimpleNamespace(parts=parts))
    yield listeners
    await listeners.close()


def settings(path: Path, listen: str = "") -> AdminSettings:
    return AdminSettings.model_validate({"socket": str(path)} | ({"listen": listen} if listen else {}))


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def listening(caplog: pytest.LogCaptureFixture) -> list[Mapping[str, Any]]:
    """Return the fields of the log lines about addresses that are served."""
    records = (vars(record) for record in caplog.records if record.getMessage() == "admin-listening")
    return [record["fields"] for record in records]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Until this is set, the resolver hangs."""
    answers, asked = threading.Event(), socket.getaddrinfo

    def hang(host: str, port: int, **how: Any) -> Any:
        if not how["flags"] & socket.AI_NUMERICHOST:
            assert answers.wait(120)
        return asked(host, port, **how)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    return answers


async def test_resolving_a_host_name_does_not_block_the_loop(
    listeners: AdminListeners, tmp_path: Path, answers: threading.Event
) -> None:
    change = asyncio.create_task(listeners.change(settings(tmp_path / "admin.sock", "localhost:0")))
    await idle()
    assert not change.done()
    answers.set()
    await change
    assert connects(tmp_path / "admin.sock")


async def test_resolver_timeout_closes_no_listener_and_the_others_open(
    listeners: AdminListeners, tmp_path: Path, answers: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtasts_daemon.lookup.listeners._FOUND_WITHIN", 0.01)
    old, new = tmp_path / "old.sock", tmp_path / "new.sock"

    await listeners.change(settings(old))
    with pytest.raises(OSError, match=r"cannot listen on localhost:0: .*address of localhost in time"):
        await listeners.change(settings(new, "localhost:0"))
    assert connects(old)
    assert connects(new)
    answers.set()


async def test_unreadable_token_keeps_the_tcp_address_closed_and_the_socket_open(
    listeners: AdminListeners, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mtasts_daemon")
    token, path = tmp_path / "token", tmp_path / "admin.sock"
    wanted = AdminSettings.model_validate({"socket": str(path), "listen": "127.0.0.1:0", "token_file": str(token)})
    with pytest.raises(OSError, match=r"token cannot be read: No such file"):
        await listeners.change(wanted)
    assert connects(path)
    await listeners.serve()
    assert [fields["address"] for fields in listening(caplog)] == [str(path)]
    token.write_text("sixteen-letters-or-more")
    token.chmod(0o600)
    await listeners.change(wanted)
    await listeners.serve()
    assert connects(path)
    (port,) = [fields["port"] for fields in listening(caplog) if "port" in fields]
    ask = partial(asyncio.to_thread, Admin(("127.0.0.1", port)).get, "/absent")
    assert (await ask(Authorization="Bearer sixteen-letters-or-more")).status == 404
    assert (await ask(Authorization="Bearer sixteen-letters-or-less")).status == 401


async def test_change_that_ends_after_close_leaves_no_socket(
    listeners: AdminListeners, tmp_path: Path, answers: threading.Event
) -> None:
    change = asyncio.create_task(listeners.change(settings(tmp_path / "admin.sock", "localhost:0")))
    await idle()
    await listeners.close()
    answers.set()
    with pytest.raises(OSError, match="the daemon is stopping"):
        await change
    assert not (tmp_path / "admin.sock").exists()


async def test_cancelled_change_leaves_no_socket(
    listeners: AdminListeners, tmp_path: Path, answers: threading.Event
) -> None:
    change = asyncio.create_task(listeners.change(settings(tmp_path / "admin.sock", "localhost:0")))
    await idle()
    assert (tmp_path / "admin.sock").exists()
    change.cancel()
    with pytest.raises(asyncio.CancelledError):
        await change
    assert not (tmp_path / "admin.sock").exists()
    answers.set()
