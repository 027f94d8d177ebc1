"""The section ``overrides``: exceptions for single policy domains."""

from typing import Literal

from pydantic import Field, StrictBool, StrictStr, field_validator, model_validator

from ...errors import ReplyError
from ...policy.next_hop import policy_domain
from ...text import sanitize
from ..fields import Section
from ..problems import BadValue, Unresolved

__all__ = ["OverrideSettings", "override_domain"]


class OverrideSettings(Section):
    """An exception for one policy domain: one of skip, treat_as and reply."""

    skip: StrictBool = Field(default=False, description="Answer as if the domain had no policy.")
    treat_as: Literal["testing", "enforce"] | None = Field(
        default=None,
        description="Use the domain's policy as if its mode were this. A policy with mode none is not changed.",
    )
    reply: StrictStr | None = Field(
        default=None,
        description="Answer with this right-hand side of a Postfix TLS policy table, without any discovery.",
    )
    reason: StrictStr = Field(description="The reason. It is logged and shown, and required.")

    @field_validator("reply")
    @classmethod
    def _postfix_accepts(cls, value: str | None) -> str | None:
        if value is not None:
            # Start-up does not wait for its grammar if no override has a reply.
            from ...postfix.fixed_reply import check_fixed_reply

            try:
                check_fixed_reply(value)
            except ReplyError as error:
                raise BadValue(f"Postfix would defer all mail with this: {sanitize(error.detail, 200)}") from None
        return value

    @field_validator("reason")
    @classmethod
    def _one_line(cls, value: str) -> str:
        line = " ".join(value.split())
        if not line:
            raise BadValue("is empty", "write the reason for the next administrator")
        if len(line) > 1000:
            raise BadValue("is longer than 1000 characters")
        return line

    @model_validator(mode="after")
    def _one_of_three(self) -> "OverrideSettings":
        given = [name for name in ("skip", "treat_as", "reply") if getattr(self, name)]
        if not given:
            raise Unresolved("has no effect", "add one of skip: true, treat_as, reply")
        if len(given) > 1:
            raise BadValue(f"has {' and '.join(given)}, which exclude each other", "keep one")
        return self


def override_domain(text: str) -> str:
    """Return a policy domain in lower-case A-labels, as overrides are stored. Raises ``BadValue``."""
    try:
        return policy_domain(text)
    except ValueError as error:
        raise BadValue(f'"{sanitize(text)}" is not a policy domain: {error}') from None
