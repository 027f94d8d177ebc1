"""The status of the daemon as JSON values; ``admin.api`` documents them."""

import os
import platform
from dataclasses import asdict
from typing import Any

from .. import __version__, log
from ..lookup.deferred_domains import DeferredDomain
from ..store.policy_store import MEMORY
from .service import AdminService

__all__ = ["status"]

_MOST_DOMAINS = 20
_COUNTS_FRESH = 10.0


async def status(control: AdminService) -> dict[str, Any]:
    """Return the status. Counts of policies are up to 10 s old, those of reports up to a minute."""
    parts, checks = control.parts, await control.checks()
    await control.count_policies(_COUNTS_FRESH)
    settings, reloaded = parts.service.settings, parts.reloaded()
    return {
        "version": __version__,
        "python": platform.python_version(),
        "pid": os.getpid(),
        "now": parts.clock.wall(),
        "started_at": control.started_at,
        "ready": all(check.ok for check in checks),
        "checks": [asdict(check) for check in checks],
        "listeners": list(parts.listeners.addresses),
        "log_level": log.level(),
        "lookups": _lookups(control),
        "cache": _cache(control),
        "deferred": {
            "total": len(control.deferred),
            "domains": [_deferred(one) for one in control.deferred[:_MOST_DOMAINS]],
        },
        "refresher": _refresher(control),
        "tlsrpt": _tlsrpt(control),
        "dns": {"validates": parts.dnssec.state},
        "zones": {
            name: {"dialect": zone.dialect.value, "default_level": zone.default_level, "dane": zone.dane.value}
            for name, zone in settings.zones.items()
        },
        "overrides": len(settings.overrides),
        "reload": {"at": reloaded.at, "ok": not reloaded.problems, "problems": list(reloaded.problems)},
    }


def _deferred(one: DeferredDomain) -> dict[str, Any]:
    return {
        "domain": one.domain,
        "reason": one.reason,
        "sentence": one.sentence,
        "since": one.since,
        "last_seen": one.last_seen,
    }


def _lookups(control: AdminService) -> dict[str, Any]:
    parts, counters = control.parts, control.parts.counters
    return {
        "total": counters.lookups,
        "hits": counters.cache_hits,
        "answers": counters.answers,
        "waiting": parts.lookups.waiting(),
        "connections": len(parts.lookups.connections),
        "malformed": counters.malformed_frames,
        **parts.history.rates(parts.clock.monotonic()),
    }


def _cache(control: AdminService) -> dict[str, Any]:
    parts, overview = control.parts, control.overview
    return {
        "modes": overview.modes,
        "failing": overview.failing,
        "expiring": overview.expiring,
        "enforce_at_risk": overview.enforce_at_risk,
        "in_memory": len(parts.service.policy_cache),
        "ready_replies": len(parts.lookups.reply_cache),
        "file": None if parts.store.path == MEMORY else parts.store.path,
    }


def _refresher(control: AdminService) -> dict[str, Any]:
    parts, overview = control.parts, control.overview
    return {
        "heartbeat_age": round(parts.clock.monotonic() - parts.refresher.heartbeat, 1),
        "under_way": parts.refresher.under_way,
        "due": overview.due,
        "due_since": overview.due_since,
        "refreshes": parts.counters.refreshes,
        "failures": parts.counters.refresh_failures,
        "last_success": parts.counters.refreshed_at or None,
    }


def _tlsrpt(control: AdminService) -> dict[str, Any]:
    parts, reports = control.parts, control.reports
    collected = parts.tlsrpt.collected
    return {
        "collecting": parts.tlsrpt.database is not None,
        "events": {
            "received": collected.received,
            "rejected": dict(collected.rejected),
            "last_at": collected.received_at or None,
        },
        "sending": control.sends_reports,
        "reports": None if reports is None else asdict(reports),
    }
