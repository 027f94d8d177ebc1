"""HTTP as the admin side speaks it: who may ask, what every answer carries, and how an error is told.

An error is an ``application/problem+json`` of RFC 9457, with ``type`` made of a slug of ours. No exception's text
but our own leaves the process.
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

__all__ = ["AdminSite", "HttpProblem", "json_answer", "json_text_answer"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

WRITE_HEADER = "X-MTASTS-Request"
"""Any value of it shows that no foreign web page sent the request: browsers ask before they send such a header."""

_MAX_BODY = 2 << 20
_MAX_CONNECTIONS = 64
_ANSWER_WITHIN = 90.0
"""Seconds for one request. A live explanation may wait for a policy host for a minute."""
_SILENT_FOR = 30.0
"""Seconds that a connection may keep its request to itself, or be idle."""
_EVERY = 0.09
"""Seconds between two answers to those who ask without a pause."""
_AT_ONCE = 30
"""Requests answered without a pause: more than the status page asks for when it is first opened."""
_WAITS = 2.0
"""Seconds that a request may wait for its turn."""
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


def _told(record: logging.LogRecord) -> bool:
    """Whether aiohttp's own line is one for the log: what a client does wrong is told in ours, and not each time."""
    error = record.exc_info[1] if record.exc_info else None
    if error is not None and not isinstance(error, HttpProcessingError):
        record.msg, record.args = "admin-connection-failed", ()
        return True
    if record.levelno > logging.DEBUG:
        log_event("admin-request-malformed", once_a_minute="", error=getattr(error, "message", "").split("\n")[0])
    return False


_connections = logging.getLogger(f"{__name__}.connections")
_connections.addFilter(_told)


class HttpProblem(Exception):
    """An answer that says what is wrong. ``slug`` is stable; ``detail`` is for people."""

    def __init__(self, status: int, slug: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.slug = slug
        self.detail = detail
        self.headers = headers or {}

    def answer(self) -> web.Response:
        """As a response."""
        told = {"type": f"urn:mtasts-daemon:{self.slug}", "title": self.slug, "status": self.status}
        body = json.dumps(told | {"detail": self.detail}).encode()
        return web.Response(
            status=self.status, body=body, content_type="application/problem+json", headers=self.headers
        )


def json_answer(request: web.Request, value: object) -> web.Response:
    """``value`` as JSON, or 304 where the client has it already."""
    return json_text_answer(request, json.dumps(value, separators=(",", ":")))


def json_text_answer(request: web.Request, text: str) -> web.Response:
    """The same for what is JSON already."""
    body = text.encode()
    tag = f'"{blake2b(body, digest_size=12).hexdigest()}"'
    if tag in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers={"ETag": tag})
    return web.Response(body=body, content_type="application/json", headers={"ETag": tag})


def page_answer(body: bytes, content_type: str, kept: str) -> web.Response:
    """A file of the status page; it may use what is beside it and nothing else. ``kept`` is its Cache-Control."""
    headers = {"Cache-Control": kept, "Content-Security-Policy": _PAGE_CSP}
    return web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)


class RequestPace:
    """Says how long a request is to wait, so that ``at_once`` go through in a row and one each ``every`` seconds in the
    long run. In between, the event loop is there for lookups: whoever reads in a loop takes a hundredth of its time.

    None waits longer than ``waits`` seconds: turns that whoever went away has taken hold up nobody for long.
    """

    def __init__(self, every: float, at_once: int, waits: float) -> None:
        self._every = every
        self._slack = every * (at_once - 1)
        self._waits = waits
        self._next = float("-inf")

    def wait(self, now: float) -> float | None:
        """Seconds for the request that comes at ``now``, by a clock that does not go back; None: it gets no turn."""
        due = max(self._next, now)
        wait = max(due - now - self._slack, 0.0)
        if wait > self._waits:
            return None
        self._next = due + self._every
        return wait


class AdminSite:
    """Answers on one listener. ``writable`` ones take what changes something; the others read only."""

    def __init__(self, counters: Counters, *, writable: bool) -> None:
        self.token: str | None = None
        self.writable = writable
        self._counters = counters
        self._pace = RequestPace(_EVERY, _AT_ONCE, _WAITS)
        self._healthz_pace = RequestPace(_EVERY, _AT_ONCE, _WAITS)
        """Its own, so that who watches over the daemon waits for no reader."""
        self.app = web.Application(middlewares=[self._answered], client_max_size=_MAX_BODY)
        self.app.on_response_prepare.append(_add_headers)
        self._runner = web.AppRunner(
            self.app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=_SILENT_FOR,
            logger=_connections,
            shutdown_timeout=1.0,
        )
        # Since when a connection is silent; for ever in the future while it is being answered.
        self._silent: dict[Any, float] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Get ready for connections, after all routes have been added."""
        await self._runner.setup()
        self._sweep()

    def connected(self) -> asyncio.Protocol:
        """The protocol for a new connection; where there are too many, the one silent the longest goes."""
        server, now = self._runner.server, asyncio.get_running_loop().time()
        assert server is not None
        if len(self._silent) >= _MAX_CONNECTIONS:
            self._forget_ended(now)
        if len(self._silent) >= _MAX_CONNECTIONS:
            longest = min(self._silent, key=self._silent.__getitem__)
            # Not at once: of those accepted together, none has a transport to close yet.
            asyncio.get_running_loop().call_soon(longest.force_close)
            del self._silent[longest]
        protocol = server()
        self._silent[protocol] = now
        return protocol

    def _forget_ended(self, now: float) -> None:
        """aiohttp does not tell when a connection ends; one that is about to begin has no transport either."""
        for protocol, since in list(self._silent.items()):
            if protocol.transport is None and now - since > 1.0:
                del self._silent[protocol]

    async def close(self) -> None:
        """End all connections."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._runner.cleanup()

    def _sweep(self) -> None:
        """Close connections that say nothing, or not all of it."""
        loop = asyncio.get_running_loop()
        self._forget_ended(loop.time())
        for protocol, since in list(self._silent.items()):
            if loop.time() - since > _SILENT_FOR:
                protocol.force_close()
                del self._silent[protocol]
        self._sweeper = loop.call_later(_SILENT_FOR / 3, self._sweep)

    @web.middleware
    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        protocol, loop = request.protocol, asyncio.get_running_loop()
        self._silent[protocol] = float("inf")
        try:
            self._check(request)
            await self._turn(request)
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
        except ConnectionError:  # the client went in the middle of its body
            return HttpProblem(400, "bad-request", "it ended too early").answer()
        except TimeoutError:
            return HttpProblem(504, "timeout", "it took too long").answer()
        except Exception:
            self._counters.unhandled += 1
            _logger.exception("admin-request-failed", extra={"fields": {"path": request.path}})
            return HttpProblem(500, "internal-error", "something unexpected happened; the log has it").answer()
        finally:
            self._silent[protocol] = loop.time()

    async def _turn(self, request: web.Request) -> None:
        """Wait until the request may be answered. Raises ``Problem`` where too many wait already."""
        pace = self._healthz_pace if request.path == "/healthz" else self._pace
        wait = pace.wait(asyncio.get_running_loop().time())
        # A refusal that came at once would be asked for again at once, and cost as much as an answer.
        await asyncio.sleep(_WAITS if wait is None else wait)
        if wait is None:
            raise HttpProblem(429, "too-many-requests", "rate limit exceeded", {"Retry-After": str(round(_WAITS))})

    def _check(self, request: web.Request) -> None:
        """Raises ``Problem`` where the request is not to be answered."""
        reading = request.method in ("GET", "HEAD")
        if not _is_ours(request.headers.get("Host", "")):
            raise HttpProblem(421, "host-refused", "the Host header is neither an IP address nor localhost")
        # Sent by browsers alone; a foreign page is to cause nothing here, not even a look-up.
        if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and request.path != "/":
            raise HttpProblem(403, "cross-site", "this is not for other web pages")
        if not reading and not self.writable:
            raise HttpProblem(405, "read-only", "nothing can be changed on this listener", {"Allow": "GET, HEAD"})
        if self.token is not None and request.path != "/healthz" and not _knows(request, self.token):
            challenge = {"WWW-Authenticate": 'Basic realm="mtasts-daemon"'}
            raise HttpProblem(401, "token-needed", "send the token of admin.token_file", challenge)
        if not reading and WRITE_HEADER not in request.headers:
            raise HttpProblem(403, "header-needed", f"what changes something needs a header {WRITE_HEADER}")
        if request.content_length is not None and request.content_length > _MAX_BODY:
            raise HttpProblem(413, "body-too-large", f"a body may have {_MAX_BODY} bytes")


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        if name == "Server" or name not in response.headers:
            response.headers[name] = value


def _is_ours(host: str) -> bool:
    """Whether the Host cannot have been made to point here by somebody's DNS."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name.lower() == "localhost":
        return True
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _knows(request: web.Request, token: str) -> bool:
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
