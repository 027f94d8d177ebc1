"""Reports over HTTPS, RFC 8460 section 5.4.

The receiver's host is found and vetted as a policy host is. A certificate that is not valid is told of and does not
stop the report, which section 3 permits: a report is often about certificates, holds no secret worth more than being
told, and an attacker who is in the way could as well drop it. Only then, so that nobody is left unverified who can
be verified. Nothing else is put up with: redirects are refused, and only 2xx is a delivery.
"""

import asyncio
import ssl
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path

import aiohttp
from yarl import URL

from ... import errors
from ...https.address_filter import Address, IPNetwork
from ...https.client import HttpsClient, client_tls, session
from ...https.connector import BoundedConnector
from ...https.errors import translated
from ...https.local_addresses import OwnAddresses
from ...ports import Clock, Resolver
from ...text import sanitize
from ..model.delivery_result import Attempt, Result
from ..model.record import Rua

__all__ = ["MAX_WAIT", "Poster"]

MAX_WAIT = 6 * 3600.0
"""Seconds of a Retry-After that are honoured."""

_CONNECT_WITHIN = 5.0
"""Seconds that an address gets which is not the last."""

# RFC 9110 section 15: what is about the moment, and not about the request.
_FOR_NOW = frozenset({408, 421, 425, 429})


class Poster:
    """POSTs reports; ``total`` is what one may take, in seconds. The rest is as of ``HttpsPolicyFetcher``."""

    def __init__(
        self,
        resolver: Resolver,
        clock: Clock,
        *,
        total: float = 60.0,
        ca_file: Path | None = None,
        allowed: tuple[IPNetwork, ...] = (),
        own: Callable[[], frozenset[Address]] | None = None,
    ) -> None:
        self._clock = clock
        self._total = total
        self._strict = client_tls(ca_file)
        self._lenient = client_tls(ca_file)
        self._lenient.check_hostname = False
        self._lenient.verify_mode = ssl.CERT_NONE
        self._hosts = HttpsClient(resolver, allowed, own or OwnAddresses())
        self._connector: BoundedConnector | None = None
        self._session: aiohttp.ClientSession | None = None

    async def post(self, rua: Rua, body: bytes) -> Attempt:
        """Hand the packed report to the address; never raises."""
        try:
            async with asyncio.timeout(self._total):
                return await self._post(rua, body)
        except Exception as error:
            return _failure(translated(error))

    async def close(self) -> None:
        """Drop the connections; what is under way fails, and so does every later one."""
        if self._connector is not None and self._session is not None:
            self._connector.drop()
            await self._session.close()

    async def _post(self, rua: Rua, body: bytes) -> Attempt:
        *others, last = await self._hosts.vetted(rua.host)
        for address in others:
            try:
                return await self._post_to(address, rua, body, _CONNECT_WITHIN)
            except errors.PolicyConnectFailed:
                continue
        return await self._post_to(last, rua, body, None)

    async def _post_to(self, address: Address, rua: Rua, body: bytes, connect: float | None) -> Attempt:
        try:
            return await self._request(address, rua, body, connect, self._strict)
        except errors.WebPkiError as error:
            flaw = f"{error.slug}: {error.detail}" if error.detail else error.slug
        attempt = await self._request(address, rua, body, connect, self._lenient)
        return Attempt(attempt.result, f"{attempt.detail} ({flaw})".lstrip(), attempt.wait, attempt.host)

    async def _request(
        self, address: Address, rua: Rua, body: bytes, connect: float | None, tls: ssl.SSLContext
    ) -> Attempt:
        host = f"[{address}]" if address.version == 6 else str(address)
        try:
            async with self._http().post(
                URL(f"https://{host}:{rua.port}{rua.target}", encoded=True),
                data=body,
                ssl=tls,
                server_hostname=rua.host,
                headers={
                    "Host": rua.host if rua.port == 443 else f"{rua.host}:{rua.port}",
                    "Content-Type": "application/tlsrpt+gzip",
                },
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect),
                allow_redirects=False,
            ) as response:
                return self._judged(response)
        except TimeoutError:
            raise
        except Exception as error:
            raise translated(error, connect) from error

    def _judged(self, response: aiohttp.ClientResponse) -> Attempt:
        # What the body says is of no concern; it is not read.
        status = response.status
        if 200 <= status < 300:
            return Attempt(Result.DELIVERED)
        if 300 <= status < 400:
            return Attempt(Result.REFUSED, f"{status} to {sanitize(response.headers.get('Location', 'nowhere'))}")
        if status in _FOR_NOW or status >= 500:
            return Attempt(Result.DEFERRED, str(status), self._wait(response.headers.get("Retry-After", "")), host=True)
        return Attempt(Result.GONE if status == 410 else Result.REFUSED, str(status))

    def _wait(self, value: str) -> float:
        """RFC 9110 section 10.2.3: seconds or a date; 0 where it is neither."""
        value = value.strip()[:64]
        if value.isascii() and value.isdigit():
            return min(float(value), MAX_WAIT)
        try:
            moment = parsedate_to_datetime(value)
        except (ValueError, TypeError, IndexError, OverflowError):
            return 0.0
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return min(max(moment.timestamp() - self._clock.wall(), 0.0), MAX_WAIT)

    def _http(self) -> aiohttp.ClientSession:
        """The one session, made in the event loop that it is used in."""
        if self._session is None:
            self._connector = BoundedConnector(self._strict)
            self._session = session(self._connector, {})
        return self._session


def _failure(error: errors.PolicyFetchError) -> Attempt:
    """What kept the report from being handed over; the names are those of fetching policies."""
    name = error.slug.removeprefix("policy-")
    return Attempt(Result.DEFERRED, f"{name}: {error.detail}" if error.detail else name, host=True)
