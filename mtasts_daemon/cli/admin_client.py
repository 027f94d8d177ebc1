"""Requests to the running daemon over its admin socket, with the standard library alone, so that start-up is quick."""

import argparse
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from ..sockets import connect_unix
from .output import escape, print_error, print_problems

__all__ = ["Client", "Refused", "Unreachable", "add_daemon_command", "admin_socket", "run_connected", "socket_option"]

_DEFAULT_SOCKET = Path("/run/mtasts-daemon/admin.sock")
_TIMEOUT = 100.0
"""Seconds; more than the daemon allows for any request."""
_QUICK = 10.0
"""Seconds for requests that wait for nothing outside the daemon, except 3 s for its resolvers."""
_MAX_ANSWER = 64 << 20
_EXIT_CODES = {400: os.EX_USAGE, 404: 1, 409: os.EX_CONFIG, 429: os.EX_TEMPFAIL, 503: os.EX_TEMPFAIL}
_EXIT_CODES |= {504: os.EX_TEMPFAIL}


class Unreachable(Exception):
    """The daemon does not answer; the text says why."""

    denied = False
    """This user may not connect to the daemon, so its state is unknown."""

    @classmethod
    def because(cls, path: str, error: Exception) -> "Unreachable":
        """Return the exception for an error on the socket at ``path``."""
        found = cls(_why(path, error))
        found.denied = isinstance(error, PermissionError)
        return found


class Refused(Exception):
    """The daemon answered with an error. ``answer`` is its JSON."""

    def __init__(self, status: int, answer: Mapping[str, Any]) -> None:
        super().__init__(str(answer.get("detail") or f"the daemon answered with HTTP status {status}"))
        self.status = status
        self.answer = answer

    @property
    def exit_code(self) -> int:
        """The exit code of sysexits(3) for the HTTP status; 1 if the domain is not known."""
        return _EXIT_CODES.get(self.status, os.EX_SOFTWARE)


class Client:
    """A connection to the admin socket at ``path``. Every request raises Unreachable or Refused."""

    def __init__(self, path: str, timeout: float = _TIMEOUT) -> None:
        import http.client

        self.path = path
        self._timeout = timeout
        self._connection = http.client.HTTPConnection("localhost", timeout=timeout)
        # Without this, http.client would open a TCP connection if there is no socket yet.
        self._connection.auto_open = 0

    def get(self, *path: str, **query: object) -> Any:
        """Return the JSON at the path. Each part of the path is quoted; None parameters are left out."""
        return json.loads(self._request("GET", path, query).read(_MAX_ANSWER))

    def get_soon(self, *path: str, **query: object) -> Any:
        """GET a path that is answered at once, with a timeout of 10 s, so that a hanging daemon is reported."""
        timeout, self._timeout = self._timeout, min(_QUICK, self._timeout)
        try:
            return self.get(*path, **query)
        finally:
            self._timeout = timeout

    def post(self, *path: str, body: object = None) -> Any:
        """Send a command and return the JSON of the answer."""
        return json.loads(self._request("POST", path, {}, body).read(_MAX_ANSWER))

    def result(
        self, method: str, *path: str, on_step: Callable[[Mapping[str, Any]], object] | None, **query: object
    ) -> Any:
        """Return the result of a request that the daemon works on; ``on_step`` is called with each step."""
        last: Mapping[str, Any] = {}
        for line in self.lines(*path, method=method, **query, stream=1):  # to the end, for the next request
            if "step" not in line:
                last = line
            elif on_step is not None:
                on_step(line["step"])
        if "error" in last:
            raise Refused(last["error"]["status"], last["error"])
        if "result" not in last:
            raise Unreachable("the answer is incomplete")
        return last["result"]

    def lines(self, *path: str, method: str = "GET", **query: object) -> Iterator[Any]:
        """Yield the JSON of each line at the path as it arrives."""
        response = self._request(method, path, query)
        try:
            while line := response.readline(_MAX_ANSWER):
                yield json.loads(line)
        except (OSError, ValueError) as error:
            self.close()
            raise Unreachable.because(self.path, error) from None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _request(self, method: str, path: tuple[str, ...], query: Mapping[str, object], body: object = None) -> Any:
        from http.client import HTTPException

        given = {name: value for name, value in query.items() if value is not None}
        target = "/api/v1/" + "/".join(quote(part, safe="", errors="surrogateescape") for part in path)
        target += f"?{urlencode(given, errors='surrogateescape')}" if given else ""
        sent = None if body is None else json.dumps(body).encode()
        try:
            if self._connection.sock is None:
                self._connection.sock = connect_unix(self.path, self._timeout)
            self._connection.sock.settimeout(self._timeout)
            self._connection.request(method, target, sent, {"X-MTASTS-Request": "mtastsctl"})
            response = self._connection.getresponse()
            if response.status < 300:
                return response
            answer = json.loads(response.read(_MAX_ANSWER))
        except (OSError, HTTPException, ValueError) as error:
            self._connection.close()
            raise Unreachable.because(self.path, error) from None
        raise Refused(response.status, answer if isinstance(answer, dict) else {})

    def pages(self, **query: object) -> Iterator[Mapping[str, Any]]:
        """Yield the pages of a list of entries."""
        cursor = None
        while True:
            page = self.get("entries", **query, cursor=cursor)
            yield page
            cursor = page["next"]
            if cursor is None:
                return


Run = Callable[[argparse.Namespace, Client], int]


def _why(path: str, error: Exception) -> str:
    reason = f"{path}: {getattr(error, 'strerror', None) or str(error) or type(error).__name__}"
    if isinstance(error, PermissionError):
        return f"{reason}. Run this as root, or as a user with access to the socket."
    if isinstance(error, TimeoutError):
        return f"{reason}. The daemon is running but hangs; see its log."
    return f"{reason}. Is the daemon running, with this configuration? Does admin.socket name this path?"


def socket_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--socket`` to a verb."""
    parser.add_argument(
        "--socket", metavar="PATH", help="connect to the daemon's admin socket at PATH (default: as configured)"
    )


def add_daemon_command(
    parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace, Client], int], *, json: bool = True
) -> None:
    """Make the verb call ``run`` with a connection to the daemon, and add the options for that."""
    socket_option(parser)
    if json:
        parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=lambda args: run_connected(args, run))


def run_connected(args: argparse.Namespace, run: Run) -> int:
    """Call ``run`` with a connection. Return its exit code, or print what prevented it and return that code."""
    from ..errors import ConfigError

    quiet = getattr(args, "quiet", False)
    try:
        client = Client(args.socket or str(admin_socket(args.config, os.environ) or _DEFAULT_SOCKET))
        try:
            return run(args, client)
        finally:
            client.close()
    except Unreachable as error:
        message = f"the daemon {'was not asked' if error.denied else 'does not answer'}: {error}"
        return os.EX_UNAVAILABLE if quiet else print_error(os.EX_UNAVAILABLE, message)
    except Refused as error:
        return error.exit_code if quiet else print_error(error.exit_code, escape(error))
    except ConfigError as error:
        return print_problems(error)


def admin_socket(config: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the admin socket of the daemon with this configuration. Raise ConfigProblems.

    None: a given file names no socket. It may belong to another daemon than the one of the packaged unit.
    """
    from ..config import load

    return load(config, environ=environ).admin.socket_path(environ) or (_DEFAULT_SOCKET if config is None else None)
