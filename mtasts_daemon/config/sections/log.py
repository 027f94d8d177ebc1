"""The section ``log``: log lines on standard error."""

from typing import Literal

from pydantic import Field

from ..fields import Section

__all__ = ["LogSettings"]


class LogSettings(Section):
    """Log lines on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The lowest level that is logged."
    )
    format: Literal["auto", "plain", "journald", "json"] = Field(
        default="auto", description="The form of lines. auto is journald under systemd, otherwise plain."
    )
