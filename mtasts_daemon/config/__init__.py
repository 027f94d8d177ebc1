"""The configuration: sections, values, loading and checking."""

from .loading import DEFAULT_PATH, Loaded, ReloadResult, load, load_with_origins
from .model import Config
from .problems import ConfigProblems, Origin, Problem
from .sections.overrides import OverrideSettings
from .sections.zones import ZoneSettings

__all__ = [
    "DEFAULT_PATH",
    "Config",
    "ConfigProblems",
    "Loaded",
    "Origin",
    "OverrideSettings",
    "Problem",
    "ReloadResult",
    "ZoneSettings",
    "load",
    "load_with_origins",
]
