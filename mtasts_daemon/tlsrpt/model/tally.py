"""Sum the events of one UTC day: sessions and failures by policy domain and policy.

A day of mail to one domain has many events and few sums. A hostile server, or a policy that changes with each fetch,
can exceed the caps; the excess is then added to sums with less detail, and the counts remain correct.
"""

from collections.abc import Container
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

from .event import Failure, Policy, TlsrptEvent

__all__ = ["DayRows", "DaySums", "PolicyRows", "Sums", "Tally", "policy_digest", "without_details", "without_texts"]


@dataclass(slots=True)
class Sums:
    """Session counts under one policy, and failure counts by their details.

    The failures may exceed the failed sessions. ``digest`` is the digest of the policy.
    """

    digest: str
    successful: int = 0
    failed: int = 0
    failures: dict[Failure, int] = field(default_factory=dict)

    def add(self, successful: int, failed: int, failures: dict[Failure, int]) -> None:
        """Add the other sums to these."""
        self.successful += successful
        self.failed += failed
        for failure, count in failures.items():
            self.failures[failure] = self.failures.get(failure, 0) + count


@dataclass(slots=True)
class Tally:
    """Sums of one day, ``YYYY-MM-DD``, by policy domain and then by policy."""

    day: str
    domains: dict[str, dict[Policy, Sums]] = field(default_factory=dict)

    def add(self, event: TlsrptEvent, times: int = 1) -> None:
        """Add an event that was received ``times`` times."""
        for outcome in event.outcomes:
            sums = self._sums(event.domain, outcome.policy)
            if outcome.failed:
                sums.failed += times
            else:
                sums.successful += times
            for failure in outcome.failures:
                sums.failures[failure] = sums.failures.get(failure, 0) + times

    def add_failure(self, domain: str, policy: Policy, failure: Failure, count: int = 1) -> None:
        """Add a failure without session; the session counts do not change."""
        self._sums(domain, policy).add(0, 0, {failure: count})

    def _sums(self, domain: str, policy: Policy) -> Sums:
        policies = self.domains.get(domain)
        if policies is None:
            policies = self.domains[domain] = {}
        sums = policies.get(policy)
        if sums is None:
            sums = policies[policy] = Sums(policy_digest(policy))
        return sums

    def drop(self, domain: str) -> int:
        """Remove the domain. Return the number of its sessions."""
        return sum(sums.successful + sums.failed for sums in self.domains.pop(domain).values())

    def fold_policies(self, domain: str, known: Container[str], room: int) -> None:
        """Keep at most ``room`` policies of the domain whose digest is unknown; remove the text of the others."""
        policies = self.domains[domain]
        for policy, sums in list(policies.items()):
            bare = without_texts(policy, domain)
            if policy == bare or sums.digest in known:
                continue
            if room > 0:
                room -= 1
                continue
            del policies[policy]
            self._sums(domain, bare).add(sums.successful, sums.failed, sums.failures)

    def fold_failures(self, domain: str, known: Container[tuple[str, Failure]], room: int) -> None:
        """Keep at most ``room`` unknown failures of the domain; remove the details of the others."""
        for sums in self.domains[domain].values():
            for failure in list(sums.failures):
                other = without_details(failure)
                if failure == other or (sums.digest, failure) in known:
                    continue
                if room > 0:
                    room -= 1
                    continue
                count = sums.failures.pop(failure)
                sums.failures[other] = sums.failures.get(other, 0) + count


class DaySums(NamedTuple):
    """Counts of a day: policy domains, all sessions, and failed sessions."""

    day: str
    domains: int
    sessions: int
    failures: int


class PolicyRows(NamedTuple):
    """Session counts under one policy, and failures with their counts, most frequent first."""

    policy: Policy
    successful: int
    failed: int
    failures: tuple[tuple[Failure, int], ...]


@dataclass(frozen=True, slots=True)
class DayRows:
    """Results of one policy domain on one day; ``policies`` is empty if there are none."""

    domain: str
    policies: tuple[PolicyRows, ...]


def without_texts(policy: Policy, domain: str) -> Policy:
    """Return the policy that replaces a domain's policies beyond the cap."""
    return Policy(policy.type, domain)


def without_details(failure: Failure) -> Failure:
    """Return the failure that replaces a domain's failures beyond the cap."""
    return Failure(failure.result_type)


def policy_digest(policy: Policy) -> str:
    """Return the key of a policy in the database: 128 bits in hexadecimal."""
    # No cleaned text contains NUL, so no two policies have the same key.
    kind = f"{int(policy.type)} {len(policy.strings)}"
    texts = "\0".join((kind, policy.domain, *policy.strings, *policy.mx_hosts))
    return blake2b(texts.encode(), digest_size=16).hexdigest()
