"""The receiving process: started when it is needed, restarted when it fails, ended with the daemon."""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mtasts_daemon.config import Config
from mtasts_daemon.daemon import receiving_process
from mtasts_daemon.daemon.receiving_process import ReceivingProcess
from mtasts_daemon.daemon.systemd import Activation
from tests.fakes.admin import Admin
from tests.fakes.process import Internet, Process

pytestmark = pytest.mark.process


def published(*domains: str) -> dict[str, Any]:
    return {"domains": {domain: {"mode": "testing", "mx": ["mx.own.example"]} for domain in domains}}


PUBLISHED = published("own.example")


@pytest.fixture(scope="module")
def internet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Internet]:
    with Internet(tmp_path_factory.mktemp("internet")) as running:
        yield running


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    return {"admin": {"socket": f"{folder}/admin.sock"}, **more}


def pid_of(line: str) -> int:
    return int(line.rpartition("pid=")[2])


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def events(admin: Admin) -> list[str]:
    """Return the last events that both processes logged."""
    return [line["event"] for line in admin.get("/api/v1/log").json["lines"]]


def await_end(pid: int) -> None:
    while is_running(pid):
        time.sleep(0.01)


def test_killed_process_is_restarted_while_lookups_are_answered(tmp_path: Path, internet: Internet) -> None:
    internet.publish("served.example")
    with Process(tmp_path, internet, settings(tmp_path, publish=PUBLISHED)) as daemon:
        admin = Admin(tmp_path / "admin.sock")
        assert admin.get("/api/v1/publish").json["domains"] == 1
        first = pid_of(daemon.logged("receiving-process-started")[0])
        os.kill(first, signal.SIGKILL)
        (failed,) = daemon.logged("receiving-process-failed")
        assert "ended by SIGKILL" in failed
        assert daemon.lookup("served.example").startswith("OK secure ")
        assert pid_of(daemon.logged("receiving-process-started", 2)[1]) != first
        assert admin.get("/api/v1/publish").json["domains"] == 1
        assert admin.get("/readyz").json["ok"] is not None


def test_process_ends_with_a_killed_daemon(tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    environ = {"TMPDIR": str(folder)}
    with Process(tmp_path, settings=settings(tmp_path, publish=PUBLISHED), environ=environ) as daemon:
        pid = pid_of(daemon.logged("receiving-process-started")[0])
        assert list(folder.iterdir())
        daemon.kill()
        await_end(pid)
        assert not list(folder.iterdir())


def test_sigterm_to_both_processes_is_no_failure(tmp_path: Path, internet: Internet) -> None:
    with Process(tmp_path, internet, settings(tmp_path, publish=PUBLISHED)) as daemon:
        pid = pid_of(daemon.logged("receiving-process-started")[0])
        os.kill(pid, signal.SIGTERM)
        assert Admin(tmp_path / "admin.sock").get("/api/v1/publish").json["domains"] == 1
        daemon.signal(signal.SIGTERM)
        assert daemon.ended() == os.EX_OK
        assert not is_running(pid)
        assert not daemon.lines("receiving-process-failed")


def test_domain_in_a_path_is_passed_on_as_it_was_sent(tmp_path: Path, internet: Internet) -> None:
    with Process(tmp_path, internet, settings(tmp_path)):
        admin = Admin(tmp_path / "admin.sock")
        for quoted in ("%2e%2e", "..%2F..%2Freceiving%2Fstate", "a%0d%0ab", "%27%22%3Cx"):
            answer = admin.get(f"/api/v1/check/{quoted}")
            assert (answer.status, answer.json["title"]) == (400, "domain-invalid")


def test_process_starts_with_the_first_request_to_it(tmp_path: Path, internet: Internet) -> None:
    with Process(tmp_path, internet, settings(tmp_path)) as daemon:
        admin = Admin(tmp_path / "admin.sock")
        assert admin.get("/readyz").json["checks"]
        assert not daemon.lines("receiving-process-started")
        assert admin.get("/api/v1/watched").json == {"domains": []}
        pid = pid_of(daemon.logged("receiving-process-started")[0])
        assert Path(f"/proc/{pid}/comm").read_text() == "mtasts-receive\n"
        assert os.getpriority(os.PRIO_PROCESS, pid) >= 10
        daemon.signal(signal.SIGTERM)
        assert daemon.ended(within=20) == os.EX_OK
        assert not is_running(pid)


def test_reload_and_log_level_reach_the_process(tmp_path: Path, internet: Internet) -> None:
    with Process(tmp_path, internet, settings(tmp_path, publish=PUBLISHED)) as daemon:
        admin = Admin(tmp_path / "admin.sock")
        assert "in force" not in daemon.reload(publish=published("own.example", "second.example"))
        assert len(admin.get("/api/v1/publish/domains").json["domains"]) == 2
        assert admin.ask("POST", "/api/v1/log-level", {"level": "error"}, X_MTASTS_Request="1").status == 200
        assert "publish-policies-published" in events(admin)  # logged by the process
        assert "log-level-changed" in events(admin)  # logged by the daemon


def test_restarted_process_keeps_the_log_level_that_was_set(tmp_path: Path, internet: Internet) -> None:
    receive = {"own_domains": ["own.example"], "lmtp_socket": f"{tmp_path}/lmtp.sock"}
    with Process(tmp_path, internet, settings(tmp_path, receive=receive)) as daemon:
        admin = Admin(tmp_path / "admin.sock")
        pid = pid_of(daemon.logged("receiving-process-started")[0])
        daemon.logged("tlsrpt-receiver-listening")
        assert admin.ask("POST", "/api/v1/log-level", {"level": "error"}, X_MTASTS_Request="1").status == 200
        os.kill(pid, signal.SIGKILL)
        daemon.logged("receiving-process-failed")
        while admin.get("/api/v1/watched").status != 200:
            time.sleep(0.01)
        daemon.signal(signal.SIGTERM)
        assert daemon.ended(within=20) == os.EX_OK
        assert len(daemon.lines("tlsrpt-receiver-listening")) == 1


def test_folder_of_the_admin_socket_is_used_without_a_temporary_one(tmp_path: Path, internet: Internet) -> None:
    environ = {"TMPDIR": str(tmp_path / "missing")}
    with Process(tmp_path, internet, settings(tmp_path), environ=environ) as daemon:
        admin = Admin(tmp_path / "admin.sock")
        assert admin.get("/api/v1/watched").status == 200
        assert daemon.logged("receiving-process-started")


def many_domains() -> Config:
    """Return a configuration that does not fit into a pipe."""
    return Config.model_validate({"publish": published(*(f"own{number}.example" for number in range(3000)))})


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while True:
        if await condition():
            return
        await asyncio.sleep(0.01)


@pytest.fixture
async def process() -> AsyncIterator[ReceivingProcess]:
    made = ReceivingProcess(os.environ, Activation(), look_every=0.01, answer_within=0.2)
    yield made
    await made.stop()


async def test_program_that_ends_at_once_is_an_error(
    process: ReceivingProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving_process, "PROGRAM", "sys.exit(3)")
    for config in (Config.model_validate({"publish": PUBLISHED}), many_domains()):
        await process.configure(config)
        assert process.running is None
        assert "exit code 3" in (await process.state()).failures["receiving"]
        with pytest.raises(OSError, match="ended with exit code 3"):
            await process.client()


async def test_interpreter_that_cannot_be_started_is_an_error(
    process: ReceivingProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    await process.configure(Config.model_validate({"publish": PUBLISHED}))
    assert process.running is None
    assert "No such file or directory" in (await process.state()).failures["receiving"]


async def test_hung_process_is_noticed(process: ReceivingProcess) -> None:
    await process.configure(Config.model_validate({"publish": PUBLISHED}))
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    assert "has not answered" in await process.failed()
    state = await process.state()
    assert "does not answer" in state.failures["receiving"]
    assert state.log_counts  # as of its last answer


async def test_missing_thread_is_an_error(process: ReceivingProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", refuse)
        await process.configure(Config.model_validate({"publish": PUBLISHED}))
        assert "can't start new thread" in (await process.state()).failures["receiving"]
    await process.configure(Config.model_validate({"publish": PUBLISHED}))
    assert process.running is not None


async def test_ended_process_is_a_failure_at_once(process: ReceivingProcess) -> None:
    await process.configure(Config.model_validate({"publish": PUBLISHED}))
    assert not (await process.state()).failures
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert "ended by SIGKILL" in await process.failed()
    assert "ended by SIGKILL" in (await process.state()).failures["receiving"]
    with pytest.raises(OSError, match="ended by SIGKILL"):
        await process.client()
    await process.configure(Config.model_validate({"publish": PUBLISHED}))
    assert process.pid != pid
    assert not (await process.state()).failures


async def test_failed_restart_is_tried_again(process: ReceivingProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving_process, "_RESTART_FIRST", 0.01)
    await process.configure(Config.model_validate({"publish": PUBLISHED}))
    pid = process.pid
    assert pid is not None

    async def failed_again() -> bool:
        return "exit code 3" in (await process.state()).failures.get("receiving", "")

    async def runs() -> bool:
        return process.pid not in (None, pid)

    with monkeypatch.context() as broken:
        broken.setattr(receiving_process, "PROGRAM", "sys.exit(3)")
        running = asyncio.create_task(process.run())
        os.kill(pid, signal.SIGKILL)
        await until(failed_again)
        with pytest.raises(OSError, match="the receiving process"):
            await process.client()
    await until(runs)
    assert not (await process.state()).failures
    running.cancel()


async def test_failed_first_start_is_tried_again(process: ReceivingProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving_process, "_RESTART_FIRST", 0.01)

    async def runs() -> bool:
        return process.pid is not None

    with monkeypatch.context() as broken:
        broken.setattr(receiving_process, "PROGRAM", "import os; os.kill(os.getpid(), 9)")
        await process.configure(Config.model_validate({"publish": PUBLISHED}))
    assert "ended by SIGKILL" in (await process.state()).failures["receiving"]
    running = asyncio.create_task(process.run())
    await until(runs)
    assert not (await process.state()).failures
    running.cancel()


async def test_interrupted_start_is_tried_again(
    process: ReceivingProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving_process, "_RESTART_FIRST", 0.01)
    begun = tmp_path / "begun"
    with monkeypatch.context() as silent:
        silent.setattr(receiving_process, "PROGRAM", f"open({str(begun)!r}, 'w'); sys.stdin.read()")
        starting = asyncio.create_task(process.configure(Config.model_validate({"publish": PUBLISHED})))

        async def begins() -> bool:
            return begun.exists()

        await until(begins)
        starting.cancel()
        await asyncio.wait([starting])
    assert (await process.state()).failures["receiving"] == "its start was interrupted"
    running = asyncio.create_task(process.run())

    async def runs() -> bool:
        return process.pid is not None

    await until(runs)
    assert not (await process.state()).failures
    running.cancel()


async def test_failure_of_a_process_no_longer_needed_ends(process: ReceivingProcess) -> None:
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(receiving_process, "PROGRAM", "import os; os.kill(os.getpid(), 9)")
        await process.configure(Config.model_validate({"publish": PUBLISHED}))
    assert (await process.state()).failures
    await process.configure(Config())
    assert not (await process.state()).failures


async def test_hung_process_is_restarted_during_a_reload(process: ReceivingProcess) -> None:
    await process.configure(Config.model_validate({"publish": PUBLISHED}))
    pid = process.pid
    assert pid is not None
    running = asyncio.create_task(process.run())
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(OSError, match="ended by SIGKILL"):
        await process.configure(many_domains())

    async def runs() -> bool:
        return process.pid not in (None, pid)

    await until(runs)
    running.cancel()


async def test_stop_does_not_wait_for_a_start(
    process: ReceivingProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begun = tmp_path / "pid"
    program = f"import os, pathlib, time; pathlib.Path({str(begun)!r}).touch(); time.sleep(1000)"
    monkeypatch.setattr(receiving_process, "PROGRAM", program)
    starting = asyncio.create_task(process.configure(Config.model_validate({"publish": PUBLISHED})))

    async def started() -> bool:
        return begun.exists()

    await until(started)
    before = asyncio.get_running_loop().time()
    await process.stop()
    assert asyncio.get_running_loop().time() - before < 30
    await starting
    assert process.running is None
