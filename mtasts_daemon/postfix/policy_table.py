"""Format policies as right-hand sides of smtp_tls_policy_maps.

Postfix ignores no error in such a text: one wrong token defers all mail to the domain. Therefore every token is made
from validated values and matched against a strict grammar again before it is emitted. No remote text passes, and
``match=`` is never empty or partial.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from .. import errors
from ..policy.decision import Dialect
from ..policy.mtasts import MxPattern, StsPolicy

__all__ = [
    "Rendered",
    "check_fixed_reply",
    "level_with_policy",
    "needs_tlsrpt",
    "secure",
]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A policy-table entry, and the part that was omitted because of the limit, if any.

    ``shortened`` is ``policy-strings`` (version and mode remain), ``tlsrpt-attributes`` or ``mx-patterns``.
    """

    text: str
    shortened: str | None = None


# -- making ------------------------------------------------------------------------------------------------

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = rf"(?=.{{1,255}}\Z)(?:{_LABEL}\.)*(?![0-9]+\Z){_LABEL}\Z"
_DOMAIN = re.compile(_NAME)
_MX_PATTERN = re.compile(rf"(?=.{{1,255}}\Z)(?:\*\.)?{_NAME}")
_MATCH_NAME = re.compile(rf"\.?{_NAME}")
_POLICY_STRING = re.compile(
    rf"version: STSv1\Z|mode: (?:enforce|testing|none)\Z|max_age: [0-9]{{1,10}}\Z|mx: (?:\*\.)?{_NAME}"
)
_MX_ATTRIBUTE = " mx_host_pattern="
_STRING_ATTRIBUTE = " { policy_string = %s }"
_MATCH_KEYWORDS = ("nexthop", "dot-nexthop", "hostname")
_LEVELS = ("none", "may", "encrypt", "fingerprint", "dane", "dane-only", "verify", "secure")


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
    if level not in _LEVELS:
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


# -- checking an operator's own entry ----------------------------------------------------------------------

_FIXED_LIMIT = 4096 - len("200 \n")  # the limit of a tcp_table reply, the shorter of the two

_POLICY_ATTRIBUTES = frozenset(
    ("policy_type", "policy_domain", "policy_string", "mx_host_pattern", "policy_failure", "policy_ttl")
)
_ONCE = frozenset(
    (
        *("protocols", "ciphers", "exclude", "servername"),
        *("policy_type", "policy_domain", "policy_failure", "policy_ttl"),
    )
)
_PROTOCOL = r"(?:SSLv[23]|TLSv1(?:\.[123])?|0x[0-9A-F]{4})"
_ANY_CASE = re.IGNORECASE
_VALUES: dict[str, tuple[re.Pattern[str], str]] = {
    "protocols": (
        re.compile(rf"(?:(?:[<>]=|!)?{_PROTOCOL}(?::(?:[<>]=|!)?{_PROTOCOL})*)?\Z", _ANY_CASE),
        "protocol names separated by colons",
    ),
    "ciphers": (re.compile(r"(?:export|low|medium|high|null)\Z", _ANY_CASE), "a cipher grade"),
    "exclude": (re.compile(r"[A-Za-z0-9:+@!_.=-]*\Z"), "cipher names separated by colons"),
    "tafile": (re.compile(r".+\Z"), "a file"),
    "servername": (re.compile(_NAME, _ANY_CASE), "a host name, hostname or nexthop"),
    "connection_reuse": (re.compile(r"(?:yes|no)\Z", _ANY_CASE), "yes or no"),
    "enable_rpk": (re.compile(r"(?:yes|no)\Z", _ANY_CASE), "yes or no"),
    "policy_type": (re.compile(r"(?:sts|no-policy-found)\Z", _ANY_CASE), "sts or no-policy-found"),
    "policy_domain": (re.compile(_NAME, _ANY_CASE), "a domain in A-labels"),
    "policy_string": (re.compile(r""), "text"),
    # Postfix accepts anything here, but no MX host would match.
    "mx_host_pattern": (re.compile(rf"(?:\*\.)?{_NAME}", _ANY_CASE), "a host name, or *. and a domain"),
    "policy_failure": (
        re.compile(r"(?:sts-policy-fetch-error|sts-policy-invalid|sts-webpki-invalid|validation-failure)\Z"),
        "a failure type of RFC 8460 that Postfix knows",
    ),
    "policy_ttl": (re.compile(r"[0-9]{1,9}\Z"), "seconds"),
}
_FINGERPRINTS = re.compile(r"[0-9A-F]{2}(?::?[0-9A-F]{2})+(?:\|[0-9A-F]{2}(?::?[0-9A-F]{2})+)*\Z", _ANY_CASE)


def check_fixed_reply(text: str) -> None:
    """Raise ``ReplyError`` with a sentence if Postfix would reject ``text`` or misinterpret it.

    The text must fit into both lookup protocols. If ``needs_tlsrpt`` is true, Postfix before 3.10 rejects it.
    """
    if not text.isascii() or not text.isprintable():
        raise errors.ReplyError("only printable ASCII is allowed")
    # tcp_table sends each % as three characters.
    if len(text) + 2 * text.count("%") > _FIXED_LIMIT:
        raise errors.ReplyError(f"longer than the {_FIXED_LIMIT} characters of a tcp_table reply")
    level, *tokens = _tokens(text) or [""]
    if level not in _LEVELS:
        raise errors.ReplyError(f"it does not start with one of {', '.join(_LEVELS)}, but with {level[:80]!r}")
    if level == "none" and tokens:
        raise errors.ReplyError("level none takes no attributes")
    seen: dict[str, str] = {}
    for token in tokens:
        name, value = _name_and_value(token)
        _check_attribute(level, name, value)
        if name in _ONCE and name in seen:
            raise errors.ReplyError(f"{name} is given twice")
        seen[name] = value
    if "policy_type" not in seen and not _POLICY_ATTRIBUTES.isdisjoint(seen):
        raise errors.ReplyError("the policy_ and mx_host_pattern attributes need a policy_type")
    if seen.get("policy_type", "").lower() == "sts" and not {"policy_string", "mx_host_pattern"} <= seen.keys():
        raise errors.ReplyError("policy_type=sts without policy_string and mx_host_pattern crashes Postfix 3.10.0")


def needs_tlsrpt(text: str) -> bool:
    """Return True if a valid fixed reply needs Postfix 3.10 or later."""
    tokens = _tokens(text)[1:]
    return "{" in text or "}" in text or any(_name_and_value(token)[0] in _POLICY_ATTRIBUTES for token in tokens)


def _tokens(text: str) -> list[str]:
    """Split ``text`` at blanks and commas outside of braces (mystrtok.c)."""
    tokens: list[str] = []
    start, depth = 0, 0
    for position, char in enumerate(text + " "):
        if char == "{":
            depth += 1
        elif char == "}" and depth:
            depth -= 1
        elif char in " ," and not depth:
            if position > start:
                tokens.append(text[start:position])
            start = position + 1
    if depth:
        raise errors.ReplyError("a brace is not closed")
    return tokens


def _name_and_value(token: str) -> tuple[str, str]:
    """Split ``name=value`` or ``{ name = value }`` (extpar.c, split_nameval.c)."""
    text = token
    if token.startswith("{"):
        depths = list(accumulate((char == "{") - (char == "}") for char in token))
        if depths.index(0) != len(token) - 1:
            raise errors.ReplyError(f"something follows a closing brace without a blank: {token[:80]!r}")
        text = token[1:-1]
    name, equals, value = text.partition("=")
    name = name.strip().lower()
    if not equals or not name:
        raise errors.ReplyError(f"not of the form name=value: {token[:80]!r}")
    return name, value.strip()


def _check_attribute(level: str, name: str, value: str) -> None:
    if name == "match":
        _check_match(level, value)
    elif name not in _VALUES:
        raise errors.ReplyError(f"Postfix has no attribute {name[:80]!r}")
    elif name == "tafile" and level not in ("verify", "secure"):
        raise errors.ReplyError("tafile is only permitted with the levels verify and secure")
    else:
        grammar, expected = _VALUES[name]
        if not grammar.match(value):
            raise errors.ReplyError(f"{name} is not {expected}: {value[:80]!r}")


def _check_match(level: str, value: str) -> None:
    if level == "fingerprint":
        valid = bool(_FINGERPRINTS.match(value))
    elif level in ("verify", "secure"):
        valid = all(_MATCH_NAME.match(name) for name in value.lower().split(":"))
    else:
        raise errors.ReplyError("match is only permitted with the levels verify, secure and fingerprint")
    if not valid:
        raise errors.ReplyError(
            f"match is neither names (with a leading dot for subdomains) nor fingerprints: {value[:80]!r}"
        )
