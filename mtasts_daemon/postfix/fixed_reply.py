"""Check an operator's own policy-table entry: the ``reply`` of an override."""

import re
from itertools import accumulate

from .. import errors
from .policy_table import LEVELS, MATCH_NAME, NAME

__all__ = ["check_fixed_reply", "needs_tlsrpt"]

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
    "servername": (re.compile(NAME, _ANY_CASE), "a host name, hostname or nexthop"),
    "connection_reuse": (re.compile(r"(?:yes|no)\Z", _ANY_CASE), "yes or no"),
    "enable_rpk": (re.compile(r"(?:yes|no)\Z", _ANY_CASE), "yes or no"),
    "policy_type": (re.compile(r"(?:sts|no-policy-found)\Z", _ANY_CASE), "sts or no-policy-found"),
    "policy_domain": (re.compile(NAME, _ANY_CASE), "a domain in A-labels"),
    "policy_string": (re.compile(r""), "text"),
    # Postfix accepts anything here, but no MX host would match.
    "mx_host_pattern": (re.compile(rf"(?:\*\.)?{NAME}", _ANY_CASE), "a host name, or *. and a domain"),
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
    if level not in LEVELS:
        raise errors.ReplyError(f"it does not start with one of {', '.join(LEVELS)}, but with {level[:80]!r}")
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
        valid = all(MATCH_NAME.match(name) for name in value.lower().split(":"))
    else:
        raise errors.ReplyError("match is only permitted with the levels verify, secure and fingerprint")
    if not valid:
        raise errors.ReplyError(
            f"match is neither names (with a leading dot for subdomains) nor fingerprints: {value[:80]!r}"
        )
