"""Authentication-Results header fields, RFC 8601, as far as they report DKIM."""

import re
from collections.abc import Iterable

from ...policy.next_hop import policy_domain

__all__ = ["passed_domains"]

_MAX_FIELD = 8192
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_RESULT = re.compile(r"\s*dkim\s*(?:/\s*[0-9]+\s*)?=\s*([a-z]+)\b", re.IGNORECASE)
_DOMAIN = re.compile(r"\bheader\s*\.\s*d\s*=\s*([A-Za-z0-9._-]{1,255})", re.IGNORECASE)
_IDENTITY = re.compile(r"\bheader\s*\.\s*i\s*=\s*[^\s;@]*@([A-Za-z0-9._-]{1,255})", re.IGNORECASE)


def passed_domains(fields: Iterable[str], trusted: frozenset[str]) -> frozenset[str]:
    """Return the domains with dkim=pass in the topmost field of a trusted host.

    Only the topmost one counts: the trusted host adds its field above all that a sender may have written.
    """
    for field in fields:
        text = _without_comments(field[:_MAX_FIELD])
        identity, _, results = text.partition(";")
        words = identity.split()
        if not words or words[0].strip('"').lower() not in trusted:
            continue
        return frozenset(domain for result in results.split(";") if (domain := _passed(result)))
    return frozenset()


def _passed(result: str) -> str:
    match = _RESULT.match(result)
    if match is None or match[1].lower() != "pass":
        return ""
    named = _DOMAIN.search(result, match.end()) or _IDENTITY.search(result, match.end())
    try:
        return policy_domain(named[1]) if named else ""
    except ValueError:
        return ""


def _without_comments(text: str) -> str:
    """Remove comments, which nest, and the content of quoted texts, which may hold anything."""
    kept: list[str] = []
    depth, at = 0, 0
    while at < len(text):
        char = text[at]
        if char == "\\":
            at += 2
            continue
        if char == '"' and depth == 0 and (quoted := _QUOTED.match(text, at)):
            kept.append(re.sub(r"[^A-Za-z0-9._-]", "", quoted[1]))
            at = quoted.end()
            continue
        if char == "(":
            depth += 1
        elif char == ")" and depth:
            depth -= 1
        elif depth == 0:
            kept.append(char)
        at += 1
    return "".join(kept)
