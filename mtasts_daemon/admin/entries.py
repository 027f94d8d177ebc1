"""Export and import of entries."""

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

__all__ = ["export_entries", "import_entries"]

_MAX_ENTRIES = 1000
_RECORD_ID = re.compile(r"[A-Za-z0-9]{1,32}\Z")


async def export_entries(control: AdminService, after: str, limit: int) -> dict[str, Any]:
    """Return a page of the entries after the domain ``after``, each with its policy's text."""
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


async def import_entries(control: AdminService, given: Mapping[str, Any]) -> dict[str, Any]:
    """Import the valid entries. Return how many, and why the others were rejected."""
    entries = given.get("entries")
    if not isinstance(entries, list) or len(entries) > _MAX_ENTRIES:
        raise HttpProblem(400, "body-invalid", f"entries is a list of at most {_MAX_ENTRIES}")
    now = control.parts.clock.wall()
    # Parsing thousands of policies would block lookups.
    good, refused = await asyncio.to_thread(_read, entries, now)
    return {**await control.import_entries(good), "refused": refused}


def _read(entries: list[Any], now: float) -> tuple[list[CacheEntry], list[dict[str, str]]]:
    good: list[CacheEntry] = []
    refused: list[dict[str, str]] = []
    for entry in entries:
        try:
            good.append(_entry(entry, now))
        except PolicySyntaxError as error:
            refused.append({"domain": str(entry["domain"])[:253], "reason": error.sentence})
        except ValueError as error:
            refused.append({"domain": str(entry["domain"])[:253], "reason": f"not a valid entry: {error}"[:200]})
        except (KeyError, TypeError, AttributeError):
            domain = entry.get("domain") if isinstance(entry, dict) else ""
            refused.append({"domain": str(domain)[:253], "reason": "not a valid entry: a field is missing or not text"})
    return good, refused


def _entry(given: Any, now: float) -> CacheEntry:
    domain, record_id = policy_domain(given["domain"]), given["record_id"]
    if not _RECORD_ID.match(record_id):
        raise ValueError("record_id is not 1 to 32 letters and digits")
    body = given["body"].encode()
    if len(body) > MAX_BODY:
        raise ValueError("the policy is too large")
    policy = parse_policy(body)
    fetched_at = _past_time(given["fetched_at"], now)
    # RFC 8461 section 3.2: a policy is valid for its max_age, regardless of the export.
    if fetched_at + policy.max_age < now:
        raise ValueError("the policy has expired")
    held = HeldPolicy(record_id, body, policy, fetched_at, fetched_at + policy.max_age)
    used = _past_time(given.get("last_used", now), now)
    return CacheEntry(domain, held, first_used=_past_time(given.get("first_used", used), now), last_used=used)


def _past_time(value: object, now: float) -> float:
    """Return a time in the past."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15:
        raise ValueError("a time is not a number of seconds")
    return min(float(value), now)
