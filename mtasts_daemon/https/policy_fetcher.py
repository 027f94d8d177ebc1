"""Fetches policies over HTTPS (RFC 8461 section 3.3).

The policy host is looked up with our own resolver, and connected to at the very address that was vetted: the URL
given to aiohttp holds the address, while SNI, certificate and Host field are the name's. Nothing is followed,
decompressed, cached, kept open, or taken from the environment; every byte and second is counted.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import aiohttp
from yarl import URL

from .. import errors
from ..policy.mtasts import MAX_BODY
from ..ports import FetchedBody, Resolver
from ..text import sanitize
from .address_filter import Address, IPNetwork, network_prefix
from .client import HttpsClient, client_tls, session
from .connector import BoundedConnector
from .errors import translated
from .fetch_slots import FetchSlots
from .local_addresses import OwnAddresses

__all__ = ["HttpsPolicyFetcher"]

_TXT = "/.well-known/mta-sts.txt", frozenset({"text/plain"})
_DRAFT_JSON = "/.well-known/mta-sts.json", frozenset({"application/json", "text/json"})


class HttpsPolicyFetcher:
    """A ``PolicyFetcher``. Times are in seconds.

    ``ca_file`` replaces the system's trust anchors. ``allowed`` networks may be connected to whatever
    ``policy.addresses`` says; ``own`` tells this host's addresses. A fetch takes no more than ``total`` in all; an
    address that is not the last gets ``connect`` to stand a TLS connection. ``limit`` fetches run at once,
    ``per_network`` of them in one /24 or /56, and ``waiting`` more may queue. With ``draft_2017`` a policy that is
    404 is looked for where the 2017 draft has it.

    Raises ``ConfigError`` when ``ca_file`` cannot be read.
    """

    def __init__(
        self,
        resolver: Resolver,
        *,
        ca_file: Path | None = None,
        allowed: tuple[IPNetwork, ...] = (),
        own: Callable[[], frozenset[Address]] | None = None,
        port: int = 443,
        total: float = 60.0,
        connect: float = 5.0,
        limit: int = 64,
        per_network: int = 8,
        waiting: int = 10_000,
        draft_2017: bool = False,
    ) -> None:
        self._tls = client_tls(ca_file)
        self._hosts = HttpsClient(resolver, allowed, own or OwnAddresses())
        self._port = port
        self._total = total
        self._connect = connect
        self._slots = FetchSlots(limit, per_network, waiting)
        self._draft_2017 = draft_2017
        self._connector: BoundedConnector | None = None
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self, policy_domain: str, *, live: bool) -> FetchedBody:
        """GET the policy of ``policy_domain``; raises a ``PolicyFetchError``.

        One that is not ``live`` is ended with ``PolicyFetchBusy`` when it lasts, and others wait that may be quicker.
        """
        self._http()  # now, so that close() ends this fetch wherever it has come to
        with self._slots.entered(live):
            return await self._fetch(f"mta-sts.{policy_domain}", live)

    async def close(self) -> None:
        """Drop the connections; fetches under way fail, and so does every later one."""
        if self._connector is not None:
            self._connector.drop()
            await self._http().close()

    def _http(self) -> aiohttp.ClientSession:
        """The one session, made in the event loop that it is used in."""
        if self._session is None:
            self._connector = BoundedConnector(self._tls)
            self._session = session(self._connector, {"Accept": "text/plain, */*;q=0.1", "Accept-Encoding": "identity"})
        return self._session

    async def _fetch(self, host: str, live: bool) -> FetchedBody:
        deadline = asyncio.get_running_loop().time() + self._total
        try:
            async with asyncio.timeout_at(deadline):
                *others, last = await self._hosts.vetted(host)
        except TimeoutError:
            raise errors.PolicyHostLookupFailed(f"{host}: no answer in time") from None
        for address in others:
            try:
                return await self._fetch_from(address, host, live, deadline, self._connect)
            except (errors.PolicyConnectFailed, errors.PolicyFetchBusy):
                continue
        return await self._fetch_from(last, host, live, deadline, None)

    async def _fetch_from(
        self, address: Address, host: str, live: bool, deadline: float, connect: float | None
    ) -> FetchedBody:
        """Fetch from one address, draft included."""
        async with self._slots.held(network_prefix(address), live, deadline):
            try:
                body = await self._get(address, host, *_TXT, connect)
                draft = body is None and self._draft_2017
                if draft:
                    body = await self._get(address, host, *_DRAFT_JSON, connect)
            except Exception as error:
                raise translated(error, connect) from error
        if body is None:
            raise errors.PolicyHttpStatus("404")
        return FetchedBody(body, draft)

    async def _get(
        self, address: Address, host: str, path: str, media_types: frozenset[str], connect: float | None
    ) -> bytes | None:
        """The body at ``path``; None when the policy host says that there is none (404)."""
        async with self._http().get(
            URL.build(scheme="https", host=str(address), port=self._port, path=path),
            server_hostname=host,
            headers={"Host": host if self._port == 443 else f"{host}:{self._port}"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect),
            allow_redirects=False,
        ) as response:
            if response.status == 404:
                return None
            _judge_head(response, media_types)
            return await _body(response)


def _judge_head(response: aiohttp.ClientResponse, media_types: frozenset[str]) -> None:
    """Refuse what cannot be a policy before its body is read."""
    if 300 <= response.status < 400:
        # RFC 8461 section 3.3: 3xx MUST NOT be followed
        raise errors.PolicyRedirect(f"{response.status} to {sanitize(response.headers.get('Location', 'nowhere'))}")
    if response.status != 200:
        raise errors.PolicyHttpStatus(str(response.status))
    coding = response.headers.get("Content-Encoding", "identity")
    if coding.strip().lower() not in ("identity", ""):
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
        raise errors.PolicyTooLarge(f"{length} octets")


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    while piece := await response.content.readany():
        body += piece
        if len(body) > MAX_BODY:
            raise errors.PolicyTooLarge("the body goes on")
    return bytes(body)
