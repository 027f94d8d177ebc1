"""Changes of policies, as log events."""

import logging
from typing import Any

from ..log import log_event
from ..policy.cache_entry import CacheEntry
from ..policy.mtasts import Mode

__all__ = ["log_policy_event"]


def log_policy_event(event: str, entry: CacheEntry) -> None:
    """Log a transition's event with the fields of the entry that it concerns."""
    fields: dict[str, Any] = {"domain": entry.domain}
    level = logging.INFO
    if event in ("policy-learned", "policy-changed", "policy-renewed") and entry.held is not None:
        held = entry.held
        fields |= {"mode": held.policy.mode.value, "id": held.record_id, "max_age": held.policy.max_age}
        fields["mx"] = ",".join(pattern.text for pattern in held.policy.mx)
        level = logging.DEBUG if event == "policy-renewed" else logging.INFO
    elif entry.failure is not None and event.endswith("failed"):
        failure = entry.failure
        fields |= {"reason": failure.problem, "attempt": failure.count, "detail": failure.detail}
        # RFC 8461 section 3.3: the administrator is alerted, unless the policy says none.
        held_mode = entry.held.policy.mode if entry.held is not None else Mode.NONE
        level = logging.INFO if held_mode is Mode.NONE else logging.WARNING
    log_event(event, level=level, **fields)
