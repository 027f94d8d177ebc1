"""The steps of a refresh as text."""

from ..policy.cache_entry import CacheEvent, PolicyFailed, PolicyFetched, TxtAbsent, TxtFailed, TxtFound, TxtInvalid
from .explanation import Step

__all__ = ["refresh_step"]


def refresh_step(domain: str, event: CacheEvent) -> Step:
    """Return the step for what DNS or the policy host answered."""
    name, txt, fetch = f"_mta-sts.{domain}", ("TXT record", "RFC 8461 3.1"), ("policy fetch", "RFC 8461 3.3")
    match event:
        case TxtFound():
            return Step(*txt, f"{name}: id {event.record_id}", True)
        case TxtAbsent():
            return Step(*txt, f"{name}: no record begins with v=STSv1;")
        case TxtInvalid() | TxtFailed():
            return Step(*txt, f"{name}: {event.detail} ({event.problem})", False)
        case PolicyFetched():
            policy = event.policy
            return Step(*fetch, f"mode {policy.mode.value}, max_age {policy.max_age}, {len(event.body)} bytes", True)
        case PolicyFailed():
            return Step(*fetch, f"{event.detail} ({event.problem})", False)
