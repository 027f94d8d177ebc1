"""Domains whose enforced policies permit none of their MX hosts (RFC 8461 section 4.1)."""

import logging

from ..counters import Counters
from ..log import log_event
from ..policy.dane import unmatched
from ..policy.decision import Answer, Decision
from ..policy.mtasts import Mode, StsPolicy

__all__ = ["MxMismatches"]

_MAX_MISMATCHES = 1000


class MxMismatches:
    """The last 1,000 mismatches, each logged once."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        # Hashes of the policy and of the hosts, since both can be large.
        self._domains: dict[str, tuple[int, int]] = {}

    @property
    def domains(self) -> list[str]:
        """The domains, as last checked."""
        return list(self._domains)

    def check(self, domain: str, policy: StsPolicy | None, hosts: tuple[str, ...]) -> None:
        """Compare a policy with the domain's MX hosts; an empty ``hosts`` means that they are not known."""
        if policy is None or policy.mode is not Mode.ENFORCE:
            return
        if not unmatched(policy, hosts):
            self._domains.pop(domain, None)
            return
        found = (hash(policy), hash(hosts))
        if self._domains.pop(domain, None) == found:
            self._domains[domain] = found
            return
        while len(self._domains) >= _MAX_MISMATCHES:
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

    def deferral_reason(self, domain: str, decision: Decision) -> str:
        """Return why mail is deferred under the decision, as far as is known; empty if it is not."""
        if decision.answer is Answer.TEMP:
            return decision.reason
        if decision.answer is Answer.DANE_ONLY and decision.reason == "dane-all-hosts-failed":
            return decision.reason
        found = self._domains.get(domain) if decision.answer is Answer.SECURE else None
        return "policy-permits-no-mx-host" if found is not None and found[0] == hash(decision.policy) else ""
