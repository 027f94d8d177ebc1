"""Findings for TLS reports (RFC 8460) that no TLS session of Postfix shows."""

from collections.abc import Callable
from dataclasses import dataclass

from .cache_entry import CacheEntry
from .dane import DaneVerdict
from .mtasts import StsPolicy

__all__ = ["Finding", "FindingSink", "HostsSeen", "PolicyProblem", "Walked"]


@dataclass(frozen=True, slots=True)
class PolicyProblem:
    """Discovery or fetch of the entry's policy failed; ``problem`` is the slug of the error."""

    entry: CacheEntry
    problem: str


@dataclass(frozen=True, slots=True)
class HostsSeen:
    """The domain's policy and its MX hosts, in order of preference."""

    domain: str
    policy: StsPolicy
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Walked:
    """The verdict of a DANE discovery, without replacements for failed lookups."""

    verdict: DaneVerdict


Finding = PolicyProblem | HostsSeen | Walked
FindingSink = Callable[[Finding], None]
"""Receives a finding; neither waits nor raises."""
