"""What became of a domain's policy, as the log tells it."""

import logging
from typing import Any

from .observe import tell
from .policy import sts
from .policy.entry import CacheEntry

__all__ = ["tell_of_policy"]


def tell_of_policy(told: str, entry: CacheEntry) -> None:
    """Log ``told``, a transition's event name, with what matters of the entry."""
    fields: dict[str, Any] = {"domain": entry.domain}
    level = logging.INFO
    if told in ("policy-learned", "policy-changed", "policy-renewed") and entry.held is not None:
        held = entry.held
        fields |= {"mode": held.policy.mode.value, "id": held.record_id, "max_age": held.policy.max_age}
        fields["mx"] = ",".join(pattern.text for pattern in held.policy.mx)
        level = logging.DEBUG if told == "policy-renewed" else logging.INFO
    elif entry.failure is not None and told.endswith("failed"):
        failure = entry.failure
        fields |= {"reason": failure.problem, "attempt": failure.count, "detail": failure.detail}
        # RFC 8461 section 3.3: the administrator is alerted, unless the policy says none.
        held_mode = entry.held.policy.mode if entry.held is not None else sts.Mode.NONE
        level = logging.INFO if held_mode is sts.Mode.NONE else logging.WARNING
    tell(told, level=level, **fields)
