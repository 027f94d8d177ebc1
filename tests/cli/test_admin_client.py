"""How mtastsctl finds the daemon and sends requests."""

import os
import socket
from pathlib import Path

import pytest

from mtasts_daemon.cli import admin_client
from mtasts_daemon.cli.admin_client import admin_socket
from mtasts_daemon.cli.main import ctl_main
from mtasts_daemon.sockets import bind_unix
from tests.cli.conftest import Ctl


def test_last_file_that_names_a_socket_decides(tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text("admin: {socket: /first}\n")
    assert admin_socket(config, {}) == Path("/first")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.yml").write_text("admin: {socket: /second}\n")
    (tmp_path / "conf.d" / "b.yml").write_text("admin: {listen: '127.0.0.1:1'}\n")
    (tmp_path / "conf.d" / ".hidden.yml").write_text("admin: {socket: /third}\n")
    assert admin_socket(config, {}) == Path("/second")
    assert admin_socket(config, {"MTASTS_ADMIN__SOCKET": "/fourth"}) == Path("/fourth")
    assert admin_socket(config, {"MTASTS_ADMIN": "{socket: /fifth}"}) == Path("/fifth")


def test_default_socket_is_in_the_runtime_directory(tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text("# admin\nlisten: []\n")
    assert admin_socket(config, {"RUNTIME_DIRECTORY": "/run/x:/run/y"}) == Path("/run/x/admin.sock")
    # A given configuration may belong to another daemon than the one of the packaged unit.
    assert admin_socket(config, {}) is None


def test_hanging_daemon_is_reported_soon(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_client, "_QUICK", 0.05)
    path = str(tmp_path / "admin.sock")
    with bind_unix(path, socket.SOCK_STREAM, 0o600) as hanging:
        hanging.listen()
        for verb in (("status",), ("explain", "example.com")):
            code = ctl_main(["--socket", path, *verb])
            assert code == os.EX_UNAVAILABLE
            assert "timed out. The daemon is running but hangs; see its log." in capsys.readouterr().err


def test_invalid_configuration_is_reported_with_its_place(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("admin: {sockte: /x}\nadmin: [\n")
    ran = Ctl(capsys, tmp_path / "config.yml")("status")
    assert ran.code == os.EX_CONFIG
    assert f"{tmp_path / 'config.yml'}:" in ran.err
