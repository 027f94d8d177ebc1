"""HTTPS to hosts whose names and addresses are in the hands of strangers.

A host is looked up with our own resolver, and only addresses that ``policy.addresses`` does not refuse are given.
"""

import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from itertools import chain, zip_longest
from pathlib import Path

import aiohttp

from .. import __version__, errors
from ..policy.dns_answer import DnsAnswer
from ..ports import Resolver, result_or_error
from ..text import sanitize
from .address_filter import Address, IPNetwork, refusal_reason
from .connector import BoundedConnector

__all__ = ["HttpsClient", "client_tls", "session"]

_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*", re.ASCII | re.IGNORECASE)
"""RFC 1035 section 2.3.4; a policy domain may be too long for its policy host."""

_ADDRESSES_TRIED = 4
_ADDRESSES_VETTED = 16
"""Of each family; an answer may hold thousands."""


class HttpsClient:
    """Finds addresses of hosts. ``allowed`` networks are always permitted; ``own`` returns this host's addresses."""

    def __init__(
        self, resolver: Resolver, allowed: tuple[IPNetwork, ...], own: Callable[[], frozenset[Address]]
    ) -> None:
        self._resolver = resolver
        self._allowed = allowed
        self._own = own

    async def vetted(self, host: str) -> Sequence[Address]:
        """The addresses to try, in order, from one to four, as soon as the resolver has both answers or has failed.

        Raises a ``PolicyFetchError``.
        """
        if not _HOST_NAME.fullmatch(host):
            # what cannot be a host name would fail within asyncio's TLS, and stay there until the time is up
            raise errors.PolicyHostNotFound(f"{sanitize(host)} is not a host name")
        asked = self._resolver.aaaa(host), self._resolver.a(host)
        for one in asked:
            with suppress(errors.DnsError):
                await one
        answers = [result_or_error(one) for one in asked]
        found = [answer.records[:_ADDRESSES_VETTED] for answer in answers if isinstance(answer, DnsAnswer)]
        # RFC 8305 section 4: the families take turns, so that a broken one costs one attempt only
        candidates = [text for text in chain(*zip_longest(*found)) if text is not None]
        if not candidates:
            for answer in answers:
                if isinstance(answer, errors.DnsError):
                    raise errors.PolicyHostLookupFailed(f"{host}: {sanitize(str(answer))}") from answer
            raise errors.PolicyHostNotFound(host)
        return self._permitted(candidates)

    def _permitted(self, candidates: Sequence[str]) -> Sequence[Address]:
        own, refused = self._own(), ""
        vetted: dict[Address, None] = {}
        for text in candidates:
            if reason := refusal_reason(text, self._allowed, own):
                refused = refused or f"{sanitize(text)}: {reason}"
            else:
                vetted[ip_address(text)] = None
        if not vetted:
            raise errors.PolicyAddressRefused(refused)
        return tuple(vetted)[:_ADDRESSES_TRIED]


def client_tls(ca_file: Path | None) -> ssl.SSLContext:
    """How to speak TLS as an HTTPS client; ``ca_file`` replaces the system's trust anchors.

    Raises ``ConfigError`` when the file cannot be read.
    """
    # not create_default_context, whose strictness differs between Python versions, and which may log keys
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # RFC 8461 section 7.2 and BCP 195
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # RFC 8461 section 3.3: the DNS-ID, never the common name
    context.hostname_checks_common_name = False
    # RFC 9325 section 4.1: DHE should not be; its parameters are the server's to choose, and a key exchange with
    # 10,000 bits of them takes the event loop seconds
    offered = [cipher["name"] for cipher in context.get_ciphers() if cipher["kea"] != "kx-dhe"]
    context.set_ciphers(":".join(offered))
    # A gap that remains: OpenSSL 3.0 to 3.4 offers the groups up to ffdhe8192 in TLS 1.3, and a policy host that
    # insists on that one takes the event loop twice 70 ms (3.5 ends with ffdhe3072: twice 5). The ssl module sets one
    # group or leaves them all; one alone would lose hosts that have another. OpenSSL's own configuration can.
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is None:
        context.load_default_certs()
        return context
    try:
        context.load_verify_locations(ca_file)
    except OSError as error:
        # ssl.SSLError, for a file without certificates, is an OSError too
        raise errors.ConfigError(f"{ca_file}: {error.strerror or error}") from error
    return context


def session(connector: BoundedConnector, headers: Mapping[str, str]) -> aiohttp.ClientSession:
    """A session without cookies, proxies, decompression and reuse of connections; it sends ``headers`` each time."""
    return aiohttp.ClientSession(
        connector=connector,
        headers={**headers, "Connection": "close", "User-Agent": f"mtasts-daemon/{__version__}"},
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        max_line_size=8190,
        max_field_size=8190,
    )
