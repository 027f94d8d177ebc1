"""Entries on their way out and in: what ``export`` gives, ``import`` takes."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any

from ..errors import PolicySyntaxError
from ..policy.cache_entry import CacheEntry, HeldPolicy
from ..policy.mtasts import MAX_BODY, parse_policy
from ..policy.next_hop import policy_domain
from .http import HttpProblem
from .service import AdminService

__all__ = ["exported", "imported"]

_MAX_ENTRIES = 1000
_RECORD_ID = re.compile(r"[A-Za-z0-9]{1,32}\Z")


async def exported(control: AdminService, after: str, limit: int) -> dict[str, Any]:
    """A page of the entries behind the domain ``after``, each with its policy's text."""
    found = await control.parts.store.page(after, limit)
    shown = [
        {
            "domain": entry.domain,
            "record_id": entry.held.record_id,
            "body": entry.held.body.decode("utf-8", "replace"),
            "fetched_at": entry.held.fetched_at,
            "valid_until": entry.held.valid_until,
            "first_used": entry.first_used,
            "last_used": entry.last_used,
        }
        for entry in found
        if entry.held is not None
    ]
    return {"entries": shown, "next": found[-1].domain if len(found) == limit else None}


async def imported(control: AdminService, given: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the good ones of the entries given; how many, and what was wrong with the others."""
    entries = given.get("entries")
    if not isinstance(entries, list) or len(entries) > _MAX_ENTRIES:
        raise HttpProblem(400, "body-invalid", f"entries is a list of at most {_MAX_ENTRIES}")
    now = control.parts.clock.wall()
    # Parsing thousands of policies would hold up lookups.
    good, refused = await asyncio.to_thread(_read, entries, now)
    return {**await control.keep(good), "refused": refused}


def _read(entries: list[Any], now: float) -> tuple[list[CacheEntry], list[dict[str, str]]]:
    good: list[CacheEntry] = []
    refused: list[dict[str, str]] = []
    for entry in entries:
        try:
            good.append(_entry(entry, now))
        except PolicySyntaxError as error:
            refused.append({"domain": str(entry["domain"])[:253], "reason": error.sentence})
        except ValueError as error:
            refused.append({"domain": str(entry["domain"])[:253], "reason": f"it is not an entry: {error}"[:200]})
        except (KeyError, TypeError, AttributeError):
            domain = entry.get("domain") if isinstance(entry, dict) else ""
            refused.append({"domain": str(domain)[:253], "reason": "it is not an entry: a field is missing or no text"})
    return good, refused


def _entry(given: Any, now: float) -> CacheEntry:
    domain, record_id = policy_domain(given["domain"]), given["record_id"]
    if not _RECORD_ID.match(record_id):
        raise ValueError("its record_id is none")
    body = given["body"].encode()
    if len(body) > MAX_BODY:
        raise ValueError("its policy is too large")
    policy = parse_policy(body)
    fetched_at = _moment(given["fetched_at"], now)
    # RFC 8461 section 3.2: a policy lives for its max_age, whatever whoever exported it says.
    if fetched_at + policy.max_age < now:
        raise ValueError("its policy has expired")
    held = HeldPolicy(record_id, body, policy, fetched_at, fetched_at + policy.max_age)
    used = _moment(given.get("last_used", now), now)
    return CacheEntry(domain, held, first_used=_moment(given.get("first_used", used), now), last_used=used)


def _moment(value: object, now: float) -> float:
    """A moment of the past."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15:
        raise ValueError("a moment is not a number of seconds")
    return min(float(value), now)
