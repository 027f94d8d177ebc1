"""The whole daemon as a process: start, reload, signals and log lines, on both event loops."""

import asyncio
import json
import os
import re
import select
import signal
import socket
import sqlite3
import threading
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mtasts_daemon.daemon.adapters import LazyFetcher
from mtasts_daemon.errors import ConfigError, HttpsUnavailable
from mtasts_daemon.ports import PolicyFetcher
from tests.fakes.fetcher import FakeFetcher
from tests.fakes.https import Behaviour, Manner
from tests.fakes.process import Client, Internet, Process

SECURE = "OK secure match=mail.example.com servername=hostname"


@pytest.fixture(scope="module")
def internet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Internet]:
    with Internet(tmp_path_factory.mktemp("internet")) as internet:
        yield internet


@pytest.fixture(params=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest) -> str:
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    return str(request.param)


# -- a life ------------------------------------------------------------------------------------------------


def test_sigterm_answers_pending_lookups_before_exit(tmp_path: Path, internet: Internet, loop: str) -> None:
    internet.publish("life.example")
    internet.publish("slow.life.example", behaviour=Behaviour(delay=0.3))
    listen = [f"socketmap:unix:{tmp_path}/lookup.sock", "socketmap:inet:127.0.0.1:0", "tcp_table:127.0.0.1:0"]
    with (
        Process(tmp_path, internet, {"listen": listen}, loop=loop, environ={"WATCHDOG_USEC": "1000000"}) as daemon,
        ExitStack() as clients,
    ):
        (status,) = (line for line in daemon.notified[-1] if line.startswith("STATUS="))
        assert all(address in status for address in listen)
        assert daemon.hear("WATCHDOG=1") == ["WATCHDOG=1"]

        for address in listen[1:]:
            port = int(daemon.logged(re.escape(address))[0].rpartition("port=")[2])
            client = clients.enter_context(Client(("127.0.0.1", port)))
            if address.startswith("tcp_table"):
                client.send(b"get life.example\nget .example\n")
                assert client.line() == "200 secure match=mail.example.com servername=hostname\n"
                assert client.line().startswith("500 ")
            else:
                client.ask("life.example", "QUERYwithTLSRPT")
                assert client.reply().startswith(f"{SECURE} policy_type=sts policy_domain=life.example ")
                client.ask(".example")
                assert client.reply() == "NOTFOUND "

        idle = [clients.enter_context(daemon.client()) for _ in range(50)]
        before = len(internet.host.requests)
        idle[0].ask("slow.life.example")
        internet.requested(before + 1)
        daemon.signal(signal.SIGTERM)
        assert idle[0].reply() == SECURE
        assert daemon.ended(within=5) == os.EX_OK
        assert all(client.ended() for client in idle)
        daemon.hear("STOPPING=1")
        assert daemon.log[-1] == "info: stopped"
        assert not daemon.lines("^(warning: (?!dnssec)|error)")


def test_pending_lookup_at_shutdown_is_answered_from_cache(tmp_path: Path, internet: Internet) -> None:
    internet.publish("hung.stop.example", behaviour=Behaviour(manner=Manner.HANG))
    with Process(tmp_path, internet, {"lookup": {"deadline": "20s"}}) as daemon, daemon.client() as client:
        before = len(internet.host.requests)
        client.ask("hung.stop.example")
        internet.requested(before + 1)
        daemon.signal(signal.SIGTERM)
        assert client.reply() == "NOTFOUND "
        assert client.ended()
        assert daemon.ended(within=5) == os.EX_OK


def test_hanging_policy_host_delays_its_own_lookup_only(tmp_path: Path, internet: Internet) -> None:
    internet.publish("late.example", behaviour=Behaviour(delay=2.5))
    internet.publish("hung.example", behaviour=Behaviour(manner=Manner.HANG))
    with (
        Process(tmp_path, internet, {"lookup": {"deadline": "1s"}}) as daemon,
        daemon.client() as first,
        daemon.client() as second,
    ):
        assert daemon.lookup("late.example") == "NOTFOUND "
        # One has its whole deadline before it, the other none of it.
        first.ask("hung.example")
        second.ask("late.example")
        assert select.select([first, second], [], []) == ([second], [], [])
        assert second.reply() == "NOTFOUND "
        assert first.reply() == "NOTFOUND "
        # The flight continued, and its result is used.
        daemon.logged("policy-learned domain=late.example")
        assert daemon.lookup("late.example") == SECURE


# -- what cannot be started --------------------------------------------------------------------------------


def test_busy_lookup_port_ends_the_start_with_a_message(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"socketmap:inet:127.0.0.1:{taken.getsockname()[1]}"
        daemon = Process(tmp_path, settings={"listen": [address]})
        daemon.launch()
        assert daemon.ended() == os.EX_UNAVAILABLE
    assert daemon.log[-1].startswith("error: start-failed ")
    assert f"cannot listen on {address}: Address already in use" in daemon.log[-1]
    daemon.close()


def test_busy_admin_port_is_logged_and_retried_while_lookups_are_served(tmp_path: Path, internet: Internet) -> None:
    internet.publish("served.example")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with Process(tmp_path, internet, {"admin": {"listen": address, "socket": f"{tmp_path}/admin.sock"}}) as daemon:
            assert daemon.lookup("served.example") == SECURE
            (line,) = daemon.logged("part-failed part=admin")
            assert f"cannot listen on {address}: Address already in use" in line


def test_missing_folder_of_the_admin_socket_does_not_stop_lookups(tmp_path: Path, internet: Internet) -> None:
    internet.publish("served.example")
    with Process(tmp_path, internet, {"admin": {"socket": "/nonexistent/admin.sock"}}) as daemon:
        assert daemon.lookup("served.example") == SECURE
        assert "/nonexistent/admin.sock" in daemon.logged("part-failed part=admin")[0]


def test_lookup_listeners_that_open_serve_next_to_one_that_cannot(tmp_path: Path, internet: Internet) -> None:
    internet.publish("served.example")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = f"socketmap:inet:127.0.0.1:{taken.getsockname()[1]}"
        with Process(tmp_path, internet, {"listen": [busy, f"socketmap:unix:{tmp_path}/lookup.sock"]}) as daemon:
            assert daemon.lookup("served.example") == SECURE
            assert f"cannot listen on {busy}: Address already in use" in daemon.logged("listen-failed")[0]


def test_bad_configuration_ends_the_start_with_its_position(tmp_path: Path) -> None:
    daemon = Process(tmp_path, settings={"lookup": {"deadline": 5}})
    daemon.launch()
    assert daemon.ended() == os.EX_CONFIG
    expected = r"config.yml:\d+:\d+: lookup.deadline: 5 has no unit"
    assert [line for line in daemon.log if re.search(expected, line)] == daemon.log
    daemon.close()


# -- reloading ---------------------------------------------------------------------------------------------


def test_reload_takes_over_everything_or_nothing(tmp_path: Path, internet: Internet, loop: str) -> None:
    internet.publish("reload.example")
    first, second = (f"socketmap:unix:{tmp_path}/{name}.sock" for name in ("lookup", "second"))
    with Process(tmp_path, internet, loop=loop) as daemon, daemon.client() as client, ExitStack() as stack:

        def answer() -> str:
            client.ask("reload.example")
            return client.reply()

        assert answer() == SECURE
        skip = {"reload.example": {"skip": True, "reason": "a test"}}
        status = daemon.reload(overrides=skip, listen=[first, second], log={"level": "debug", "format": "json"})
        assert answer() == "NOTFOUND "
        assert first in status and second in status
        stack.enter_context(Client(f"{tmp_path}/second.sock"))
        assert json.loads(*daemon.logged("reloaded"))["level"] == "info"

        status = daemon.reload(overrides={}, listen=[first], log={"level": "info"})
        assert answer() == SECURE
        assert not (tmp_path / "second.sock").exists()

        # An invalid file: each problem is reported, and the old configuration stays in force.
        status = daemon.reload(overrides=skip, listen=[second], cache={"retry_min": "1s", "retry_max": 7})
        assert "2 problems" in status and "old" in status
        assert len(daemon.logged(r"^error: reload-refused .*config.yml:\d+:\d+: cache.retry_m", 2)) == 2
        assert answer() == SECURE

        # A port in use: the same.
        taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        address = f"socketmap:inet:127.0.0.1:{taken.getsockname()[1]}"
        status = daemon.reload(listen=[first, second, address], cache={})
        assert f"cannot listen on {address}: Address already in use" in status
        daemon.logged(f"^error: reload-refused .*{address}")
        assert answer() == SECURE
        assert not (tmp_path / "second.sock").exists()

        # An unreadable CA file: the same.
        status = daemon.reload(listen=[first], https={"ca_file": str(daemon.config)})
        daemon.logged("^error: reload-refused .*https.ca_file: .*certificate")
        assert "old configuration is in force" in status
        assert answer() == SECURE

        daemon.reload(overrides=skip, https=internet.settings["https"])
        assert answer() == "NOTFOUND "


def test_reload_replaces_resolvers_and_limits(tmp_path: Path, internet: Internet) -> None:
    internet.publish("found.example")
    internet.publish("hung.found.example", behaviour=Behaviour(manner=Manner.HANG))
    with Process(tmp_path, settings={"lookup": {"deadline": "20s"}}) as daemon:
        daemon.config.chmod(0o600)
        assert daemon.lookup("found.example") == "NOTFOUND "
        daemon.reload(**internet.settings, lookup={"deadline": "0.1s"})
        assert daemon.lookup("hung.found.example") == "NOTFOUND "


def test_shutdown_after_a_reload_leaves_nothing_open(tmp_path: Path, internet: Internet, loop: str) -> None:
    internet.publish("open.example")
    with Process(tmp_path, internet, loop=loop) as daemon:
        assert daemon.lookup("open.example") == SECURE
        daemon.reload(https={**internet.settings["https"], "max_fetches": 50})
        daemon.signal(signal.SIGTERM)
        assert daemon.ended() == 0
        assert not daemon.lines("Unclosed|client_session")


# -- the store ---------------------------------------------------------------------------------------------


def test_answered_policy_survives_kill_9_and_loss_of_network(tmp_path: Path) -> None:
    with Internet(tmp_path / "internet") as internet:
        internet.publish("kept.example")
        with Process(tmp_path / "daemon", internet) as daemon:
            assert daemon.lookup("kept.example") == SECURE
            daemon.kill()
            internet.cut_off()
            daemon.start()
            assert daemon.lookup("kept.example") == SECURE


def test_successor_takes_over_the_store(tmp_path: Path, internet: Internet) -> None:
    internet.publish("handed.example")
    with Process(tmp_path, internet) as old:
        assert old.lookup("handed.example") == SECURE
        new = Process(tmp_path / "new", internet, {"store": {"path": str(old.store)}})
        try:
            new.launch()
            old.signal(signal.SIGTERM)
            assert old.ended(within=5) == os.EX_OK
            new.hear("READY=1")
            assert new.lookup("handed.example") == SECURE
            new.signal(signal.SIGTERM)
            assert new.ended() == os.EX_OK
            assert not new.lines("store-|policy-learned")
        finally:
            new.close()


def test_unusable_store_path_runs_in_memory_with_one_warning(tmp_path: Path, internet: Internet) -> None:
    internet.publish("memory.example")
    (tmp_path / "file").touch()
    with Process(tmp_path, internet, {"store": {"path": f"{tmp_path}/file/policies.sqlite"}}) as daemon:
        assert daemon.lookup("memory.example") == SECURE
        daemon.signal(signal.SIGTERM)
        assert daemon.ended() == 0
        assert daemon.lines("store-") == daemon.lines(f"^warning: store-in-memory .*{tmp_path}/file/policies.sqlite")
        assert len(daemon.lines("store-")) == 1


def test_damaged_store_is_set_aside_and_newer_one_is_left(tmp_path: Path, internet: Internet) -> None:
    internet.publish("damaged.example")
    rubbish = b"not a database " * 1000
    (tmp_path / "policies.sqlite").write_bytes(rubbish)
    with Process(tmp_path, internet) as daemon:
        assert daemon.lookup("damaged.example") == SECURE
        aside = [file for file in tmp_path.iterdir() if ".damaged-" in file.name]
        assert [file.read_bytes() for file in aside] == [rubbish]
        assert aside[0].name in daemon.logged("^warning: store-problem ")[0]

        daemon.signal(signal.SIGTERM)
        assert daemon.ended() == 0
        with sqlite3.connect(daemon.store) as database:
            database.execute("PRAGMA user_version = 99")
        database.close()
        newer = daemon.store.read_bytes()
        daemon.start()
        assert daemon.lookup("damaged.example") == SECURE
        assert "newer version" in daemon.logged("^warning: store-in-memory ")[0]
        daemon.signal(signal.SIGTERM)
        assert daemon.ended() == 0
        assert daemon.store.read_bytes() == newer


# -- what is logged ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["plain", "journald", "json"])
def test_remote_text_cannot_forge_a_log_line(tmp_path: Path, internet: Internet, form: str) -> None:
    forged = "\r\nerror: forged\n<0>forged\n\x1b[2J\u2028forged"
    body = f"version: STSv1\nmode: {forged}\n".encode()
    internet.publish("forged.example", behaviour=Behaviour(body=body))
    internet.publish("moved.example", behaviour=Behaviour(status=302, headers=(("Location", "\x1b[31mforged"),)))
    environ = {"JOURNAL_STREAM": "8:1"} if form == "journald" else {}
    settings = {"log": {"level": "debug", "format": "auto" if form == "journald" else form}}
    with Process(tmp_path, internet, settings, environ=environ) as daemon:
        assert daemon.lookup("forged.example") == "NOTFOUND "
        assert daemon.lookup("moved.example") == "NOTFOUND "
        with daemon.client() as client, daemon.client() as other:
            client.ask("example", "no\x1b[2Jsuch\nmap\r\nerror:")
            assert client.reply() == "NOTFOUND "
            client.send(b"\x1b[2J\nerror: forged\n")
            assert client.ended()
            other.ask("com")
            assert other.reply() == "NOTFOUND "
        daemon.signal(signal.SIGTERM)
        assert daemon.ended() == 0
    events = (
        r"listening|dane|dnssec-[a-z-]+|ready|policy-fetch-failed|unknown-map-name|malformed-request|stopping|stopped"
    )
    for line in daemon.log:
        assert line.isprintable()
        if form == "json":
            assert re.fullmatch(events, json.loads(line)["event"])
        else:
            begin = "<[3-7]>" if form == "journald" else "(debug|info|warning|error): "
            assert re.match(f"{begin}({events})( |$)", line), line
    failures = daemon.lines("policy-fetch-failed")
    assert len(failures) == 2
    assert "policy-mode" in failures[0] or "policy-line-syntax" in failures[0]
    assert "policy-http-redirect" in failures[1]
    assert len(daemon.lines("malformed-request")) == 1


# -- what goes wrong inside --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "raised"),
    [(ConfigError("no CA file"), None), (ImportError("no aiohttp"), None), (RuntimeError("a bug"), RuntimeError)],
    ids=["configuration", "import", "bug"],
)
async def test_without_https_every_fetch_fails_at_once(error: Exception, raised: type[Exception] | None) -> None:
    class Spawned:
        def __init__(self) -> None:
            self.tasks: list[asyncio.Task[object]] = []

        def spawn(self, coroutine: Coroutine[Any, Any, object], name: str) -> None:
            self.tasks.append(asyncio.get_running_loop().create_task(coroutine, name=name))

    def make() -> PolicyFetcher:
        raise error

    spawned = Spawned()
    late = LazyFetcher(make, spawned.spawn)
    for _ in range(2):
        with pytest.raises(HttpsUnavailable):
            await late.fetch("example.com", live=False)
    (ended,) = await asyncio.gather(*spawned.tasks, return_exceptions=True)
    assert type(ended) is (raised or type(None))
    await late.close()


async def test_fetcher_is_made_on_another_thread_than_lookups() -> None:
    made_by: list[threading.Thread] = []
    fetcher = FakeFetcher()

    def make() -> PolicyFetcher:
        made_by.append(threading.current_thread())
        return fetcher

    tasks: list[asyncio.Task[object]] = []
    late = LazyFetcher(make, lambda coroutine, name: tasks.append(asyncio.create_task(coroutine, name=name)))
    await asyncio.gather(*tasks)
    assert made_by != [threading.main_thread()]
    assert len(made_by) == 1
    await late.close()
