import os
from pathlib import Path

import pytest

from mtasts_daemon.config.secrets import MAX_SECRET, read_secret, secret_path
from mtasts_daemon.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(b"a secret value\n")
    path.chmod(0o640)
    return path


def test_secret_is_read_from_its_file(file: Path) -> None:
    assert read_secret(file, {}) == b"a secret value\n"


def test_secret_readable_by_others_is_rejected(file: Path) -> None:
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="can be read by other users"):
        read_secret(file, {})


def test_relative_path_starts_in_the_credentials_directory(file: Path) -> None:
    assert read_secret(Path("secret"), {"CREDENTIALS_DIRECTORY": str(file.parent)}) == b"a secret value\n"
    assert secret_path(Path("/x"), {"CREDENTIALS_DIRECTORY": "/run"}) == Path("/x")
    assert secret_path(Path("x"), {}) == Path("x")


@pytest.mark.parametrize("content", [b"", b" \n", b"x" * (MAX_SECRET + 1)])
def test_unusable_secret_is_rejected(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="empty, or larger"):
        read_secret(file, {})


def test_special_file_is_rejected_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ConfigError):
            read_secret(path, {})


def test_missing_secret_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing' cannot be read: No such file"):
        read_secret(tmp_path / "missing", {})
