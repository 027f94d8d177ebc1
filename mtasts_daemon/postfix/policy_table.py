"""Format policies as right-hand sides of smtp_tls_policy_maps.

Postfix ignores no error in such a text: one wrong token defers all mail to the domain. Therefore every token is made
from validated values and matched against a strict grammar again before it is emitted. No remote text passes, and
``match=`` is never empty or partial.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .. import errors
from ..policy.decision import Dialect
from ..policy.mtasts import MxPattern, StsPolicy

__all__ = ["LEVELS", "MATCH_NAME", "NAME", "Rendered", "level_with_policy", "secure"]


class Rendered(NamedTuple):
    """A policy-table entry, and the part that was omitted because of the limit, if any.

    ``shortened`` is ``policy-strings`` (version and mode remain), ``tlsrpt-attributes`` or ``mx-patterns``.
    """

    text: str
    shortened: str | None = None


_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
NAME = rf"(?=.{{1,255}}\Z)(?:{_LABEL}\.)*(?![0-9]+\Z){_LABEL}\Z"
_DOMAIN = re.compile(NAME)
_MX_PATTERN = re.compile(rf"(?=.{{1,255}}\Z)(?:\*\.)?{NAME}")
MATCH_NAME = re.compile(rf"\.?{NAME}")
_POLICY_STRING = re.compile(
    rf"version: STSv1\Z|mode: (?:enforce|testing|none)\Z|max_age: [0-9]{{1,10}}\Z|mx: (?:\*\.)?{NAME}"
)
_MX_ATTRIBUTE = " mx_host_pattern="
_STRING_ATTRIBUTE = " { policy_string = %s }"
_MATCH_KEYWORDS = ("nexthop", "dot-nexthop", "hostname")
LEVELS = ("none", "may", "encrypt", "fingerprint", "dane", "dane-only", "verify", "secure")


def secure(policy_domain: str, policy: StsPolicy, dialect: Dialect, limit: int, hosts: Sequence[str] = ()) -> Rendered:
    """Return the entry that enforces ``policy``, with at most ``limit`` characters.

    If it is too long, first the policy strings except version and mode are omitted, then the TLSRPT attributes, then
    patterns: those that permit none of ``hosts``, the current MX hosts, or otherwise the last ones. Fewer patterns are
    stricter, so this is safe. Raises ``ReplyError`` if no entry that Postfix accepts is possible.
    """
    _checked(_DOMAIN, policy_domain)
    if not policy.mx:
        raise errors.ReplyError("an enforced policy without mx patterns")
    # A hostile policy of 64 KiB has thousands of patterns: an entry that is too long is never built.
    if sum(len(pattern.text) for pattern in policy.mx) <= limit:
        text = _secure(policy.mx)
        full = _with_policy(text, policy_domain, policy, limit) if dialect is Dialect.TLSRPT else None
        if full is not None:
            return full
        if len(text) <= limit:
            return Rendered(text, "tlsrpt-attributes" if dialect is Dialect.TLSRPT else None)
    return Rendered(_secure_shortened(policy.mx, limit, hosts), "mx-patterns")


def level_with_policy(level: str, policy_domain: str, policy: StsPolicy, limit: int) -> Rendered | None:
    """Return the operator's own ``level`` with the policy's attributes for TLS reports (Postfix 3.10).

    Without ``match=`` nothing is enforced, and Postfix filters no MX hosts (smtp_tls_policy.c needs both for that).
    Return None if this is not possible: at levels without such attributes, without mx patterns (Postfix 3.10.0 to
    3.10.5 crash), or above ``limit``. Raises ``ReplyError`` for an unknown level.
    """
    if level not in LEVELS:
        raise errors.ReplyError(f"no such level: {level!a}")
    # At level none Postfix warns about each attribute, and fingerprint is not related to a policy.
    if level in ("none", "fingerprint") or not policy.mx:
        return None
    return _with_policy(level, policy_domain, policy, limit)


def _with_policy(start: str, policy_domain: str, policy: StsPolicy, limit: int) -> Rendered | None:
    # policy_type=sts needs at least one mx_host_pattern and one policy_string (NULL crash in 3.10.0 to 3.10.5).
    if len(start) + sum(len(_MX_ATTRIBUTE) + len(pattern.text) for pattern in policy.mx) > limit:
        return None
    attributes = f"{start} policy_type=sts policy_domain={_checked(_DOMAIN, policy_domain)}" + "".join(
        _MX_ATTRIBUTE + _checked(_MX_PATTERN, pattern.text) for pattern in policy.mx
    )
    lines = policy.lines
    for strings, shortened in ((lines, None), (lines[:2], "policy-strings")):
        if len(attributes) + sum(len(_STRING_ATTRIBUTE % string) for string in strings) <= limit:
            text = "".join(_STRING_ATTRIBUTE % _checked(_POLICY_STRING, string) for string in strings)
            return Rendered(attributes + text, shortened)
    return None


def _secure(patterns: Iterable[MxPattern]) -> str:
    # RFC 8461 section 7.1: SNI is the MX host's name.
    return f"secure match={':'.join(map(_match_name, patterns))} servername=hostname"


def _secure_shortened(patterns: Sequence[MxPattern], limit: int, hosts: Sequence[str]) -> str:
    current = [pattern for pattern in patterns if any(pattern.permits(host) for host in hosts)]
    room = limit - len(_secure(()))
    fitting: list[MxPattern] = []
    for pattern in current or patterns:
        room -= len(_match_name(pattern)) + (1 if fitting else 0)
        if room < 0:
            break
        fitting.append(pattern)
    if not fitting:
        raise errors.ReplyError(f"not one mx pattern fits into {limit} characters")
    return _secure(fitting)


def _match_name(pattern: MxPattern) -> str:
    text = _checked(_MX_PATTERN, pattern.text)
    if text in _MATCH_KEYWORDS:
        # Postfix would read these as keywords that permit any host. No trusted certificate has a name in .invalid
        # (RFC 2606 section 2) or of a single label.
        text += ".invalid"
    return text.removeprefix("*")


def _checked(grammar: re.Pattern[str], token: str) -> str:
    if not grammar.match(token):
        raise errors.ReplyError(f"not fit for a reply: {token[:80]!a}")
    return token
