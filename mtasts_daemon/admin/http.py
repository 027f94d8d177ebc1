"""HTTP for the admin listeners: access checks, headers of every response, and errors.

An error is ``application/problem+json`` (RFC 9457) with a ``type`` made of a stable slug. Text of foreign exceptions is
never sent.
"""

import asyncio
import base64
import binascii
import hmac
import json
import logging
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from ipaddress import ip_address
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from ..counters import Counters
from ..errors import StoreError
from ..log import log_event
from ..public.request_bytes import RequestBytes

__all__ = ["AdminSite", "HttpProblem", "json_answer", "json_text_answer"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

WRITE_HEADER = "X-MTASTS-Request"
"""A request with this header was not sent by a foreign web page: browsers need permission for such a header."""

_MAX_BODY = 2 << 20
_MAX_CONNECTIONS = 64
_ANSWER_WITHIN = 90.0
"""Seconds for one request. A live explanation may wait a minute for a policy host."""
_IDLE_LIMIT = 30.0
"""Seconds that a connection may be idle or send an incomplete request."""
_PAGE_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "mtasts-daemon",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_SLUGS = {400: "bad-request", 404: "not-found", 405: "method-not-allowed", 413: "body-too-large"}
_logger = logging.getLogger(__name__)


def _is_logged(record: logging.LogRecord) -> bool:
    """Filter aiohttp's log records: errors of clients become an event of ours, once a minute."""
    error = record.exc_info[1] if record.exc_info else None
    if error is not None and not isinstance(error, HttpProcessingError):
        record.msg, record.args = "admin-connection-failed", ()
        return True
    if record.levelno > logging.DEBUG:
        log_event("admin-request-malformed", once_a_minute="", error=getattr(error, "message", "").split("\n")[0])
    return False


_connections = logging.getLogger(f"{__name__}.connections")
_connections.addFilter(_is_logged)


class HttpProblem(Exception):
    """An error response. ``slug`` is stable; ``detail`` is for people."""

    def __init__(self, status: int, slug: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.slug = slug
        self.detail = detail
        self.headers = headers or {}

    def answer(self) -> web.Response:
        """Return the response."""
        fields = {"type": f"urn:mtasts-daemon:{self.slug}", "title": self.slug, "status": self.status}
        body = json.dumps(fields | {"detail": self.detail}).encode()
        return web.Response(
            status=self.status, body=body, content_type="application/problem+json", headers=self.headers
        )


def json_answer(request: web.Request, value: object) -> web.Response:
    """Return ``value`` as JSON, or 304 if the client has it already."""
    return json_text_answer(request, json.dumps(value, separators=(",", ":")))


def json_text_answer(request: web.Request, text: str) -> web.Response:
    """Return text that is JSON already, or 304 if the client has it already."""
    body = text.encode()
    tag = f'"{blake2b(body, digest_size=12).hexdigest()}"'
    if tag in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers={"ETag": tag})
    return web.Response(body=body, content_type="application/json", headers={"ETag": tag})


def page_answer(body: bytes, content_type: str, kept: str) -> web.Response:
    """Return a file of the status page, which may load files of this site only. ``kept`` is its Cache-Control."""
    headers = {"Cache-Control": kept, "Content-Security-Policy": _PAGE_CSP}
    return web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)


class AdminSite:
    """The HTTP server of one listener. It rejects requests that change something unless it is ``writable``."""

    def __init__(self, counters: Counters, *, writable: bool, connections: int = _MAX_CONNECTIONS) -> None:
        self.token: str | None = None
        self.writable = writable
        self._most = connections
        self._counters = counters
        self.app = web.Application(middlewares=[self._handle], client_max_size=_MAX_BODY)
        self.app.on_response_prepare.append(_add_headers)
        self._runner = web.AppRunner(
            self.app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=_IDLE_LIMIT,
            logger=_connections,
            shutdown_timeout=1.0,
        )
        # When a connection became idle; infinity while a request is in progress.
        self._idle_since: dict[Any, float] = {}
        self._bytes: dict[Any, RequestBytes] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Accept connections. All routes must have been added."""
        await self._runner.setup()
        self._sweep()

    def connected(self) -> asyncio.Protocol:
        """Return the protocol for a new connection. At the limit, close the connection idle for the longest time."""
        server, now = self._runner.server, asyncio.get_running_loop().time()
        assert server is not None
        if len(self._idle_since) >= self._most:
            self._forget_ended(now)
        if len(self._idle_since) >= self._most:
            longest = min(self._idle_since, key=self._idle_since.__getitem__)
            # Later, because connections accepted together have no transport yet.
            asyncio.get_running_loop().call_soon(longest.force_close)
            del self._idle_since[longest]
        protocol = server()
        self._idle_since[protocol] = now
        return _Bounded(protocol, self._bytes)

    def _forget_ended(self, now: float) -> None:
        """Forget closed connections, which aiohttp does not report. A new one has no transport either."""
        for protocol, since in list(self._idle_since.items()):
            if protocol.transport is None and now - since > 1.0:
                del self._idle_since[protocol]

    async def close(self) -> None:
        """Close all connections."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._runner.cleanup()

    def _sweep(self) -> None:
        """Close connections that are idle or send incomplete requests."""
        loop = asyncio.get_running_loop()
        self._forget_ended(loop.time())
        for protocol, since in list(self._idle_since.items()):
            if loop.time() - since > _IDLE_LIMIT:
                protocol.force_close()
                del self._idle_since[protocol]
        self._sweeper = loop.call_later(_IDLE_LIMIT / 3, self._sweep)

    @web.middleware
    async def _handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        protocol, loop = request.protocol, asyncio.get_running_loop()
        self._idle_since[protocol] = float("inf")
        counted = self._bytes.get(protocol) or RequestBytes()
        counted.begin(_MAX_BODY)
        try:
            self._check(request)
            async with asyncio.timeout(_ANSWER_WITHIN):
                return await handler(request)
        except HttpProblem as problem:
            return problem.answer()
        except web.HTTPException as error:
            slug = _SLUGS.get(error.status, "http-error")
            allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
            return HttpProblem(error.status, slug, error.reason, allowed).answer()
        except StoreError as error:
            return HttpProblem(503, error.slug, error.sentence).answer()
        except ConnectionError:  # the client closed the connection within its body
            return HttpProblem(400, "bad-request", "the request is incomplete").answer()
        except TimeoutError:
            return HttpProblem(504, "timeout", "the request took too long").answer()
        except Exception:
            self._counters.unhandled += 1
            _logger.exception("admin-request-failed", extra={"fields": {"path": request.path}})
            return HttpProblem(500, "internal-error", "internal error; see the log").answer()
        finally:
            self._idle_since[protocol] = loop.time()
            if not request.body_exists or request.content.at_eof():
                counted.end()

    def _check(self, request: web.Request) -> None:
        """Raise HttpProblem if the request is not allowed."""
        reading = request.method in ("GET", "HEAD")
        if not _is_local_host(request.headers.get("Host", "")):
            raise HttpProblem(421, "host-refused", "the Host header is neither an IP address nor localhost")
        # Only browsers send this header. A foreign page must not cause anything here, not even a lookup.
        if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and request.path != "/":
            raise HttpProblem(403, "cross-site", "requests from other web sites are not allowed")
        if not reading and not self.writable:
            raise HttpProblem(405, "read-only", "this listener is read-only", {"Allow": "GET, HEAD"})
        if self.token is not None and request.path != "/healthz" and not _has_token(request, self.token):
            challenge = {"WWW-Authenticate": 'Basic realm="mtasts-daemon"'}
            raise HttpProblem(401, "token-needed", "send the token of admin.token_file", challenge)
        if not reading and WRITE_HEADER not in request.headers:
            raise HttpProblem(403, "header-needed", f"requests that change something need the header {WRITE_HEADER}")
        if request.content_length is not None and request.content_length > _MAX_BODY:
            raise HttpProblem(413, "body-too-large", f"the limit is {_MAX_BODY} bytes")


class _Bounded(asyncio.Protocol):
    """Passes a connection to aiohttp while its requests are small enough, and closes it otherwise."""

    def __init__(self, inner: Any, connections: dict[Any, RequestBytes]) -> None:
        self._inner = inner
        self._connections = connections
        self._counted = RequestBytes()
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._connections[self._inner] = self._counted
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._counted.admit(data):
            self._inner.data_received(data)
        elif self._transport is not None:
            log_event("admin-request-malformed", once_a_minute="", error="the request is too large")
            self._transport.close()

    def eof_received(self) -> bool | None:
        ended: bool | None = self._inner.eof_received()
        return ended

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        del self._connections[self._inner]
        self._inner.connection_lost(exc)


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        if name == "Server" or name not in response.headers:
            response.headers[name] = value


def _is_local_host(host: str) -> bool:
    """Return True if the Host is an address or localhost, which no foreign DNS name can imitate."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name.lower() == "localhost":
        return True
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _has_token(request: web.Request, token: str) -> bool:
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    given = credentials.strip().encode("utf-8", "surrogateescape")
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).partition(b":")[2]
        except binascii.Error:
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given, token.encode())
