"""The settings of lookups, which the daemon makes from its configuration and main.cf."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..policy.cache_entry import CacheRules
from ..policy.decision import Override, Zone
from ..policy.mtasts import RFC8461, PolicyFormat

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """The operator's settings, replaced as a whole on reload. Times in seconds, sizes in bytes."""

    zones: Mapping[str, Zone]
    """By lower-case map name."""
    default_zone: str
    overrides: Mapping[str, Override] = field(default_factory=dict)
    """By policy domain."""
    rules: CacheRules = field(default_factory=CacheRules)
    deadline: float = 5.0
    max_entries: int = 200_000
    max_bytes: int = 64 * 1024 * 1024
    policy_format: PolicyFormat = RFC8461
