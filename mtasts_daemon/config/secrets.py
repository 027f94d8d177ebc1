"""Read secrets from the files that the configuration names."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from ..errors import ConfigError

__all__ = ["read_secret", "secret_path"]

MAX_SECRET = 64 * 1024
"""Maximum size of a secret's file in bytes."""


def secret_path(path: Path, environ: Mapping[str, str]) -> Path:
    """Return the path of the file. A relative path starts in systemd's credentials directory, if there is one."""
    # systemd.exec(5), LoadCredential=.
    return Path(environ.get("CREDENTIALS_DIRECTORY", "")) / path


def read_secret(path: Path, environ: Mapping[str, str]) -> bytes:
    """Return the content. Raises ``ConfigError`` if it cannot be read, is empty, or can be read by others."""
    place = secret_path(path, environ)
    try:
        # O_NONBLOCK: opening a pipe by mistake must not hang.
        fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            mode = os.fstat(fd).st_mode
            if not stat.S_ISREG(mode):
                raise ConfigError(f"{str(place)!a} is not a file")
            if mode & stat.S_IROTH:
                raise ConfigError(f"{str(place)!a} can be read by other users; run: chmod o= {str(place)!a}")
            secret = file.read(MAX_SECRET + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{str(place)!a} cannot be read: {reason}") from None
    if not secret.strip() or len(secret) > MAX_SECRET:
        raise ConfigError(f"{str(place)!a} is empty, or larger than {MAX_SECRET} bytes")
    return secret
