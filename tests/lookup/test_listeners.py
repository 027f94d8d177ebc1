"""The sockets for lookups."""

import asyncio
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from mtasts_daemon.config.values import Listen
from mtasts_daemon.lookup.listeners import Listeners
from mtasts_daemon.lookup.server import LookupServer
from tests.event_loop import idle
from tests.fakes.daemon import World

MODE = 0o660


@pytest.fixture
async def listeners() -> AsyncIterator[Listeners]:
    world = World()
    listeners = Listeners(LookupServer(world.service, world.counters, max_connections=10, max_replies=100))
    yield listeners
    listeners.close()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "lookup.sock")


@pytest.fixture
def taken() -> Iterator[Listen]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Listen("socketmap", "127.0.0.1", server.getsockname()[1])


def mode(path: str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


def is_socket(path: str) -> bool:
    return Path(path).is_socket()


def unix(path: str) -> Listen:
    return Listen("socketmap", path=path)


async def answers(path: str) -> bool:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"11:postfix com,")
    reply = await reader.readexactly(12)
    writer.close()
    await writer.wait_closed()
    return reply == b"9:NOTFOUND ,"


async def test_a_unix_socket_has_its_mode_and_goes_with_its_listener(listeners: Listeners, path: str) -> None:
    await listeners.change([unix(path)], 0o600)
    assert mode(path) == 0o600
    assert await answers(path)
    # A reload may change it.
    await listeners.change([unix(path)], 0o666)
    assert mode(path) == 0o666
    await listeners.change([], 0o600)
    assert not is_socket(path)
    assert listeners.addresses == ()

    before = os.umask(0o022)
    assert os.umask(before) == 0o022


async def test_the_socket_of_a_killed_daemon_is_replaced(listeners: Listeners, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(path)

    await listeners.change([unix(path)], MODE)
    assert await answers(path)


async def test_the_socket_of_a_living_process_is_left_to_it(listeners: Listeners, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(path)
        living.listen()
        with pytest.raises(OSError, match=f"cannot listen on socketmap:unix:{path}: another process listens"):
            await listeners.change([unix(path)], MODE)
        assert Path(path).is_socket()


async def test_a_file_in_the_way_is_not_removed(listeners: Listeners, path: str) -> None:
    Path(path).write_text("precious")

    with pytest.raises(OSError, match=f"cannot listen on socketmap:unix:{path}: .*not a socket"):
        await listeners.change([unix(path)], MODE)
    assert Path(path).read_text() == "precious"


async def test_missing_folder_is_reported_with_the_address(listeners: Listeners, path: str) -> None:
    with pytest.raises(OSError, match=f"cannot listen on socketmap:unix:{path}/none: "):
        await listeners.change([unix(f"{path}/none")], MODE)


async def test_a_change_that_fails_changes_nothing(
    listeners: Listeners, tmp_path: Path, path: str, taken: Listen
) -> None:
    await listeners.change([unix(path)], MODE)
    added = tmp_path / "added.sock"
    with pytest.raises(OSError, match=f"cannot listen on {taken}: Address already in use"):
        await listeners.change([unix(str(added)), taken], MODE)
    assert listeners.addresses == (f"socketmap:unix:{path}",)
    assert not is_socket(str(added))
    assert await answers(path)


async def test_inherited_socket_is_always_served_and_its_path_kept(listeners: Listeners, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as inherited:
        inherited.bind(path)
        inherited.listen()
        await listeners.inherit("socketmap", f"socketmap:unix:{path}", inherited)
        for wanted in ([unix(path)], []):
            await listeners.change(wanted, 0o600)
            assert await answers(path)
        listeners.close()
        assert is_socket(path)


async def test_each_family_is_listened_on_as_it_is_written(listeners: Listeners) -> None:
    wanted = [Listen("socketmap", "127.0.0.1", 0), Listen("tcp_table", "127.0.0.1", 0)]
    if socket.has_ipv6:
        wanted.append(Listen("tcp_table", "::1", 0))
    await listeners.change(wanted, MODE)
    assert listeners.addresses == tuple(map(str, wanted))


async def test_resolver_that_hangs_delays_only_its_listener_and_times_out(
    listeners: Listeners, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    answers = threading.Event()
    asked = socket.getaddrinfo

    def hang(host: str, port: int, **how: Any) -> Any:
        if not how["flags"] & socket.AI_NUMERICHOST:
            assert answers.wait(120)
        return asked(host, port, **how)

    monkeypatch.setattr(socket, "getaddrinfo", hang)

    change = asyncio.create_task(listeners.change([Listen("socketmap", "localhost", 0)], MODE))
    await idle()
    await listeners.change([unix(path)], MODE)  # meanwhile the loop goes on
    assert not change.done()
    answers.set()
    await change
    assert listeners.addresses == ("socketmap:inet:localhost:0",)
    answers.clear()
    monkeypatch.setattr("mtasts_daemon.lookup.listeners._FOUND_WITHIN", 0.01)
    try:
        with pytest.raises(OSError, match=r"cannot listen on tcp_table:localhost:0: .*localhost in time"):
            await listeners.change([Listen("tcp_table", "localhost", 0)], MODE)
    finally:
        answers.set()
    assert listeners.addresses == ("socketmap:inet:localhost:0",)


async def test_host_that_is_not_found_is_reported_with_the_address(listeners: Listeners) -> None:
    with pytest.raises(OSError, match="cannot listen on socketmap:inet:no such host:0: "):
        await listeners.change([Listen("socketmap", "no such host", 0)], MODE)
