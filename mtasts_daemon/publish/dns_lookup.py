"""Read a published domain's DNS records with the daemon's resolver."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from ..errors import DnsError
from ..policy.dane import mx_hosts
from ..policy.dns_answer import DnsAnswer
from ..ports import Resolver
from .dns_records import Endpoint, ObservedDns
from .policy_text import policy_host_of

__all__ = ["host_addresses", "observe_dns", "read_mx_hosts"]


async def read_mx_hosts(resolver: Resolver, domain: str) -> tuple[str, ...]:
    """Return the MX hosts of a domain, none for a null MX. Raises ``DnsError`` if they cannot be looked up."""
    answer = await resolver.mx(domain)
    if not answer.exists and not answer.records:
        return ()
    return tuple(dict.fromkeys(host.lower() for host in mx_hosts(answer, domain)))


async def host_addresses(resolver: Resolver, host: str) -> frozenset[str]:
    """Return the addresses of a host. Raises ``DnsError`` if one family cannot be looked up and the other has none."""
    answers = await asyncio.gather(resolver.a(host), resolver.aaaa(host), return_exceptions=True)
    found: set[str] = set()
    failures: list[DnsError] = []
    for answer in answers:
        if isinstance(answer, DnsError):
            failures.append(answer)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            found.update(answer.records)
    if failures and not found:
        raise failures[0]
    return frozenset(found)


async def observe_dns(
    resolver: Resolver, domain: str, endpoint: Endpoint, delegate_to: str | None = None
) -> ObservedDns:
    """Look up all names of a published domain at the same time. Never raises ``DnsError``: see ``problems``."""
    sts, host, tlsrpt = f"_mta-sts.{domain}", policy_host_of(domain), f"_smtp._tls.{domain}"
    target = policy_host_of(delegate_to) if delegate_to is not None else endpoint.host
    problems: dict[str, str] = {}
    texts, reports, sts_cname, host_cname, addresses, endpoint_addresses = await asyncio.gather(
        _records(resolver.txt(sts), sts, problems),
        _records(resolver.txt(tlsrpt), tlsrpt, problems),
        _records(resolver.cname(sts), sts, problems),
        _records(resolver.cname(host), host, problems),
        _addresses(resolver, host, problems),
        _addresses(resolver, target, {}) if target is not None else _nothing(),
    )
    return ObservedDns(
        texts,
        reports,
        addresses,
        sts_cname[0] if sts_cname else "",
        host_cname[0] if host_cname else "",
        endpoint_addresses,
        problems,
    )


async def _records(asked: Awaitable[DnsAnswer[Any]], name: str, problems: dict[str, str]) -> tuple[Any, ...]:
    try:
        return tuple((await asked).records)
    except DnsError as error:
        problems[name] = error.sentence
        return ()


async def _addresses(resolver: Resolver, host: str, problems: dict[str, str]) -> frozenset[str]:
    try:
        return await host_addresses(resolver, host)
    except DnsError as error:
        problems.setdefault(host, error.sentence)
        return frozenset()


async def _nothing() -> frozenset[str]:
    return frozenset()
