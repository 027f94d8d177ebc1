"""The section ``compatibility``: formats that the RFCs replaced."""

from pydantic import Field, StrictBool

from ..fields import Section

__all__ = ["CompatibilitySettings"]


class CompatibilitySettings(Section):
    """Formats that the RFCs replaced."""

    draft_2017: StrictBool = Field(
        default=False,
        description="Also accept the policies and records of the drafts of 2017. No domain needs it today.",
    )
