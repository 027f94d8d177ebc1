"""Make parts of the daemon from the configuration."""

import importlib
from collections.abc import Callable, Sequence

from ..config import Config
from ..dns.resolver import DnsCounters, DnsResolver
from ..https.untrusted_loop import UntrustedLoop
from ..lookup.settings import Settings
from ..policy.cache_entry import CacheRules
from ..policy.decision import Dialect, Override, Zone
from ..policy.draft2017 import policy_format
from ..policy.mtasts import Mode
from ..policy.precedence import DaneMode, Partial, auto_mode
from ..ports import PolicyFetcher, Resolver
from ..postfix.main_cf import main_cf_value

__all__ = ["fetcher_for", "resolver_for", "settings_for", "zones_for"]

_HTTPS = "mtasts_daemon.https.policy_fetcher"


_LEVELS = frozenset({"none", "may", "encrypt", "dane", "dane-only", "verify", "secure"})
"""The levels that a reply may repeat."""


def zones_for(config: Config, main_cf: str | None) -> dict[str, Zone]:
    """Return the zones by map name.

    What the configuration leaves open is read from this host's ``main_cf``, None if unreadable: ``dane: auto`` becomes
    on or off, and ``default_level`` becomes the level of Postfix, if it is set there without a ``$name``.
    """
    support = None if main_cf is None else main_cf_value(main_cf, "smtp_dns_support_level")
    level = "" if main_cf is None else main_cf_value(main_cf, "smtp_tls_security_level")
    zones: dict[str, Zone] = {}
    for name, zone in config.zones.items():
        mode = DaneMode(zone.dane)
        dane = auto_mode(name, support) if mode is DaneMode.AUTO else mode
        default_level = zone.default_level or (level if level in _LEVELS else None)
        zones[name] = Zone(name, Dialect(zone.dialect), default_level, dane, Partial(zone.dane_partial))
    return zones


def settings_for(config: Config, main_cf: str | None) -> Settings:
    """Return the settings of the policy service on a host with this ``main_cf``."""
    cache = config.cache
    return Settings(
        zones=zones_for(config, main_cf),
        default_zone=config.default_zone,
        overrides={
            domain: Override(
                override.reason,
                skip=override.skip,
                treat_as=None if override.treat_as is None else Mode(override.treat_as),
                reply=override.reply,
            )
            for domain, override in config.overrides.items()
        },
        rules=CacheRules(
            txt_ttl_min=cache.txt_ttl_min,
            txt_ttl_max=cache.txt_ttl_max,
            txt_failure_ttl=min(cache.txt_ttl_min, 60.0),
            refresh_after=cache.refresh_after,
            retry_min=cache.retry_min,
            retry_max=cache.retry_max,
        ),
        deadline=config.lookup.deadline,
        max_entries=config.lookup.ready_replies,
        max_bytes=config.lookup.memory_bytes,
        policy_format=policy_format(draft_2017=config.compatibility.draft_2017),
    )


def resolver_for(
    config: Config,
    changed: Callable[[Sequence[str]], None] | None = None,
    counters: DnsCounters | None = None,
    unanswered: Callable[[], None] | None = None,
) -> DnsResolver:
    """Return a resolver that continues to count in ``counters``.

    ``changed`` is called with the addresses when resolv.conf names other resolvers, ``unanswered`` for each question
    that no resolver answered.
    """
    dns = config.dns
    servers = [(server.address, server.port) for server in dns.resolvers] or None
    return DnsResolver(
        servers,
        timeout=dns.timeout,
        trust_ad=dns.trust_ad,
        changed=changed,
        counters=counters,
        unanswered=unanswered,
    )


def fetcher_for(config: Config, resolver: Resolver, untrusted_loop: UntrustedLoop | None = None) -> PolicyFetcher:
    """Return the policy fetcher. Its imports take about half a second."""
    https = importlib.import_module(_HTTPS)
    fetcher: PolicyFetcher = https.HttpsPolicyFetcher(
        resolver,
        ca_file=config.https.ca_file,
        allowed=config.https.allow_addresses,
        total=config.https.timeout,
        limit=config.https.max_fetches,
        per_network=config.https.max_fetches_per_network,
        policy_format=policy_format(draft_2017=config.compatibility.draft_2017),
        proxy=config.https.proxy,
        untrusted_loop=untrusted_loop,
    )
    return fetcher
