"""Deliver reports over HTTPS (RFC 8460 section 5.4).

The receiver's host is looked up, and its addresses are filtered, as for a policy host. A report is delivered despite an
invalid certificate, which section 3 permits and the result records: reports are often about invalid certificates and
contain no secrets, and an attacker on the path could drop them as well. The certificate is verified in a first attempt,
and a second attempt without verification follows if that fails. Redirects are refused, and only 2xx is a delivery.
"""

import asyncio
from collections.abc import Callable, Container
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path

import aiohttp
from yarl import URL

from ... import errors
from ...config.values import HostPort
from ...https.address_filter import Address, IPNetwork
from ...https.client import HttpsClient
from ...https.connector import HttpConnection
from ...https.errors import fetch_error_for
from ...https.tls_stream import TlsStream
from ...https.untrusted_loop import UntrustedLoop
from ...ports import Clock, Resolver
from ...text import sanitize
from ..model.delivery_result import DeliveryResult, Result
from ..model.record import Rua

__all__ = ["MAX_WAIT", "HttpsDelivery"]

MAX_WAIT = 6 * 3600.0
"""Maximum wait accepted from a Retry-After field, in seconds."""

# RFC 9110 section 15: temporary failures, not caused by the request.
_FOR_NOW = frozenset({408, 421, 425, 429})


class HttpsDelivery:
    """HTTPS client for reports. ``total`` is the limit per report in seconds; for the others see ``HttpsClient``."""

    def __init__(
        self,
        resolver: Resolver,
        clock: Clock,
        *,
        total: float = 60.0,
        ca_file: Path | None = None,
        allowed: tuple[IPNetwork, ...] = (),
        own: Callable[[], Container[Address]] | None = None,
        proxy: HostPort | None = None,
        untrusted_loop: UntrustedLoop | None = None,
    ) -> None:
        self._clock = clock
        self._total = total
        self._client = HttpsClient(
            resolver, ca_file=ca_file, allowed=allowed, own=own, proxy=proxy, untrusted_loop=untrusted_loop
        )

    async def post(self, rua: Rua, body: bytes) -> DeliveryResult:
        """Deliver the compressed report to the address; never raises."""
        try:
            async with asyncio.timeout(self._total):
                return await self._post(rua, body)
        except Exception as error:
            return _failure(fetch_error_for(error))

    async def close(self) -> None:
        """Close all connections. Deliveries in progress and all later ones fail."""
        await self._client.close()

    async def _post(self, rua: Rua, body: bytes) -> DeliveryResult:
        try:
            return await self._request(rua, body, verify=True)
        except errors.WebPkiError as error:
            flaw = f"{error.slug}: {error.detail}" if error.detail else error.slug
        except errors.CaCertificatesMissing as error:
            flaw = error.slug
        attempt = await self._request(rua, body, verify=False)
        return DeliveryResult(attempt.result, f"{attempt.detail} ({flaw})".lstrip(), attempt.wait, attempt.host)

    async def _request(self, rua: Rua, body: bytes, *, verify: bool) -> DeliveryResult:
        return await self._client.request(
            rua.host, rua.port, lambda stream: self._talk(stream, rua, body), total=self._total, verify=verify
        )

    async def _talk(self, stream: TlsStream, rua: Rua, body: bytes) -> DeliveryResult:
        url = URL(f"https://{rua.host}:{rua.port}{rua.target}", encoded=True)
        headers = {"Content-Type": "application/tlsrpt+gzip"}
        async with (
            HttpConnection(stream, headers) as connection,
            connection.session.post(url, data=body, allow_redirects=False) as response,
        ):
            return self._judged(response)

    def _judged(self, response: aiohttp.ClientResponse) -> DeliveryResult:
        # Only the status counts, so the body is not read.
        status = response.status
        if 200 <= status < 300:
            return DeliveryResult(Result.DELIVERED)
        if 300 <= status < 400:
            return DeliveryResult(
                Result.REFUSED, f"{status} to {sanitize(response.headers.get('Location', 'nowhere'))}"
            )
        if status in _FOR_NOW or status >= 500:
            return DeliveryResult(
                Result.DEFERRED, str(status), self._wait(response.headers.get("Retry-After", "")), host=True
            )
        return DeliveryResult(Result.GONE if status == 410 else Result.REFUSED, str(status))

    def _wait(self, value: str) -> float:
        """Return the seconds of a Retry-After value, or 0 if it is invalid (RFC 9110 section 10.2.3)."""
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


def _failure(error: errors.PolicyFetchError) -> DeliveryResult:
    """Return the result for a connection error, named as in policy fetching."""
    name = error.slug.removeprefix("policy-")
    return DeliveryResult(Result.DEFERRED, f"{name}: {error.detail}" if error.detail else name, host=True)
