"""Counts of published domains by condition. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .decision import Outcome
from .registry import PublishedDomain
from .state import PublishPhase

__all__ = ["DomainCounts", "count_domains"]


@dataclass(frozen=True, slots=True)
class DomainCounts:
    """Numbers of domains. ``modes`` are by the mode being served, ``findings`` by slug."""

    domains: int = 0
    modes: Mapping[str, int] = field(default_factory=dict)
    gated: int = 0
    with_findings: int = 0
    rollouts: int = 0
    removals: int = 0
    forced: int = 0
    unchecked: int = 0
    findings: Mapping[str, int] = field(default_factory=dict)


def count_domains(domains: Iterable[PublishedDomain]) -> DomainCounts:
    """Return the numbers. May run on a thread: it reads only."""
    modes: Counter[str] = Counter()
    findings: Counter[str] = Counter()
    phases: Counter[PublishPhase] = Counter()
    total = gated = with_findings = forced = unchecked = 0
    for one in domains:
        state = one.state
        live = state.live
        total += 1
        modes["none-served" if live is None else live.policy.mode.value] += 1
        phases[state.phase] += 1
        gated += one.outcome is Outcome.GATED
        with_findings += bool(one.findings)
        forced += bool(state.forced_reason)
        unchecked += not one.checked_at
        findings.update(finding.slug for finding in one.findings)
    return DomainCounts(
        total,
        dict(modes),
        gated,
        with_findings,
        phases[PublishPhase.TESTING] + phases[PublishPhase.ENFORCE_DAY],
        phases[PublishPhase.REMOVING],
        forced,
        unchecked,
        dict(findings),
    )
