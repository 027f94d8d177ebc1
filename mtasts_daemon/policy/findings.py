"""Findings for TLS reports (RFC 8460) that no TLS session of Postfix shows."""

from collections.abc import Callable
from dataclasses import dataclass

from .cache_entry import CacheEntry
from .dane import DaneVerdict
from .mtasts import StsPolicy

__all__ = ["DaneFinding", "Finding", "FindingSink", "MxHostsFinding", "PolicyProblem"]


@dataclass(frozen=True, slots=True)
class PolicyProblem:
    """Discovery or fetch of the entry's policy failed; ``problem`` is the slug of the error."""

    entry: CacheEntry
    problem: str


@dataclass(frozen=True, slots=True)
class MxHostsFinding:
    """The domain's policy and its MX hosts, in order of preference."""

    domain: str
    policy: StsPolicy
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DaneFinding:
    """The verdict of a DANE discovery, without replacements for failed lookups."""

    verdict: DaneVerdict


Finding = PolicyProblem | MxHostsFinding | DaneFinding
FindingSink = Callable[[Finding], None]
"""Receives a finding; neither waits nor raises."""
