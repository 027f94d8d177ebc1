"""The admin listeners over the life of a daemon: tokens, reloads, and failed checks."""

import re
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtasts_daemon.admin.checks import Check, StoreCheck
from mtasts_daemon.store.policy_store import open_store
from tests.fakes.admin import Admin
from tests.fakes.clock import FakeClock
from tests.fakes.process import Internet, Process


@pytest.fixture(scope="module")
def internet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Internet]:
    with Internet(tmp_path_factory.mktemp("internet")) as internet:
        yield internet


def test_request_without_the_token_is_rejected(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    token.chmod(0o640)
    admin = {"listen": "127.0.0.1:0", "token_file": str(token)}
    with Process(tmp_path / "daemon", None, {"admin": admin}) as daemon:
        reader = Admin.on(daemon.logged("admin-listening")[0])
        assert reader.get("/healthz").status == 200
        for path in ("/", "/readyz", "/metrics", "/api/v1/status"):
            answer = reader.get(path)
            assert (answer.status, answer.json["title"]) == (401, "token-needed")
            assert answer.headers["WWW-Authenticate"].startswith("Basic ")
        for wrong in (
            "Bearer 0123456789abcdeX",
            "Basic !",
            "Basic eDp5",
            "Digest 0123456789abcdef",
            "0123456789abcdef",
        ):
            assert reader.get("/api/v1/status", Authorization=wrong).status == 401
        # x:0123456789abcdef
        for right in ("Bearer 0123456789abcdef", "bearer 0123456789abcdef", "Basic eDowMTIzNDU2Nzg5YWJjZGVm"):
            assert reader.get("/api/v1/status", Authorization=right).status == 200


def test_reload_moves_listeners_and_rejects_a_bad_token_file(tmp_path: Path) -> None:
    settings = {"admin": {"socket": str(tmp_path / "first.sock")}}
    with Process(tmp_path / "daemon", None, settings) as daemon:
        daemon.logged("admin-listening.*first")
        daemon.reload(admin={"socket": str(tmp_path / "second.sock"), "socket_mode": "0600"})
        daemon.logged("admin-listening.*second")
        assert not (tmp_path / "first.sock").exists()
        second = Admin(tmp_path / "second.sock")
        assert (tmp_path / "second.sock").stat().st_mode & 0o777 == 0o600
        assert second.get("/healthz").status == 200
        (tmp_path / "token").write_text("short")
        bad = {"socket": str(tmp_path / "third.sock"), "listen": "127.0.0.1:0", "token_file": str(tmp_path / "token")}
        assert "old configuration" in daemon.reload(admin=bad)
        assert second.get("/healthz").status == 200
        assert not (tmp_path / "third.sock").exists()
        daemon.signal(signal.SIGTERM)
        assert daemon.ended() == 0
        assert not (tmp_path / "second.sock").exists()


def test_port_of_each_listener_is_logged(tmp_path: Path) -> None:
    unix, listen = tmp_path / "admin.sock", f"socketmap:unix:{tmp_path / 'lookup.sock'}"
    settings = {"admin": {"socket": str(unix), "listen": "127.0.0.1:0"}, "listen": [listen, "tcp_table:127.0.0.1:0"]}
    with Process(tmp_path / "daemon", None, settings) as daemon:
        assert set(daemon.logged("listening.*sock", 2)) == {
            f"info: listening address={listen}",
            f"info: admin-listening address={unix}",
        }
        for line in daemon.logged("listening.*127", 2):
            assert re.search(r" port=[1-9]\d*$", line)


def test_daemon_without_a_resolver_is_not_ready(tmp_path: Path) -> None:
    with Process(tmp_path / "daemon", None, {"admin": {"socket": str(tmp_path / "admin.sock")}}) as daemon:
        daemon.logged("admin-listening")
        answer = Admin(tmp_path / "admin.sock").get("/readyz")
        failing = [check["name"] for check in answer.json["checks"] if not check["ok"]]
        assert (answer.status, failing) == (503, ["resolver"])


def test_daemon_without_its_store_is_not_ready(tmp_path: Path, internet: Internet) -> None:
    (tmp_path / "file").write_text("not a database, but something else's")
    settings = {"admin": {"socket": str(tmp_path / "admin.sock")}, "store": {"path": str(tmp_path / "file" / "x")}}
    with Process(tmp_path / "daemon", internet, settings) as daemon:
        daemon.logged("admin-listening")
        answer = Admin(tmp_path / "admin.sock").get("/readyz")
        failing = [check["name"] for check in answer.json["checks"] if not check["ok"]]
        assert (answer.status, failing) == (503, ["store"])
        assert Admin(tmp_path / "admin.sock").get("/api/v1/entries").json["entries"] == []


def store_check(admin: Admin) -> tuple[bool, str]:
    (check,) = [check for check in admin.get("/readyz").json["checks"] if check["name"] == "store"]
    return check["ok"], check["detail"]


async def test_store_is_checked_again_after_a_success(tmp_path: Path) -> None:
    clock, path = FakeClock(), tmp_path / "policies.sqlite"
    store = await open_store(path, now=clock.wall())
    try:
        check = StoreCheck(store, clock)
        assert await check.result() == Check("store", True, str(path))
        path.rename(tmp_path / "away")
        clock.advance(1.0)
        assert (await check.result()).ok  # read a second ago
        clock.advance(0.1)
        deleted = Check("store", False, "The store failed: its file was deleted or replaced")
        assert await check.result() == deleted
        assert await check.result() == deleted
        await store.recover(clock.wall())
        assert await check.result() == Check("store", True, str(path))
    finally:
        await store.close()


def test_daemon_with_a_full_disk_is_not_ready_until_it_can_write(tmp_path: Path, internet: Internet) -> None:
    for name in ("first", "refused", "last"):
        internet.publish(f"{name}.disk.example")
    with Process(tmp_path / "daemon", internet, {"admin": {"socket": str(tmp_path / "admin.sock")}}) as daemon:
        daemon.logged("admin-listening")
        admin = Admin(tmp_path / "admin.sock")
        assert daemon.process is not None
        pid = daemon.process.pid

        daemon.lookup("first.disk.example")
        assert store_check(admin)[0]
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
        assert "secure" in daemon.lookup("refused.disk.example")
        ok, detail = store_check(admin)
        assert not ok
        assert "cannot be written" in detail
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        daemon.lookup("last.disk.example")
        assert store_check(admin)[0]
