"""Connections to the daemon as Postfix makes them, by the tables that main.cf names."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mtasts_daemon.cli import lookup_client
from mtasts_daemon.cli.lookup_client import LookupReply
from mtasts_daemon.cli.postfix_host import PostfixHost
from mtasts_daemon.cli.postfix_tables import TableProbe, probe_tables
from mtasts_daemon.config.values import Listen


def probed(folder: Path, *tables: str, chrooted: bool = False, timeout: float = 60.0) -> list[TableProbe]:
    settings = {"queue_directory": str(folder), "smtp_tls_policy_maps": ", ".join(tables)}
    return list(probe_tables(PostfixHost("here", (3, 10), settings, chrooted), timeout=timeout))


@contextmanager
def replying(sock: socket.socket, reply: bytes = b"9:NOTFOUND ,") -> Iterator[None]:
    """Reply to one connection on the listening socket."""
    sock.listen()

    def serve() -> None:
        connection, _ = sock.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(reply)

    thread = threading.Thread(target=serve)
    thread.start()
    yield
    thread.join()


@pytest.fixture
def lookup_socket(tmp_path: Path) -> Iterator[socket.socket]:
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "run/x.sock"))
        # smtp(8) does not run as root.
        (tmp_path / "run/x.sock").chmod(0o666)
        for folder in (tmp_path, *tmp_path.parents[:3]):
            if folder != Path("/tmp") and folder.owner() == "root":
                folder.chmod(0o755)
        yield sock


@pytest.mark.parametrize("chrooted", [True, False])
def test_relative_socket_is_found_in_the_queue_directory(
    tmp_path: Path, lookup_socket: socket.socket, chrooted: bool
) -> None:
    with replying(lookup_socket):
        (probe,) = probed(tmp_path, "hash:/etc/postfix/own", "socketmap:unix:run/x.sock:postfix", chrooted=chrooted)
    assert (probe.ok, probe.detail) == (True, "answers")


def test_absolute_socket_is_looked_for_inside_the_chroot(tmp_path: Path, lookup_socket: socket.socket) -> None:
    with replying(lookup_socket):
        (probe,) = probed(tmp_path, "socketmap:unix:/run/x.sock:postfix", chrooted=True)
    assert probe.ok is True
    (probe,) = probed(tmp_path, f"socketmap:unix:{tmp_path}/run/x.sock:postfix", chrooted=True)
    assert probe.ok is False


def test_missing_socket_node_is_found_although_a_process_listens(tmp_path: Path, lookup_socket: socket.socket) -> None:
    lookup_socket.listen()
    (tmp_path / "run/x.sock").unlink()
    (probe,) = probed(tmp_path, "socketmap:unix:run/x.sock:postfix")
    assert probe.ok is False
    assert "the socket is missing; run systemctl restart" in probe.detail


def test_stopped_socket_unit_is_found(tmp_path: Path, lookup_socket: socket.socket) -> None:
    # The node is left behind, but no process listens.
    lookup_socket.close()
    (probe,) = probed(tmp_path, "socketmap:unix:run/x.sock:postfix")
    assert probe.ok is False
    assert "no process listens; run systemctl start" in probe.detail


def test_hanging_daemon_is_found(tmp_path: Path, lookup_socket: socket.socket) -> None:
    lookup_socket.listen()
    (probe,) = probed(tmp_path, "socketmap:unix:run/x.sock:postfix", timeout=0.2)
    assert probe.ok is False
    assert "the daemon hangs" in probe.detail


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become the user postfix")
def test_socket_without_permission_for_postfix_is_found(tmp_path: Path, lookup_socket: socket.socket) -> None:
    lookup_socket.listen()
    (tmp_path / "run/x.sock").chmod(0o600)
    settings = {"queue_directory": str(tmp_path), "smtp_tls_policy_maps": "socketmap:unix:run/x.sock:p"}
    postfix = PostfixHost("here", (3, 10), settings | {"mail_owner": "nobody"}, False)
    (probe,) = probe_tables(postfix, timeout=60.0)
    assert probe.ok is False
    assert "the user nobody may not connect" in probe.detail
    assert os.geteuid() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become the user postfix")
def test_rights_of_postfix_are_used_for_unix_sockets_only(
    tmp_path: Path, lookup_socket: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = []

    def ask(listen: Listen, *_arguments: object) -> LookupReply:
        users.append((bool(listen.path), os.geteuid() == 0))
        return LookupReply("NOTFOUND", "")

    monkeypatch.setattr(lookup_client, "ask", ask)
    maps = "socketmap:unix:run/x.sock:p, socketmap:inet:127.0.0.1:8461:p, tcp:127.0.0.1:8462"
    settings = {"queue_directory": str(tmp_path), "smtp_tls_policy_maps": maps, "mail_owner": "nobody"}
    found = list(probe_tables(PostfixHost("here", (3, 10), settings, False)))
    assert [probe.ok for probe in found] == [True, True, True]
    assert users == [(True, False), (False, True), (False, True)]


def test_tcp_table_is_asked_by_its_protocol(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with replying(sock, b"500 not found\n"):
            (probe,) = probed(tmp_path, f"tcp:127.0.0.1:{sock.getsockname()[1]}")
    assert probe.ok is True


@pytest.mark.parametrize("table", ["socketmap:nonsense", "socketmap:inet:x", "tcp:127.0.0.1"])
def test_malformed_address_is_a_failure(tmp_path: Path, table: str) -> None:
    (probe,) = probed(tmp_path, table)
    assert probe.ok is False
