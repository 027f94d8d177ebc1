"""Fetch policies over HTTPS (RFC 8461 section 3.3).

Redirects are not followed, nothing is decompressed, cached or kept open; every byte and second is limited.
"""

import time
from collections.abc import Callable, Container
from pathlib import Path

import aiohttp
from yarl import URL

from .. import errors
from ..config.values import HostPort
from ..policy.mtasts import MAX_BODY, RFC8461, PolicyFormat
from ..ports import FetchedBody, Resolver
from ..text import sanitize
from .address_filter import Address, IPNetwork
from .client import HttpsClient
from .connector import HttpConnection
from .fetch_limiter import FetchLimiter
from .tls_stream import TlsStream
from .untrusted_loop import UntrustedLoop

__all__ = ["HttpsPolicyFetcher"]

_HEADERS = {"Accept": "text/plain, */*;q=0.1", "Accept-Encoding": "identity"}

_PLAIN = frozenset({"", "identity", "none", "utf-8", "utf8", "us-ascii", "8bit", "7bit", "binary"})
"""Values of Content-Encoding that say nothing about compression; all but the first two are mistakes seen in use."""


class HttpsPolicyFetcher:
    """A ``PolicyFetcher``. Times are in seconds.

    ``ca_file`` replaces the system's CA certificates. ``allowed`` networks are exempt from the address
    filter; ``own()`` returns this host's addresses. A fetch takes at most ``total``. ``limit`` fetches run
    at once, ``per_network`` of them in one /24 or /56, and ``waiting`` more may wait. The next location of
    ``policy_format`` is tried if a policy is not found (404). Connections run on ``untrusted_loop``, by default one of
    its own.

    Raises ``ConfigError`` if ``ca_file`` cannot be read.
    """

    def __init__(
        self,
        resolver: Resolver,
        *,
        ca_file: Path | None = None,
        allowed: tuple[IPNetwork, ...] = (),
        own: Callable[[], Container[Address]] | None = None,
        port: int = 443,
        total: float = 60.0,
        limit: int = 64,
        per_network: int = 8,
        waiting: int = 10_000,
        policy_format: PolicyFormat = RFC8461,
        proxy: HostPort | None = None,
        untrusted_loop: UntrustedLoop | None = None,
    ) -> None:
        self._client = HttpsClient(
            resolver, ca_file=ca_file, allowed=allowed, own=own, proxy=proxy, untrusted_loop=untrusted_loop
        )
        self._port = port
        self._total = total
        self._limiter = FetchLimiter(limit, per_network, waiting)
        self._locations = policy_format.locations

    @property
    def own_failure(self) -> str | None:
        """A sentence on the failure of this host that stops fetches, or None."""
        return self._client.own_failure

    async def fetch(self, policy_domain: str, *, live: bool) -> FetchedBody:
        """GET the policy of ``policy_domain``. Raises ``PolicyFetchError``.

        One that is not ``live`` is cancelled with ``PolicyFetchBusy`` when it is slow and others wait.
        """
        host = f"mta-sts.{policy_domain}"
        started = time.monotonic()
        for path, media_types in self._locations:
            left = self._total - (time.monotonic() - started)
            body = await self._get(host, path, media_types, live, left)
            if body is not None:
                return FetchedBody(body)
        raise errors.PolicyHttpStatus("404")

    async def close(self) -> None:
        """Drop the connections; fetches under way fail, and so does every later one."""
        await self._client.close()

    async def _get(self, host: str, path: str, media_types: frozenset[str], live: bool, total: float) -> bytes | None:
        """Return the body at ``path``, or None if there is none (404)."""
        return await self._client.request(
            host,
            self._port,
            lambda stream: _talk(stream, host, self._port, path, media_types),
            total=total,
            slot=lambda key, deadline: self._limiter.slot(key, live, deadline),
        )


async def _talk(stream: TlsStream, host: str, port: int, path: str, media_types: frozenset[str]) -> bytes | None:
    url = URL.build(scheme="https", host=host, port=port, path=path)
    async with (
        HttpConnection(stream, _HEADERS) as connection,
        connection.session.get(url, allow_redirects=False) as response,
    ):
        if response.status == 404:
            return None
        _check_head(response, media_types)
        return await _read_body(response, connection)


def _check_head(response: aiohttp.ClientResponse, media_types: frozenset[str]) -> None:
    """Reject what cannot be a policy before its body is read."""
    if 300 <= response.status < 400:
        # RFC 8461 section 3.3: 3xx MUST NOT be followed
        raise errors.PolicyRedirect(f"{response.status} to {sanitize(response.headers.get('Location', 'nowhere'))}")
    if response.status != 200:
        raise errors.PolicyHttpStatus(str(response.status))
    coding = response.headers.get("Content-Encoding", "")
    if coding.strip().lower() not in _PLAIN:
        raise errors.PolicyEncoding(sanitize(coding))
    transfer = response.headers.get("Transfer-Encoding", "chunked")
    if transfer.strip().lower() != "chunked":
        raise errors.PolicyEncoding(f"Transfer-Encoding {sanitize(transfer)}")
    # RFC 8461 section 3.2: parameters do not matter
    content_type = response.headers.get("Content-Type", "")
    if content_type.partition(";")[0].strip().lower() not in media_types:
        raise errors.PolicyMediaType(sanitize(content_type or "no Content-Type"))
    length = response.content_length
    if length is not None and length > MAX_BODY:
        raise errors.PolicyTooLarge(f"{length} bytes")


async def _read_body(response: aiohttp.ClientResponse, connection: HttpConnection) -> bytes:
    body = bytearray()
    while piece := await response.content.readany():
        body += piece
        if len(body) > MAX_BODY:
            raise errors.PolicyTooLarge(f"more than {MAX_BODY} bytes")
    framed = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
    if connection.truncated and not framed:
        # RFC 9112 section 9.8: without close_notify the body may have been cut by anyone in the path.
        raise errors.PolicyHttpBroken("the body ended without close_notify")
    return bytes(body)
