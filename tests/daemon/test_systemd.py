"""sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3), with real descriptors and real datagrams."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mtasts_daemon.daemon.systemd import Notifier, inherited_names, listen_address, notify_address, watchdog_interval

# -- inherited sockets -------------------------------------------------------------------------------------

# The child moves its descriptors to 3, 4, ... as the service manager does, serves one connection on each and prints the
# result.
CHILD = """
import fcntl, json, os, sys
from mtasts_daemon.daemon.systemd import listen_fds
given = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1:]]
os.closerange(3, 100)
for position, fd in enumerate(given, start=3):
    os.dup2(fd, position, inheritable=True)
    os.close(fd)
environ = dict(os.environ, LISTEN_PID=str(os.getpid()))
found = listen_fds(environ, os.getpid())
for activated in found.sockets:
    activated.sock.setblocking(True)
    connection, _ = activated.sock.accept()
    connection.sendall(activated.name.encode())
    connection.close()
print(json.dumps([
    [[s.name, s.listen, s.sock.fileno(), s.sock.get_inheritable()] for s in found.sockets],
    found.warnings,
    [key for key in environ if key.startswith("LISTEN_")],
    [fd for fd in range(3, 100) if os.path.exists(f"/dev/fd/{fd}")],
    [[s.fileno(), s.getsockname(), s.get_inheritable()] for s in found.tlsrpt],
    [[s.address, s.tls, s.sock.get_inheritable()] for s in found.public],
    [[s.getsockname(), s.get_inheritable()] for s in found.lmtp],
]))
"""


class Inherited(NamedTuple):
    """The result of the child: [name, listen, fd, inheritable] of each socket; the rest as named."""

    sockets: list[list[object]]
    warnings: list[str]
    variables_left: list[str]
    fds_open: list[int]
    tlsrpt: list[list[object]]
    """[fd, path, inheritable] of each."""
    public: list[list[object]]
    """[address, tls, inheritable] of each."""
    lmtp: list[list[object]]
    """[path, inheritable] of each."""


def start_child(fds: list[int], **variables: str) -> "subprocess.Popen[str]":
    environ = {key: text for key, text in os.environ.items() if not key.startswith("LISTEN_")} | variables
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *map(str, fds)],
        pass_fds=fds,
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def inherited_by(child: "subprocess.Popen[str]") -> Inherited:
    stdout, _ = child.communicate(timeout=240)
    assert child.returncode == 0
    return Inherited(*json.loads(stdout))


def greeting(listener: socket.socket) -> str:
    """Connect before the child accepts: the backlog keeps the connection, as it does over a restart."""
    with socket.socket(listener.family) as client:
        client.settimeout(30)
        client.connect(listener.getsockname())
        return client.recv(100).decode()


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.fspath(tmp_path / "lookup.sock"))
        sock.listen()
        yield sock


def test_inherited_sockets_are_served_and_not_passed_to_children(tcp: socket.socket, unix: socket.socket) -> None:
    port, path = tcp.getsockname()[1], unix.getsockname()
    child = start_child([tcp.fileno(), unix.fileno()], LISTEN_FDS="2", LISTEN_FDNAMES="tcp_table:socketmap-postfix")
    assert greeting(tcp) == "tcp_table"
    assert greeting(unix) == "socketmap-postfix"
    inherited = inherited_by(child)
    assert inherited.sockets == [
        ["tcp_table", f"tcp_table:127.0.0.1:{port}", 3, False],
        ["socketmap-postfix", f"socketmap:unix:{path}", 4, False],
    ]
    assert inherited.warnings == []
    assert inherited.variables_left == []


def test_socket_with_unknown_name_is_socketmap_with_a_warning(
    tcp: socket.socket,
) -> None:
    child = start_child([tcp.fileno()], LISTEN_FDS="1", LISTEN_FDNAMES="other\nname")
    greeting(tcp)
    inherited = inherited_by(child)
    assert inherited.sockets[0][1] == f"socketmap:inet:127.0.0.1:{tcp.getsockname()[1]}"
    [warning] = inherited.warnings
    assert "'other\\nname'" in warning
    assert "\n" not in warning


def test_unusable_inherited_socket_is_closed_with_a_warning(tcp: socket.socket, tmp_path: Path) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
        socket.socket() as unheard,
        (tmp_path / "file").open("w") as file,
    ):
        fds = [datagram.fileno(), unheard.fileno(), file.fileno(), tcp.fileno()]
        child = start_child(fds, LISTEN_FDS="5", LISTEN_FDNAMES=":".join(["socketmap"] * 5))
        greeting(tcp)
        inherited = inherited_by(child)
    assert [entry[2] for entry in inherited.sockets] == inherited.fds_open == [6]
    datagram_said, unheard_said, file_said, missing_said = inherited.warnings
    assert "inherited socket 3 ('socketmap')" in datagram_said
    assert "not a stream socket" in datagram_said
    assert "not listening" in unheard_said
    assert "inherited socket 5" in file_said
    assert "inherited socket 7" in missing_said


def test_datagram_socket_is_recognized_by_its_name(tmp_path: Path) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as results,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless,
    ):
        results.bind(os.fspath(tmp_path / "tlsrpt.sock"))
        fds = [results.fileno(), other.fileno(), nameless.fileno()]
        inherited = inherited_by(start_child(fds, LISTEN_FDS="3", LISTEN_FDNAMES="tlsrpt:tlsrpt-2:socketmap"))
    assert inherited.tlsrpt == [[3, str(tmp_path / "tlsrpt.sock"), False]]
    assert inherited.fds_open == [3]
    other_said, nameless_said = inherited.warnings
    assert "inherited socket 4 ('tlsrpt-2') is closed: it is not a Unix datagram socket" in other_said
    assert "inherited socket 5 ('socketmap') is closed: it is not a stream socket" in nameless_said


def test_sockets_of_the_public_listener_are_known_by_their_names(tcp: socket.socket, unix: socket.socket) -> None:
    child = start_child([tcp.fileno(), unix.fileno()], LISTEN_FDS="2", LISTEN_FDNAMES="public-https:public")
    inherited = inherited_by(child)
    port = tcp.getsockname()[1]
    assert inherited.public == [
        [f"systemd:inet:127.0.0.1:{port}", True, False],
        [f"systemd:unix:{unix.getsockname()}", False, False],
    ]
    assert (inherited.sockets, inherited.warnings) == ([], [])


def test_socket_for_received_reports_is_known_by_its_name(unix: socket.socket) -> None:
    inherited = inherited_by(start_child([unix.fileno()], LISTEN_FDS="1", LISTEN_FDNAMES="lmtp"))
    assert inherited.lmtp == [[unix.getsockname(), False]]
    assert (inherited.sockets, inherited.warnings) == ([], [])


def passed(**variables: str) -> tuple[list[str], str]:
    return inherited_names({"LISTEN_PID": "42", **variables}, 42)


def test_each_descriptor_has_the_name_at_its_place() -> None:
    assert passed(LISTEN_FDS="2", LISTEN_FDNAMES="socketmap:tcp_table") == (["socketmap", "tcp_table"], "")


def test_descriptors_without_names_are_unnamed() -> None:
    assert passed(LISTEN_FDS="2") == (["unknown", "unknown"], "")


@pytest.mark.parametrize("names", ["", "socketmap", "a:b:c"])
def test_names_that_do_not_match_the_descriptors_are_ignored(names: str) -> None:
    found, problem = passed(LISTEN_FDS="2", LISTEN_FDNAMES=names)
    assert found == ["unknown", "unknown"]
    assert problem


@pytest.mark.parametrize("variables", [{}, {"LISTEN_PID": "43"}, {"LISTEN_PID": ""}, {"LISTEN_PID": "-42"}])
def test_sockets_of_another_process_are_left_alone(variables: dict[str, str]) -> None:
    assert inherited_names({"LISTEN_FDS": "2", **variables}, 42) == ([], "")


@pytest.mark.parametrize("count", ["", "two", "-1", "+1", "1 ", "\u0661", "9" * 5000])
def test_malformed_count_passes_no_socket(count: str) -> None:
    names, problem = passed(LISTEN_FDS=count)
    assert names == []
    assert problem


@pytest.mark.parametrize(("count", "taken"), [(64, 64), (65, 64), (10**14, 64)])
def test_no_more_than_64_descriptors_are_taken(count: int, taken: int) -> None:
    names, problem = passed(LISTEN_FDS=str(count))
    assert len(names) == taken
    assert bool(problem) == (count > taken)


@pytest.mark.parametrize(
    ("family", "name", "text"),
    [
        (socket.AF_INET, ("127.0.0.1", 8461), "inet:127.0.0.1:8461"),
        (socket.AF_INET6, ("::1", 8461, 0, 0), "inet:[::1]:8461"),
        (socket.AF_UNIX, "/run/lookup.sock", "unix:/run/lookup.sock"),
        (socket.AF_UNIX, b"\0lookup", "unix:@lookup"),
    ],
)
def test_addresses_are_written_as_in_the_configuration(family: int, name: object, text: str) -> None:
    assert listen_address(family, name) == text


# -- readiness and watchdog --------------------------------------------------------------------------------


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """Return the service manager's end of the notification socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(os.fspath(tmp_path / "notify") if request.param == "path" else "")
        sock.settimeout(30)
        yield sock


@pytest.fixture
def notifier(manager: socket.socket) -> Iterator[Notifier]:
    name = manager.getsockname()
    text = name if isinstance(name, str) else "@" + name[1:].decode()
    found = Notifier(notify_address({"NOTIFY_SOCKET": text}), monotonic_ns=lambda: 12_345_678_999)
    yield found
    found.close()


def lines(manager: socket.socket) -> list[str]:
    return manager.recv(65536).decode().split("\n")


def test_notifications_have_the_protocol_of_sd_notify(manager: socket.socket, notifier: Notifier) -> None:
    assert notifier.ready("serving")
    assert lines(manager) == ["READY=1", "STATUS=serving"]
    assert notifier.watchdog()
    assert lines(manager) == ["WATCHDOG=1"]
    assert notifier.status("12 policies")
    assert lines(manager) == ["STATUS=12 policies"]
    assert notifier.reloading()
    assert lines(manager) == ["RELOADING=1", "MONOTONIC_USEC=12345678"]
    assert notifier.ready()
    assert lines(manager) == ["READY=1"]
    assert notifier.stopping()
    assert lines(manager) == ["STOPPING=1"]


@pytest.mark.parametrize("manager", ["path"], indirect=True)
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one\nREADY=1\x00\x1b[31m", "one READY=1  [31m"),
        ("x" * 513, "x" * 512),
        ("é" * 257, "é" * 256),
        ("a" + "é" * 256, "a" + "é" * 255),
        ("\udcff", " "),
    ],
)
def test_status_is_one_bounded_printable_line(manager: socket.socket, notifier: Notifier, text: str, line: str) -> None:
    assert notifier.status(text)
    assert lines(manager) == [f"STATUS={line}"]


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_empty_status_is_not_sent(manager: socket.socket, notifier: Notifier) -> None:
    assert not notifier.status("")
    assert notifier.watchdog()
    assert lines(manager) == ["WATCHDOG=1"]


@pytest.mark.parametrize("address", [None, "/nonexistent/notify", "/" + "x" * 200, "\0nobody-listens-here"])
def test_missing_service_manager_is_not_an_error(address: str | None) -> None:
    notifier = Notifier(address)
    assert not notifier.ready("serving")
    notifier.close()
    assert not notifier.stopping()


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_service_manager_that_does_not_read_does_not_block(manager: socket.socket, notifier: Notifier) -> None:
    # net.unix.max_dgram_qlen limits the queue.
    while notifier.watchdog():
        pass
    lines(manager)
    assert notifier.watchdog()


@pytest.mark.parametrize("text", ["", "relative", "vsock:2:1234"])
def test_unsupported_notification_address_is_ignored(text: str) -> None:
    assert notify_address({"NOTIFY_SOCKET": text}) is None
    assert notify_address({}) is None


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "42"}, 15.0),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "43"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ""}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
        ({}, None),
    ],
)
def test_watchdog_is_notified_twice_per_interval(environ: dict[str, str], interval: float | None) -> None:
    assert watchdog_interval(environ, 42) == interval
