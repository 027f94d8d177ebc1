"""A policy as it is served, and the id of its TXT record. Pure.

The id is a digest of the text: it is the same on every host and in every version, and changes exactly if the text
does. The text therefore has one form: sorted patterns, canonical lines, CRLF (RFC 8461 section 3.2).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256

from ..errors import PolicyMxSyntax
from ..policy.mtasts import MAX_AGE_LIMIT, Mode, MxPattern, StsPolicy, parse_policy

__all__ = ["PublishedPolicy", "make_policy", "policy_host_of", "policy_id"]

_ID_LENGTH = 32
"""Characters; the most that RFC 8461 section 3.1 allows."""


def policy_host_of(domain: str) -> str:
    """Return the host that serves the domain's policy (RFC 8461 section 3.2)."""
    return f"mta-sts.{domain}"


def policy_id(text: bytes) -> str:
    """Return the id of a policy text: 32 letters and digits."""
    return sha256(text).hexdigest()[:_ID_LENGTH]


@dataclass(frozen=True)
class PublishedPolicy:
    """A valid policy, its text and its id."""

    policy: StsPolicy

    @cached_property
    def text(self) -> bytes:
        """The body that is served."""
        return "".join(f"{line}\r\n" for line in self.policy.lines).encode("ascii")

    @cached_property
    def id(self) -> str:
        """The id of the TXT record."""
        return policy_id(self.text)

    @classmethod
    def from_text(cls, text: bytes) -> "PublishedPolicy":
        """Read a text that was served before. Raises a leaf of ``PolicySyntaxError``."""
        return cls(parse_policy(text))


def make_policy(mode: Mode, mx: Iterable[str], max_age: float) -> PublishedPolicy:
    """Return the policy, with its patterns in one order and form.

    Mode none has no patterns. Raises a leaf of ``PolicySyntaxError``: a bad pattern, or none in another mode.
    """
    return _made(mode, tuple(mx), max_age)


# Many domains have the same settings: a reload of 100,000 lines would make each policy 100,000 times.
@lru_cache(maxsize=4096)
def _made(mode: Mode, mx: tuple[str, ...], max_age: float) -> PublishedPolicy:
    patterns = () if mode is Mode.NONE else tuple(sorted({pattern.lower().removesuffix(".") for pattern in mx}))
    age = min(int(max_age), MAX_AGE_LIMIT)
    written = StsPolicy(mode, tuple(MxPattern(pattern) for pattern in patterns), age)
    for pattern in patterns:
        # A line break would begin another field, which the parser would accept.
        if not pattern.isascii() or not pattern.isprintable():
            raise PolicyMxSyntax(ascii(pattern[:80]))
    return PublishedPolicy(parse_policy(PublishedPolicy(written).text))
