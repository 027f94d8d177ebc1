"""The daemon under a service manager that holds its sockets, as systemd does: this test is that manager."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# sd_listen_fds(3) requires the sockets from 3 on and the daemon's LISTEN_PID, which is known only here.
BECOME_THE_DAEMON = """
import fcntl, os, sys
fds, command = sys.argv[1].split(","), sys.argv[2:]
given = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in fds]
for position, fd in enumerate(given, start=3):
    os.dup2(fd, position, inheritable=True)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(command[0], command)
"""


class Manager:
    """Holds one Unix and one TCP socket over all runs of the daemon, and receives the notifications of each run."""

    def __init__(self, folder: Path, unix: socket.socket, tcp: socket.socket, notifications: socket.socket) -> None:
        self.unix = unix
        self.tcp = tcp
        self.config = folder / "config.yml"
        self.config.write_text(f"store: {{path: {folder}/policies.sqlite}}\n")
        self._notifications = notifications

    @contextmanager
    def daemon(self) -> Iterator["subprocess.Popen[bytes]"]:
        """One run of the daemon, from READY on; killed if the test does not stop it."""
        fds = [self.unix.fileno(), self.tcp.fileno()]
        command = [sys.executable, "-m", "mtasts_daemon", "serve", "-c", str(self.config)]
        with subprocess.Popen(
            [sys.executable, "-c", BECOME_THE_DAEMON, ",".join(map(str, fds)), *command],
            pass_fds=fds,
            env=os.environ
            | {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "socketmap-postfix:tcp_table"}
            | {"NOTIFY_SOCKET": self._notifications.getsockname()},
            cwd=Path(__file__).parents[2],
        ) as process:
            try:
                self.hear("READY=1")
                yield process
            finally:
                process.kill()

    def hear(self, line: str) -> list[str]:
        """Return the next message with this line."""
        while line not in (lines := self._notifications.recv(65536).decode().split("\n")):
            pass
        return lines


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with (
        socket.socket(socket.AF_UNIX) as unix,
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications,
    ):
        unix.bind(os.fspath(tmp_path / "lookup.sock"))
        unix.listen()
        notifications.bind(os.fspath(tmp_path / "notify"))
        notifications.settimeout(30)
        yield Manager(tmp_path, unix, tcp, notifications)


@contextmanager
def asking(listener: socket.socket, request: bytes) -> Iterator[socket.socket]:
    """Return a client that has sent its lookup; ``localhost`` has one label, so its answer needs no DNS."""
    with socket.socket(listener.family) as client:
        client.settimeout(30)
        client.connect(listener.getsockname())
        client.sendall(request)
        yield client


SOCKETMAP, TCP_TABLE = b"17:postfix localhost,", b"get localhost\n"


def end(process: "subprocess.Popen[bytes]", number: signal.Signals) -> int:
    process.send_signal(number)
    return process.wait(120)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_lookup_during_a_restart_waits_and_is_answered(manager: Manager, number: signal.Signals) -> None:
    with manager.daemon() as process, asking(manager.unix, SOCKETMAP) as client:
        assert client.recv(100) == b"9:NOTFOUND ,"
        # An idle client, such as Postfix, does not delay the stop.
        assert end(process, number) == (0 if number == signal.SIGTERM else -number)
    with asking(manager.unix, SOCKETMAP) as over_unix, asking(manager.tcp, TCP_TABLE) as over_tcp, manager.daemon():
        assert over_unix.recv(100) == b"9:NOTFOUND ,"
        assert over_tcp.recv(100).startswith(b"500 ")


def test_stopping_is_notified(manager: Manager) -> None:
    with manager.daemon() as process:
        assert end(process, signal.SIGTERM) == 0
        manager.hear("STOPPING=1")


@pytest.mark.parametrize("text", ["log: {level: debug}\n", "no: such key\n"], ids=["good", "bad"])
def test_reload_is_notified_and_lookups_go_on(manager: Manager, text: str) -> None:
    with manager.daemon() as process:
        manager.config.write_text(manager.config.read_text() + text)
        process.send_signal(signal.SIGHUP)
        assert any(line.startswith("MONOTONIC_USEC=") for line in manager.hear("RELOADING=1"))
        manager.hear("READY=1")
        with asking(manager.unix, SOCKETMAP) as client:
            assert client.recv(100) == b"9:NOTFOUND ,"
        assert end(process, signal.SIGTERM) == 0
