"""What becomes of domains' policies, as the log tells it."""

import logging
from typing import Any

from ..counters import Counters
from ..log import log_event
from ..policy.cache_entry import CacheEntry
from ..policy.dane import unmatched
from ..policy.decision import Answer, Decision
from ..policy.mtasts import Mode, StsPolicy

__all__ = ["MxMismatches", "tell_of_policy"]

_MAX_UNDELIVERABLE = 1000


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
        held_mode = entry.held.policy.mode if entry.held is not None else Mode.NONE
        level = logging.INFO if held_mode is Mode.NONE else logging.WARNING
    log_event(told, level=level, **fields)


class MxMismatches:
    """The domains whose policies permit none of their MX hosts, of which the last 1,000 are remembered."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        # Hashes of the policy and of the hosts, since both can be large.
        self._domains: dict[str, tuple[int, int]] = {}

    @property
    def domains(self) -> list[str]:
        """Those domains; what became of their policies since then is not known here."""
        return list(self._domains)

    def look_at(self, domain: str, policy: StsPolicy | None, hosts: tuple[str, ...]) -> None:
        """Tell once of a policy that permits none of the domain's MX hosts (RFC 8461 section 4.1)."""
        if policy is None or policy.mode is not Mode.ENFORCE:
            return
        if not unmatched(policy, hosts):
            self._domains.pop(domain, None)
            return
        found = (hash(policy), hash(hosts))
        if self._domains.pop(domain, None) == found:
            self._domains[domain] = found
            return
        while len(self._domains) >= _MAX_UNDELIVERABLE:
            del self._domains[next(iter(self._domains))]
        self._domains[domain] = found
        self._counters.policies_unmatched += 1
        log_event(
            "policy-permits-no-mx-host",
            level=logging.WARNING,
            domain=domain,
            mx=",".join(pattern.text for pattern in policy.mx),
            hosts=",".join(hosts),
            meaning="the domain cannot be delivered to until its policy or its MX records are corrected",
        )

    def reason(self, domain: str, decision: Decision) -> str:
        """Why mail that goes by the decision is deferred, as far as is known; empty where nothing says that it is."""
        if decision.answer is Answer.DANE_ONLY and decision.reason == "dane-all-hosts-failed":
            return decision.reason
        found = self._domains.get(domain) if decision.answer is Answer.SECURE else None
        return "policy-permits-no-mx-host" if found is not None and found[0] == hash(decision.policy) else ""
