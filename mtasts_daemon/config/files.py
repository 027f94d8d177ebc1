"""Check the files that a configuration names, before it is put in force."""

import os
import re
import ssl
import stat
from pathlib import Path

from ..text import sanitize
from .domain_lines import read_domain_lines
from .loading import Loaded
from .model import Config
from .problems import ConfigProblems, Problem

__all__ = ["check_domain_lines", "check_files", "read_token"]

_MAX_TOKEN = 1024
_TOKEN = re.compile(rb"[\x21-\x7e]{16,}")


def check_files(loaded: Loaded) -> Config:
    """Return the configuration if this process can read the files it names. Raises ``ConfigProblems``."""
    config = loaded.config
    if config.https.ca_file is not None:
        problem = _trust_problem(str(config.https.ca_file))
        if problem:
            origin = loaded.origins["https.ca_file"]
            hint = "name a file of certificates in PEM form that the daemon's user can read"
            raise ConfigProblems([Problem.at(origin, "https.ca_file", problem, hint)])
    if config.admin.listen is not None and config.admin.token_file is not None:
        try:
            read_token(config.admin.token_file)
        except ValueError as error:
            origin = loaded.origins["admin.token_file"]
            raise ConfigProblems([Problem.at(origin, "admin.token_file", str(error))]) from None
    return config


def check_domain_lines(config: Config) -> None:
    """Read ``publish.domains_file``. Raises ``ConfigProblems``.

    Not part of ``check_files``: the daemon publishes the good lines of a file with bad ones.
    """
    path = config.publish.domains_file
    if path is None:
        return
    try:
        lines = read_domain_lines(path)
    except OSError as error:
        name, reason = sanitize(str(path), 4096), error.strerror or str(error)
        hint = "name a file that the daemon's user can read"
        raise ConfigProblems(
            [Problem(name, None, None, "publish.domains_file", f"cannot be read: {reason}", hint)]
        ) from None
    if lines.problems:
        raise ConfigProblems(lines.problems)


def read_token(path: Path) -> str:
    """Return the first line of the file, stripped. Raises ValueError with a message if it is not a token."""
    name = sanitize(str(path), 4096)
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IROTH:
                raise ValueError(f"{name} can be read by other users")
            token = file.read(_MAX_TOKEN).partition(b"\n")[0].strip()
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}") from None
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"{name} does not hold a token of at least 16 printable characters without blanks")
    return token.decode("ascii")


def _trust_problem(path: str) -> str:
    name = sanitize(path, 4096)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return f"{name} holds no valid certificates"
    except (OSError, ValueError) as error:
        return f"{name} cannot be read: {getattr(error, 'strerror', None) or error}"
    return ""
