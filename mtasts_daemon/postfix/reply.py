"""The reply to a lookup, independent of the protocol."""

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from ..errors import ReplyError
from ..policy.decision import Answer, Decision, Dialect
from . import policy_table

__all__ = ["NOT_FOUND", "Reply", "ReplyKind", "reply_to"]


class ReplyKind(Enum):
    """Kinds of replies. The other codes of the protocols defer mail like TEMP."""

    FOUND = "found"
    NOT_FOUND = "not found"
    TEMPORARY = "temporary"


class Reply(NamedTuple):
    """``text`` is the policy-table entry of FOUND, the reason of TEMPORARY, and empty for NOT_FOUND.

    ``shortened`` names the part of the entry that was omitted because of the protocol's limit.
    """

    kind: ReplyKind
    text: str = ""
    shortened: str | None = None


NOT_FOUND = Reply(ReplyKind.NOT_FOUND)


def reply_to(decision: Decision, policy_domain: str, dialect: Dialect, limit: int, hosts: Sequence[str] = ()) -> Reply:
    """Return the reply for a decision, with at most ``limit`` characters of text.

    ``hosts`` are the domain's MX hosts if known: an entry that must be shortened keeps their patterns.
    """
    policy = decision.policy
    try:
        match decision.answer:
            case Answer.SECURE if policy is not None:
                entry: policy_table.Rendered | None = policy_table.secure(policy_domain, policy, dialect, limit, hosts)
            case Answer.LEVEL if policy is not None:
                entry = policy_table.level_with_policy(decision.text, policy_domain, policy, limit)
            case Answer.FIXED if dialect is Dialect.PLAIN and _needs_tlsrpt(decision.text):
                raise ReplyError(
                    "the reply of the override needs Postfix 3.10, but this map name is for older versions"
                )
            case Answer.FIXED:
                entry = policy_table.Rendered(decision.text)
            case Answer.DANE | Answer.DANE_ONLY:
                entry = policy_table.Rendered(decision.answer.value)
            case Answer.TEMP:
                return Reply(ReplyKind.TEMPORARY, decision.text)
            case _:
                entry = None
    except ReplyError as error:
        # A policy is in force and cannot be expressed. Delivery without it would be a downgrade.
        return Reply(ReplyKind.TEMPORARY, f"mtasts-daemon: {policy_domain}: {error.sentence}")
    return NOT_FOUND if entry is None else Reply(ReplyKind.FOUND, entry.text, entry.shortened)


def _needs_tlsrpt(text: str) -> bool:
    # Start-up does not wait for its grammar if no override has a reply.
    from .fixed_reply import needs_tlsrpt

    return needs_tlsrpt(text)
