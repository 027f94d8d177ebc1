"""The configuration: sections, values, loading and checking."""

from .loading import DEFAULT_PATH, Loaded, load, load_with_origins
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
    "ZoneSettings",
    "load",
    "load_with_origins",
]
