"""What no TLS session of Postfix's can show, noted where it is met, for the reports of RFC 8460."""

from collections.abc import Callable
from dataclasses import dataclass

from .cache_entry import CacheEntry
from .dane import DaneVerdict
from .mtasts import StsPolicy

__all__ = ["Finding", "FindingSink", "HostsSeen", "PolicyProblem", "Walked"]


@dataclass(frozen=True, slots=True)
class PolicyProblem:
    """An attempt to have the entry's policy failed; ``problem`` is the slug of the error."""

    entry: CacheEntry
    problem: str


@dataclass(frozen=True, slots=True)
class HostsSeen:
    """The domain's MX hosts, in order of preference, beside its policy."""

    domain: str
    policy: StsPolicy
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Walked:
    """What a DANE walk found, with nothing remembered in place of what failed."""

    verdict: DaneVerdict


Finding = PolicyProblem | HostsSeen | Walked
FindingSink = Callable[[Finding], None]
"""Takes a note; it neither waits nor raises."""
