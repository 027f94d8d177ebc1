"""Requests of the public listener: routes, limits on clients, and the policies by Host.

Everything here runs on the public thread's event loop. Handlers are mounted with ``PublicSite.add_route``::

    async def receive(call: PublicRequest) -> web.Response:
        return web.json_response({"from": call.client, "bytes": len(call.body)}, status=201)

    site.add_route("POST", "/v1/tls-reports", receive, max_body=5 << 20)

A handler may raise any ``web.HTTPException``; its text is sent as text/plain. Anything else that it raises is logged
and becomes 500. A path that ends with a slash answers for all paths below it. Routes are not served for hosts that
have a policy (``mta-sts.<domain>``): these serve the policy and nothing else. A handler reaches the main loop with
``public.server.PublicServer.on_main``. A handler must not block: it shares its thread.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from email.utils import formatdate
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError

from ..log import log_event
from .client_address import client_address, client_network, is_trusted
from .connection import PublicConnection, policy_request
from .counters import PublicCounters

__all__ = ["POLICY_PATH", "PublicHandler", "PublicRequest", "PublicSite"]


@dataclass(frozen=True, slots=True)
class PublicRequest:
    """A request as handlers get it."""

    request: web.BaseRequest
    """For method, path, query and headers. Its body has been read."""
    body: bytes
    """The whole body, at most ``max_body`` bytes."""
    client: str
    """IP address of the client, from X-Forwarded-For if a trusted proxy sent the request."""
    from_proxy: bool
    """True if the peer is a trusted proxy or another program of this host."""


PublicHandler = Callable[[PublicRequest], Awaitable[web.Response]]

POLICY_PATH = "/.well-known/mta-sts.txt"
"""RFC 8461 section 3.3."""

_BODIES_AT_ONCE = 8
"""Request bodies read at the same time; more wait for a second and are then refused."""
_BODIES_PER_CLIENT = 4
"""So that one client that sends slowly does not take all of them."""
_BODY_WAIT = 1.0
_CONNECTIONS_PER_CLIENT = 64
_IDLE_SECONDS = 15.0
"""Time for a complete request, and between two requests of a connection."""
_PROXY_IDLE_SECONDS = 75.0
"""The same for trusted proxies, which keep connections for later requests: nginx does so for 60 s."""
_SWEEP_SECONDS = 5.0
_LINGER_SECONDS = 2.0
_FIXED_HEADERS = {
    "Server": "mtasts-daemon",
    "X-Content-Type-Options": "nosniff",
}
# Senders do not use HTTP caches (RFC 8461 section 3.3); a cache between would delay a new policy for others too.
_POLICY_HEADERS = (
    b"Content-Type: text/plain\r\nCache-Control: no-cache\r\nServer: mtasts-daemon\r\n"
    b"X-Content-Type-Options: nosniff\r\n"
)
_NOT_FOUND = b"no such policy\n"

_logger = logging.getLogger(__name__)


def _is_logged(record: logging.LogRecord) -> bool:
    """Pass only errors of our own: a malformed request is logged once a minute, without its text."""
    error = record.exc_info[1] if record.exc_info else None
    if error is not None and not isinstance(error, HttpProcessingError):
        record.msg, record.args = "public-connection-failed", ()
        return True
    if record.levelno > logging.DEBUG:
        log_event("public-request-malformed", once_a_minute="", error=getattr(error, "message", "").split("\n")[0])
    return False


_connection_logger = logging.getLogger(f"{__name__}.connections")
_connection_logger.addFilter(_is_logged)


@dataclass(frozen=True, slots=True)
class _Route:
    handler: PublicHandler
    max_body: int
    seconds: float


def policy_host(host: bytes) -> bytes:
    """Return a Host value as the policies are keyed: lower case, without a port."""
    name, colon, port = host.rpartition(b":")
    return (name if colon and port.isdigit() else host).lower()


class PublicSite:
    """Answers on all public listeners."""

    def __init__(self, counters: PublicCounters) -> None:
        self.counters = counters
        self.max_connections = 1024
        self.trusted_proxies: Sequence[IPv4Network | IPv6Network] = ()
        self._policies: dict[bytes, bytes] = {}
        self._routes: dict[tuple[str, str], _Route] = {}
        self._connections: set[PublicConnection] = set()
        self._per_client: dict[str, int] = {}
        self._handlers: dict[Any, PublicConnection] = {}
        self._bodies = asyncio.Semaphore(_BODIES_AT_ONCE)
        self._shares: dict[str, tuple[asyncio.Semaphore, int]] = {}
        """The slots that the network of a client may have, and its requests that wait for one or hold one."""
        self._date = (0, b"")
        self._server = web.Server(
            self._answer,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=_PROXY_IDLE_SECONDS,
            lingering_time=_LINGER_SECONDS,
            logger=_connection_logger,
        )

    def add_route(
        self, method: str, path: str, handler: PublicHandler, *, max_body: int = 0, seconds: float = 30.0
    ) -> None:
        """Answer ``method`` at ``path`` with ``handler``, within ``seconds``; replaces an earlier route.

        A longer body than ``max_body`` bytes is refused with 413. A GET route also answers HEAD.
        """
        self._routes[method, path] = _Route(handler, max_body, seconds)

    def change_policies(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Serve these policy texts from now on, by lower-case host name (``mta-sts.example.com``); None ends one."""
        for host, text in changes.items():
            if text is None:
                self._policies.pop(host, None)
            else:
                self._policies[host] = text

    # -- connections -------------------------------------------------------------------------------------------

    def admit(self, connection: PublicConnection) -> bool:
        """Count a new connection; return False if it must be closed.

        If there are too many, the connection that has been silent for the longest time is closed.
        """
        counters = self.counters
        counters.accepted += 1
        connection.trusted = is_trusted(connection.peer, self.trusted_proxies)
        if not connection.trusted:
            network = client_network(connection.peer)
            if self._per_client.get(network, 0) >= _CONNECTIONS_PER_CLIENT:
                counters.refused += 1
                return False
            connection.network = network
            self._per_client[network] = self._per_client.get(network, 0) + 1
        self._connections.add(connection)
        counters.connections = len(self._connections)
        if len(self._connections) > self.max_connections:
            counters.refused += 1
            longest = min(self._connections, key=lambda one: one.silent_since)
            # Now, not when asyncio reports its end: each new connection of a burst must close another one.
            self._forget(longest)
            longest.abort()
        return True

    def release(self, connection: PublicConnection) -> None:
        """Forget a connection that ended."""
        self._handlers.pop(connection.inner, None)
        self._forget(connection)

    def _forget(self, connection: PublicConnection) -> None:
        """Stop counting the connection."""
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        self.counters.connections = len(self._connections)
        if connection.network is not None:
            left = self._per_client[connection.network] - 1
            if left:
                self._per_client[connection.network] = left
            else:
                del self._per_client[connection.network]

    def request_handler(self, connection: PublicConnection) -> Any:
        """Return aiohttp's protocol for the connection."""
        protocol = self._server()
        self._handlers[protocol] = connection
        return protocol

    async def sweep(self) -> None:
        """Close connections without a complete request in time. Runs until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = loop.time()
            for connection in list(self._connections):
                limit = _PROXY_IDLE_SECONDS if connection.trusted else _IDLE_SECONDS
                if now - connection.silent_since > limit:
                    self.counters.expired += 1
                    connection.abort()

    async def close(self) -> None:
        """Abort all connections and end their requests."""
        connections = list(self._connections)
        for connection in connections:
            connection.abort()
        handovers = [connection.handover for connection in connections if connection.handover is not None]
        await asyncio.gather(*handovers, return_exceptions=True)
        await self._server.shutdown(1.0)

    # -- the usual policy request ------------------------------------------------------------------------------

    def quick_response(self, data: bytes) -> tuple[bytes, bool] | None:
        """Return the response to a policy request in a usual form and True if it is the last one, otherwise None."""
        request = policy_request(data)
        if request is None:
            return None
        host, closes = request
        connection = b"Connection: close\r\n" if closes else b""
        body = self._policies.get(host)
        if body is None:
            body = self._policies.get(policy_host(host))
        if body is None:
            self.counters.unknown_hosts += 1
            status, body = b"404 Not Found", _NOT_FOUND
        else:
            status = b"200 OK"
            self.counters.policies += 1
        fields = _POLICY_HEADERS + connection
        return (
            b"HTTP/1.1 %b\r\n%bDate: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (status, fields, self._now(), len(body), body),
            closes,
        )

    def _now(self) -> bytes:
        """Return the Date of a response; made once a second."""
        second = int(time.time())
        if self._date[0] != second:
            self._date = (second, formatdate(usegmt=True).encode())
        return self._date[1]

    # -- all other requests ------------------------------------------------------------------------------------

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        """Answer a request that aiohttp parsed. Never raises but for cancellation."""
        connection = self._handlers[request.protocol]
        try:
            response = await self._routed(request, connection)
        except web.HTTPException as error:
            response = _plain(error.status, error.text or error.reason)
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except (ConnectionError, HttpProcessingError):  # the client disconnected, or the body is malformed
            response = _plain(400, "the request ended too early")
        except TimeoutError:
            response = _plain(408, "the request took too long")
        except Exception:
            self.counters.internal_errors += 1
            _logger.exception("public-request-failed", extra={"fields": {"path": request.path[:200]}})
            response = _plain(500, "internal error")
        complete = request.content.at_eof() or not request.body_exists
        if not complete or response.status in (400, 408, 413):
            response.force_close()
        connection.end(complete=complete)
        for name, value in _FIXED_HEADERS.items():
            response.headers.setdefault(name, value)
        statuses = self.counters.responses
        statuses[response.status] = statuses.get(response.status, 0) + 1
        return response

    async def _routed(self, request: web.BaseRequest, connection: PublicConnection) -> web.Response:
        host, path = _checked_target(request)
        if path == POLICY_PATH or host in self._policies:
            connection.begin(0)
            return self._policy(request, host, path)
        route = self._route(request.method, path)
        connection.begin(route.max_body)
        forwarded = request.headers.getall("X-Forwarded-For", [])
        client = client_address(connection.peer, forwarded, self.trusted_proxies)
        async with asyncio.timeout(route.seconds):
            if not request.body_exists:
                return await route.handler(PublicRequest(request, b"", client, connection.trusted))
            async with self._body_slot(client_network(client)):
                if request.headers.get("Expect", "").lower() == "100-continue":
                    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    request.writer.output_size = 0
                body = await _read_body(request, route.max_body)
                return await route.handler(PublicRequest(request, body, client, connection.trusted))

    def _policy(self, request: web.BaseRequest, host: bytes, path: str) -> web.Response:
        body = self._policies.get(host) if path == POLICY_PATH and request.raw_path == POLICY_PATH else None
        if body is None:
            self.counters.unknown_hosts += 1
            raise web.HTTPNotFound(text=_NOT_FOUND.decode().strip())
        if request.method not in ("GET", "HEAD"):
            raise web.HTTPMethodNotAllowed(request.method, ("GET", "HEAD"))
        if request.body_exists:
            raise web.HTTPBadRequest(text="a policy request has no body")
        self.counters.policies += 1
        response = web.Response(body=body, content_type="text/plain")
        response.headers["Cache-Control"] = "no-cache"
        return response

    def _route(self, method: str, path: str) -> _Route:
        """Return the route. Raises ``web.HTTPNotFound`` or ``web.HTTPMethodNotAllowed``."""
        verb = "GET" if method == "HEAD" else method
        places = [path, *(path[: at + 1] for at in range(len(path) - 1, 0, -1) if path[at] == "/")][:16]
        for place in places:
            if (verb, place) in self._routes:
                return self._routes[verb, place]
        allowed = sorted({verb for verb, place in self._routes if place in places})
        if allowed:
            raise web.HTTPMethodNotAllowed(method, allowed)
        raise web.HTTPNotFound(text="not found")

    @asynccontextmanager
    async def _body_slot(self, network: str) -> AsyncIterator[None]:
        """Hold one of the slots for requests with a body, within the share of the client's network.

        Raises ``web.HTTPServiceUnavailable`` if all stay taken.
        """
        share, users = self._shares.get(network) or (asyncio.Semaphore(_BODIES_PER_CLIENT), 0)
        self._shares[network] = share, users + 1
        try:
            async with AsyncExitStack() as held:
                try:
                    async with asyncio.timeout(_BODY_WAIT):
                        for slots in (share, self._bodies):
                            await held.enter_async_context(slots)
                except TimeoutError:
                    raise web.HTTPServiceUnavailable(text="too many uploads; try again later") from None
                yield
        finally:
            share, users = self._shares.pop(network)
            if users > 1:
                self._shares[network] = share, users - 1


def _checked_target(request: web.BaseRequest) -> tuple[bytes, str]:
    """Return host and path. Raises ``web.HTTPBadRequest`` if either is ambiguous."""
    if request.version not in (HttpVersion10, HttpVersion11):
        raise web.HTTPVersionNotSupported(text="HTTP/1.0 or HTTP/1.1")
    hosts = request.headers.getall("Host", [])
    # RFC 9112 section 3.2: exactly one. A proxy in front may use another one than this program.
    if len(hosts) != 1 or not request.raw_path.startswith("/"):
        raise web.HTTPBadRequest(text="a request has one Host and a path")
    return policy_host(hosts[0].encode("utf-8", "surrogateescape")), request.path


async def _read_body(request: web.BaseRequest, limit: int) -> bytes:
    """Return the whole body. Raises ``web.HTTPRequestEntityTooLarge`` beyond ``limit`` bytes."""
    length = request.content_length
    if length is not None and length > limit:
        raise web.HTTPRequestEntityTooLarge(limit, length, text=f"a body may have {limit} bytes")
    body = bytearray()
    while piece := await request.content.readany():
        body += piece
        if len(body) > limit:
            raise web.HTTPRequestEntityTooLarge(limit, len(body), text=f"a body may have {limit} bytes")
    return bytes(body)


def _plain(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text + "\n", content_type="text/plain")
