"""The daemon's view of the receiving process: its state, and requests of admin clients passed on to it."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import aiohttp
from aiohttp import web
from yarl import URL

from ..clock import SystemClock
from ..ports import Clock
from .http import WRITE_HEADER, HttpProblem
from .receiving_state import ReceivingState

__all__ = ["ReceivingClient", "ReceivingGateway", "ReceivingUnavailable", "receiving_routes"]

_STATE_FRESH = 1.0
_STATE_WITHIN = 2.0
_ANSWER_WITHIN = 95.0
"""Seconds for a request passed on; the receiving process itself ends one after 90 s."""
_PASSED_ON = ("Content-Type", "ETag", "Retry-After", "X-Accel-Buffering", "Allow")
_GET = ("check/{domain}", "watched", "watched/{domain}", "received", "received/{domain}", "received/{domain}/reports")
_GET_MORE = ("received-reports/{id}", "received-reports/{id}/raw", "received-silences")
_GET_PUBLISH = ("publish", "publish/domains", "publish/domains/{domain}", "publish/records/{domain}")
_POST = ("received-silences", *(f"publish/{verb}/{{domain}}" for verb in ("check", "apply", "rollout", "remove")))
_DELETE = ("received-silences/{id}",)


class ReceivingUnavailable(Exception):
    """The receiving process does not run or does not answer."""


class ReceivingClient:
    """Requests to one receiving process, by the Unix socket at ``path``."""

    def __init__(self, path: str, clock: Clock | None = None) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path, limit=0), auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        )
        self._clock = clock or SystemClock()
        self._known: tuple[float, ReceivingState] = (float("-inf"), ReceivingState())

    @property
    def last_state(self) -> ReceivingState:
        """The state as of its last answer."""
        return self._known[1]

    async def state(self, after: int = 0, within: float = _STATE_WITHIN) -> ReceivingState:
        """Return the state, at most a second old; with ``after`` once that configuration is in force.

        Raises ``ReceivingUnavailable`` if there is no answer within the seconds.
        """
        if not after and self._clock.monotonic() - self._known[0] < _STATE_FRESH:
            return self._known[1]
        found = await self._json("GET", f"/receiving/state?after={after}", within)
        self._known = (self._clock.monotonic(), ReceivingState.from_json(found))
        return self._known[1]

    async def log_lines(self) -> Sequence[Mapping[str, Any]]:
        """Return its last log lines, newest first. Raises ``ReceivingUnavailable``."""
        lines: Sequence[Mapping[str, Any]] = (await self._json("GET", "/receiving/log", _STATE_WITHIN))["lines"]
        return lines

    async def set_log_level(self, level: str) -> None:
        """Set its log level. Raises ``ReceivingUnavailable``."""
        await self._json("POST", "/receiving/log-level", _STATE_WITHIN, {"level": level})

    async def _json(self, method: str, path: str, within: float, body: object = None) -> dict[str, Any]:
        if self._session.closed:
            raise ReceivingUnavailable("the receiving process was stopped")
        try:
            async with self._session.request(
                method,
                f"http://localhost{path}",
                json=body,
                headers={WRITE_HEADER: "1"},
                timeout=aiohttp.ClientTimeout(total=within),
            ) as answer:
                found: dict[str, Any] = await answer.json()
                return found
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            reason = "does not answer" if isinstance(error, TimeoutError) else f"cannot be reached: {error}"
            raise ReceivingUnavailable(f"the receiving process {reason}") from None

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on and return the answer. Raises ``HttpProblem`` if there is none."""
        headers = {WRITE_HEADER: "1"} | {
            name: request.headers[name] for name in ("Content-Type", "If-None-Match") if name in request.headers
        }
        body = await request.read() if request.body_exists else None
        if self._session.closed:
            raise _unavailable("it was stopped")
        try:
            async with self._session.request(
                request.method,
                URL(f"http://localhost{request.rel_url.raw_path_qs}", encoded=True),
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=_ANSWER_WITHIN),
                allow_redirects=False,
            ) as answer:
                return await _copied(request, answer)
        except (aiohttp.ClientError, OSError):
            raise _unavailable("it does not answer") from None

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


async def _copied(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    headers = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
    if answer.content_length is not None or answer.status == 304:
        return web.Response(status=answer.status, body=await answer.read(), headers=headers)
    response = web.StreamResponse(status=answer.status, headers=headers)
    await response.prepare(request)
    with suppress(ConnectionError):  # the client is gone
        await _copy_lines(response, answer)
        await response.write_eof()
    return response


async def _copy_lines(response: web.StreamResponse, answer: aiohttp.ClientResponse) -> None:
    """Copy a stream of JSON lines; if it breaks off, end it with an error, because the status has been sent."""
    rest = b""
    try:
        async for piece in answer.content.iter_any():
            whole, end, rest = (rest + piece).rpartition(b"\n")
            await response.write(whole + end)
        await response.write(rest)
    except (aiohttp.ClientError, TimeoutError):
        problem = _unavailable("it ended, or did not finish in time")
        error = {"slug": problem.slug, "status": problem.status, "detail": problem.detail}
        await response.write(json.dumps({"error": error}).encode() + b"\n")


def _unavailable(reason: str) -> HttpProblem:
    detail = f"the receiving process is not available: {reason}; see the log"
    return HttpProblem(503, "receiving-unavailable", detail, {"Retry-After": "5"})


class ReceivingGateway(Protocol):
    """The way to the receiving process, which may not run."""

    async def state(self) -> ReceivingState:
        """Return its state; if it should run but does not answer, with that as a failure."""

    async def client(self) -> ReceivingClient:
        """Return the client, after starting the process if needed. Raises OSError if it cannot be started."""

    @property
    def running(self) -> ReceivingClient | None:
        """The client if the process runs."""

    @property
    def pid(self) -> int | None:
        """Its process number, or None if it does not run."""


def receiving_routes(gateway: ReceivingGateway) -> list[web.RouteDef]:
    """Return the routes of the admin listeners that the receiving process answers."""

    async def pass_on(request: web.Request) -> web.StreamResponse:
        try:
            client = await gateway.client()
        except OSError as error:
            raise _unavailable(error.strerror or str(error)) from None
        return await client.pass_on(request)

    return [
        *(web.get(f"/api/v1/{path}", pass_on) for path in (*_GET, *_GET_MORE, *_GET_PUBLISH)),
        *(web.post(f"/api/v1/{path}", pass_on) for path in _POST),
        *(web.delete(f"/api/v1/{path}", pass_on) for path in _DELETE),
    ]
