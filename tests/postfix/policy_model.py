"""A model of Postfix 3.12's parser of policy-table entries, written from its source and not from our code.

smtp_tls_policy.c cuts the text with mystrtokq(3), takes braces off with extpar(3), splits with split_nameval(3), and
marks the whole policy invalid, so that mail is deferred, on any error.
``tafile`` is not opened here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

LEVELS = ("none", "may", "encrypt", "fingerprint", "dane", "dane-only", "verify", "secure")
SEPARATORS = ", \t\r\n"
SPACES = " \t\r\n\v\f"
TLSRPT_ONLY = {"policy_type", "policy_domain", "policy_string", "mx_host_pattern", "policy_failure", "policy_ttl"}
ONCE = {"protocols", "ciphers", "exclude", "servername", "policy_type", "policy_domain", "policy_failure", "policy_ttl"}
KNOWN = ONCE | {"match", "tafile", "connection_reuse", "enable_rpk", "policy_string", "mx_host_pattern"}


class Deferred(Exception):
    """Postfix would log this and defer the mail."""


@dataclass
class Policy:
    """Postfix's result for the text."""

    level: str
    attributes: dict[str, list[str]] = field(default_factory=dict)
    braces: bool = False

    @property
    def match(self) -> list[str]:
        """The names that the certificate is matched against."""
        separator = "|" if self.level == "fingerprint" else ":"
        return [name for text in self.attributes.get("match", []) for name in text.split(separator) if name]

    @property
    def tlsrpt(self) -> bool:
        """Whether a Postfix before 3.10 would defer."""
        return self.braces or not TLSRPT_ONLY.isdisjoint(self.attributes)


def tokens(text: str) -> Iterator[str]:
    rest = text.lstrip(SEPARATORS)
    while rest:
        level, end = 0, len(rest)
        for index, char in enumerate(rest):
            if char == "{":
                level += 1
            elif level and char == "}":
                level -= 1
            elif not level and char in SEPARATORS:
                end = index
                break
        yield rest[:end]
        rest = rest[end:].lstrip(SEPARATORS)


def balanced(text: str) -> int:
    """Return the length of the text in braces that ``text`` begins with, or 0."""
    level = 0
    for index, char in enumerate(text):
        if char == "{":
            level += 1
        elif char == "}":
            level -= 1
            if not level:
                return index + 1
    return 0


def pair(token: str) -> tuple[str, str]:
    if token.startswith("{"):
        length = balanced(token)
        if not length:
            raise Deferred("missing '}'")
        if length != len(token):
            raise Deferred("syntax error after '}'")
        token = token[1:-1].strip(SPACES)
    name = token.lstrip(SPACES)
    end = next((index for index, char in enumerate(name) if char in SPACES + "="), len(name))
    if not end:
        raise Deferred("missing attribute name")
    rest = name[end:].lstrip(SPACES)
    if not rest.startswith("="):
        raise Deferred("missing '='")
    return name[:end].lower(), rest[1:].strip(SPACES)


def valid_hostname(name: str) -> bool:
    labels = name.split(".")
    return (
        0 < len(name) <= 255
        and not name.replace(".", "").isdigit()
        and all(
            0 < len(label) < 64
            and label.isascii()
            and label.replace("-", "a").replace("_", "a").isalnum()
            and not label.startswith("-")
            and not label.endswith("-")
            for label in labels
        )
    )


def check(level: str, name: str, value: str) -> None:
    if name not in KNOWN:
        raise Deferred(f"invalid attribute name {name!r}")
    if name in ("match", "tafile", "ciphers") and not value:
        raise Deferred("empty value")
    if name == "match" and level not in ("verify", "secure", "fingerprint"):
        raise Deferred("match at the wrong level")
    if name == "tafile" and level not in ("verify", "secure"):
        raise Deferred("tafile at the wrong level")
    if name in ("servername", "policy_domain") and not valid_hostname(value):
        raise Deferred("invalid hostname")
    if name in ("connection_reuse", "enable_rpk") and value.lower() not in ("yes", "no"):
        raise Deferred("bad value")
    if name == "policy_type" and value.lower() not in ("sts", "no-policy-found"):
        raise Deferred("unexpected value")
    if name == "policy_ttl" and not (value.isdigit() and int(value) < 2**31):
        raise Deferred("malformed value")
    failures = ("sts-policy-fetch-error", "sts-policy-invalid", "sts-webpki-invalid", "validation-failure")
    if name == "policy_failure" and value not in failures:
        raise Deferred("unexpected value")


def read(text: str) -> Policy:
    """Parse ``text`` as Postfix does. Raises Deferred if Postfix would reject it."""
    found = list(tokens(text))
    if not found:
        raise Deferred("invalid empty policy")
    level, *rest = found
    if level.lower() not in LEVELS:
        raise Deferred("invalid security level")
    policy = Policy(level.lower(), braces=any("{" in token or "}" in token for token in rest))
    if policy.level == "none":
        return policy
    for token in rest:
        name, value = pair(token)
        check(policy.level, name, value)
        if name in ONCE and name in policy.attributes:
            raise Deferred("specified multiple times")
        policy.attributes.setdefault(name, []).append(value)
    if "policy_type" not in policy.attributes and not TLSRPT_ONLY.isdisjoint(policy.attributes):
        raise Deferred("built-in policy has unexpected attribute")
    return policy
