"""The configuration: what may be written, and reading it."""

from .loading import DEFAULT_PATH, Loaded, load, load_with_origins
from .model import Config, OverrideSettings, ZoneSettings
from .problems import ConfigProblems, Origin, Problem

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
