"""Talks with the running daemon over its admin socket, with the standard library alone, so that it is quick.

The socket is the one named by ``--socket``, or that of the configuration. For most hosts that takes no more than a
look at ``admin.socket`` in the files; whatever looks odd there is left to the configuration's own reader to tell.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from ..sockets import connected_unix
from .output import print_error

__all__ = ["Client", "Refused", "Unreachable", "asks", "connected", "named_socket"]

_DEFAULT_SOCKET = Path("/run/mtasts-daemon/admin.sock")
_TIMEOUT = 100.0
"""Seconds; more than the daemon takes for anything."""
_PATIENCE = 30.0
"""Seconds for which too many others may ask."""
_MAX_ANSWER = 64 << 20
_EXIT_CODES = {400: os.EX_USAGE, 404: 1, 409: os.EX_CONFIG, 429: os.EX_TEMPFAIL, 503: os.EX_TEMPFAIL}
_EXIT_CODES |= {504: os.EX_TEMPFAIL}


class Unreachable(Exception):
    """There is no daemon to ask; the text says why."""


class Refused(Exception):
    """The daemon answered with a problem. ``answer`` is what it said, as JSON."""

    def __init__(self, status: int, answer: Mapping[str, Any]) -> None:
        super().__init__(str(answer.get("detail") or f"the daemon answered with status {status}"))
        self.status = status
        self.answer = answer

    @property
    def exit_code(self) -> int:
        """In the sense of sysexits(3); 1 where nothing is known."""
        return _EXIT_CODES.get(self.status, os.EX_SOFTWARE)


class Client:
    """Asks the daemon behind the socket ``path``. Every call raises ``Unreachable`` or ``Refused``."""

    def __init__(self, path: str) -> None:
        import http.client

        self.path = path
        self._connection = http.client.HTTPConnection("localhost", timeout=_TIMEOUT)
        # Without a socket of ours it would go to a port of this host.
        self._connection.auto_open = 0

    def get(self, *path: str, **query: object) -> Any:
        """What is at the path, of which each part is quoted."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._ask("GET", path, f"?{urlencode(given)}" if given else "")

    def post(self, *path: str, body: object = None) -> Any:
        """Do what the path says."""
        return self._ask("POST", path, "", body)

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def _ask(self, method: str, path: tuple[str, ...], query: str, body: object = None) -> Any:
        """Ask, and again for half a minute where too many others ask."""
        patience = time.monotonic() + _PATIENCE
        while True:
            try:
                return self._ask_once(method, path, query, body)
            except Refused as refused:
                if refused.status != 429 or time.monotonic() > patience:
                    raise
                time.sleep(1)

    def _ask_once(self, method: str, path: tuple[str, ...], query: str, body: object) -> Any:
        from http.client import HTTPException

        target = "/api/v1/" + "/".join(quote(part, safe="", errors="surrogateescape") for part in path) + query
        sent = None if body is None else json.dumps(body).encode()
        try:
            if self._connection.sock is None:
                self._connection.sock = connected_unix(self.path, _TIMEOUT)
            self._connection.request(method, target, sent, {"X-MTASTS-Request": "mtastsctl"})
            response = self._connection.getresponse()
            answer = json.loads(response.read(_MAX_ANSWER))
        except (OSError, HTTPException, ValueError) as error:
            self._connection.close()
            raise Unreachable(_why(self.path, error)) from None
        if response.status >= 300:
            raise Refused(response.status, answer if isinstance(answer, dict) else {})
        return answer

    def pages(self, **query: object) -> Iterator[Mapping[str, Any]]:
        """The pages of a list of entries, one after another."""
        cursor = None
        while True:
            page = self.get("entries", **query, cursor=cursor)
            yield page
            cursor = page["next"]
            if cursor is None:
                return


def _why(path: str, error: Exception) -> str:
    told = f"{path}: {getattr(error, 'strerror', None) or str(error) or type(error).__name__}"
    if isinstance(error, PermissionError):
        return f"{told}. Run this as root, or as a user who may use the socket."
    return f"{told}. Is the daemon running, with this configuration, and does admin.socket name its socket?"


def asks(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace, Client], int]) -> None:
    """Let the command ask the daemon: its options, and ``run`` with a connection."""
    parser.add_argument(
        "--socket", metavar="PATH", help="the daemon's admin socket (default: that of the configuration)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=lambda args: connected(args, run))


def connected(args: argparse.Namespace, run: Callable[[argparse.Namespace, Client], int]) -> int:
    """The exit code of ``run``, or of what stood in its way."""
    from ..errors import ConfigError

    quiet = getattr(args, "quiet", False)
    try:
        client = Client(args.socket or str(socket_of(args.config, os.environ)))
        try:
            return run(args, client)
        finally:
            client.close()
    except Unreachable as error:
        return os.EX_UNAVAILABLE if quiet else print_error(os.EX_UNAVAILABLE, f"the daemon cannot be asked: {error}")
    except Refused as error:
        return error.exit_code if quiet else print_error(error.exit_code, str(error))
    except ConfigError as error:
        for problem in getattr(error, "problems", (error,)):
            print_error(os.EX_CONFIG, str(problem))
        return os.EX_CONFIG


def socket_of(config: Path | None, environ: Mapping[str, str]) -> Path:
    """The admin socket of the daemon with this configuration, or where systemd has it. Raises ConfigProblems."""
    return named_socket(config, environ) or _DEFAULT_SOCKET


def named_socket(config: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The admin socket that the configuration names; without a file given, where systemd has it. Raises likewise."""
    try:
        found = _peek(config, environ)
    except Exception:
        # The reader of the configuration knows better what is wrong, and says so in words.
        from ..config import load

        path = load(config, environ=environ).admin.socket
        found = None if path is None else str(path)
    if found is not None:
        return Path(found)
    directory = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if directory:
        return Path(directory) / "admin.sock"
    return _DEFAULT_SOCKET if config is None else None


def _peek(config: Path | None, environ: Mapping[str, str]) -> str | None:
    """``admin.socket`` as it is written, without looking at anything else; the later file wins."""
    main = config or Path("/etc/mtasts-daemon/config.yml")
    files = [main] if config is not None or main.exists() else []
    beside = main.parent / "conf.d"
    files += sorted(file for file in beside.glob("*.yml") if not file.name.startswith(".")) if beside.is_dir() else []
    found: Any = None
    for file in files:
        text = file.read_bytes()
        # Importing YAML takes longer than all the rest.
        if b"admin" not in text:
            continue
        import yaml

        admin = (yaml.safe_load(text) or {}).get("admin") or {}
        found = admin.get("socket", found)
    found = environ.get("MTASTS_ADMIN__SOCKET", found)
    if "MTASTS_ADMIN" in environ or found in ("", "null", "~") or not (found is None or isinstance(found, str)):
        raise ValueError("to be read with care")
    return found
