"""The reply to a lookup, before a protocol gives it its form."""

from dataclasses import dataclass
from enum import Enum

__all__ = ["NOT_FOUND", "Reply", "ReplyKind"]


class ReplyKind(Enum):
    """The replies this program gives; the other codes of the protocols defer mail just as TEMP does."""

    FOUND = "found"
    NOT_FOUND = "not found"
    TEMPORARY = "temporary"


@dataclass(frozen=True, slots=True)
class Reply:
    """``text`` is the policy-table entry of FOUND, the reason of TEMPORARY, and empty for NOT_FOUND."""

    kind: ReplyKind
    text: str = ""


NOT_FOUND = Reply(ReplyKind.NOT_FOUND)
