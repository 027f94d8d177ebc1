"""Parse a domain in user input: an e-mail address, a URL or a domain."""

import re

from .next_hop import NextHop, NoPolicy, parse_key, policy_domain

__all__ = ["domain_part", "parse_user_domain", "parse_user_key"]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#]*@)?(\[[^\]/?#]*\]|[^:/?#]*)")
# Keys that Postfix does ask for, although they have no policy.
_ASKED_BY_POSTFIX = (NoPolicy.PARENT, NoPolicy.ADDRESS, NoPolicy.ONE_LABEL, NoPolicy.PATHNAME)


def domain_part(text: str) -> str:
    """Return the domain part of an e-mail address or the host of a URL; other text without surrounding blanks.

    The result is not checked to be a domain.
    """
    text = text.strip()
    if match := _URL.match(text):
        return match[1]
    if text.lower().startswith("mailto:"):
        text = text[len("mailto:") :].partition("?")[0]
    return text.rpartition("@")[2].removesuffix(">")


def parse_user_key(text: str) -> str:
    """Return the lookup key in ``text``. Raise ValueError with a sentence if Postfix would never ask for it."""
    key = domain_part(text)
    found = parse_key(key.encode("utf-8", "surrogateescape"))
    if isinstance(found, NextHop) or found in _ASKED_BY_POSTFIX:
        return key
    raise ValueError(found.value)


def parse_user_domain(text: str) -> str:
    """Return the policy domain in ``text``, in lower-case A-labels. Raise ValueError with a sentence otherwise."""
    return policy_domain(domain_part(text))
