"""``mtastsctl top`` on a terminal."""

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

from mtasts_daemon.cli.top import truncate
from tests.cli.conftest import Ctl
from tests.fakes.process import Internet, Process


def test_top_needs_a_terminal(ctl: Ctl) -> None:
    assert ctl("top").code == os.EX_USAGE


def test_top_draws_until_q_and_restores_the_terminal(daemon: Process) -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "tests.fakes.ctl", "top", "-c", str(daemon.config), "--interval", "0.2"]
    with subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower) as process:
        os.close(follower)
        seen = until(leader, b"lookups", b"secure", b"policies", b"refresher")
        os.write(leader, b"q")
        seen += until(leader, b"\x1b[?1049l")
        assert process.wait(120) == 0
    os.close(leader)
    assert seen.index(b"\x1b[?1049h") < seen.index(b"mtasts-daemon") < seen.index(b"\x1b[?1049l")


def test_top_survives_a_restart_of_the_daemon(internet: Internet, tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    with Process(tmp_path / "daemon", internet, {"admin": {"socket": str(tmp_path / "admin.sock")}}) as daemon:
        daemon.logged("admin-listening")
        command = [sys.executable, "-m", "tests.fakes.ctl", "top", "-c", str(daemon.config), "--interval", "0.2"]
        with subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower) as process:
            os.close(follower)
            until(leader, b"lookups")
            daemon.kill()
            until(leader, b"DOES NOT ANSWER")
            daemon.start()
            until(leader, b"lookups")
            os.write(leader, b"q")
            until(leader, b"\x1b[?1049l")
            assert process.wait(120) == 0
    os.close(leader)


def test_long_line_is_cut_with_an_ellipsis() -> None:
    assert [truncate("total 12,345", columns) for columns in (12, 11, 1)] == ["total 12,345", "total 12,3…", "…"]


def until(fd: int, *wanted: bytes) -> bytes:
    seen = b""
    while not all(text in seen for text in wanted):
        ready, _, _ = select.select([fd], [], [], 30)
        assert ready, seen
        seen += os.read(fd, 65536)
    return seen
