import os
from pathlib import Path

import pytest

from mtasts_daemon.config.secrets import MAX_SECRET, read_secret, secret_path
from mtasts_daemon.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(b"tell nobody\n")
    path.chmod(0o640)
    return path


def test_a_secret_is_what_its_file_holds(file: Path) -> None:
    assert read_secret(file, {}) == b"tell nobody\n"


def test_a_secret_that_everybody_can_read_is_refused(file: Path) -> None:
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="can be read by other users"):
        read_secret(file, {})


def test_a_relative_path_begins_in_the_credentials_directory(file: Path) -> None:
    assert read_secret(Path("secret"), {"CREDENTIALS_DIRECTORY": str(file.parent)}) == b"tell nobody\n"
    assert secret_path(Path("/x"), {"CREDENTIALS_DIRECTORY": "/run"}) == Path("/x")
    assert secret_path(Path("x"), {}) == Path("x")


@pytest.mark.parametrize("content", [b"", b" \n", b"x" * (MAX_SECRET + 1)])
def test_what_can_be_no_secret_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="empty, or larger"):
        read_secret(file, {})


def test_what_is_no_file_is_refused_and_nothing_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ConfigError):
            read_secret(path, {})


def test_a_file_that_is_not_there_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing' cannot be read: No such file"):
        read_secret(tmp_path / "missing", {})
