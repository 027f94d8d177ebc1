"""Findings for TLS reports (RFC 8460) that no TLS session of Postfix shows."""

from collections.abc import Callable
from typing import NamedTuple

from .cache_entry import CacheEntry
from .dane import DaneVerdict
from .mtasts import StsPolicy

__all__ = ["DaneFinding", "Finding", "FindingSink", "MxHostsFinding", "PolicyProblem"]


class PolicyProblem(NamedTuple):
    """Discovery or fetch of the entry's policy failed; ``problem`` is the slug of the error."""

    entry: CacheEntry
    problem: str


class MxHostsFinding(NamedTuple):
    """The domain's policy and its MX hosts, in order of preference."""

    domain: str
    policy: StsPolicy
    hosts: tuple[str, ...]


class DaneFinding(NamedTuple):
    """The verdict of a DANE discovery, without replacements for failed lookups."""

    verdict: DaneVerdict


Finding = PolicyProblem | MxHostsFinding | DaneFinding
FindingSink = Callable[[Finding], None]
"""Receives a finding; neither waits nor raises."""
