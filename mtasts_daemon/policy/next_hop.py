"""Parse a lookup key into its policy domain.

Postfix sends the next hop as written: a recipient domain, or ``host:port``, ``[host]``, ``[host]:port`` of a smart
host, whose name is then the policy domain (RFC 8461 section 3.4). For a plain domain it also looks up each parent
with a leading dot, which never has a policy.
"""

import re
from enum import Enum
from ipaddress import ip_address
from typing import NamedTuple

__all__ = ["MAX_DOMAIN", "MAX_KEY", "NextHop", "NoPolicy", "parse_key", "policy_domain"]

MAX_DOMAIN = 253 - len("_mta-sts.")
"""Maximum length of a policy domain, so that ``_mta-sts.<domain>`` is a DNS name (RFC 1035 section 2.3.4)."""

MAX_KEY = 1024
"""Maximum length of a key in octets: ``MAX_DOMAIN`` code points of UTF-8, brackets and a port."""


class NoPolicy(Enum):
    """Why a key cannot have a policy; the value is the sentence. Such a key needs no I/O."""

    EMPTY = "the name is empty"
    PARENT = "the name begins with a dot, and a policy does not apply to subdomains (RFC 8461 section 3.4)"
    ADDRESS = "an IP address has no policy (RFC 8461 section 3.4)"
    PATHNAME = "a name with a slash is not a domain; Postfix takes it as the path of a Unix socket"
    ONE_LABEL = "a name of one label has no policy"
    NUMERIC = "a name whose last label is a number is not a host name"
    TOO_LONG = f"the name is longer than {MAX_DOMAIN} characters"
    NOT_UTF8 = "the name is not UTF-8"
    NOT_IDNA = "the name is not a valid internationalised domain name (UTS #46)"
    NOT_HOSTNAME = "the name is not a host name: each label has 1 to 63 letters, digits or hyphens"

    @property
    def slug(self) -> str:
        """The reason as a metric label."""
        return "key-" + self.name.lower().replace("_", "-")


class NextHop(NamedTuple):
    """The destination of a delivery, and the domain whose policy applies.

    ``policy_domain`` is in lower-case A-labels without the final dot. ``bracketed`` means that there is no MX lookup.
    ``port`` is None if it is missing, or if it is neither 1 to 65535 nor a mail service; ``service`` then is the text,
    and DANE discovery is impossible.
    """

    policy_domain: str
    bracketed: bool = False
    port: int | None = None
    service: str | None = None


_SERVICES = {"smtp": 25, "lmtp": 24, "submission": 587, "smtps": 465, "submissions": 465, "ssmtp": 465}

_LABEL = rb"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_PORT = rb"(?::([a-z0-9][a-z0-9-]{0,31}))?"
# A name with an all-numeric last label is an address or cannot be delegated (RFC 3696 section 2).
_KEY = re.compile(rb"(\[?)((?:%b\.)+(?![0-9]+(?![a-z0-9-]))%b)\.?(\]?)%b\Z" % (_LABEL, _LABEL, _PORT))
_ONE_LABEL = re.compile(rb"(\[?)%b\.?(\]?)%b\Z" % (_LABEL, _PORT))
_NUMERIC = re.compile(rb"\[?(?:%b\.)*[0-9]+\.?\]?%b\Z" % (_LABEL, _PORT))
_ADDRESS = re.compile(r"\[(?:ipv6:)?([^\]]*)\](?::[a-z0-9-]*)?\Z")
_UNICODE = re.compile(r"(\[?)([^\[\]:]+)(\]?(?::[A-Za-z0-9-]+)?)\Z")


def parse_key(key: bytes) -> NextHop | NoPolicy:
    """Return the next hop of ``key``, or why it cannot have a policy. Accepts any octets."""
    # Lookups of parents follow every lookup without a policy, so they are handled first.
    if key.startswith(b"."):
        return NoPolicy.PARENT
    match = _KEY.match(key.lower())
    if match is None:
        return _unusual(key)
    opening, name, closing, port = match.groups()
    if len(opening) != len(closing):
        return NoPolicy.NOT_HOSTNAME
    if len(name) > MAX_DOMAIN:
        return NoPolicy.TOO_LONG
    if port is None:
        return NextHop(name.decode("ascii"), bool(opening))
    service = port.decode("ascii")
    number = int(service) if service.isdigit() else _SERVICES.get(service, 0)
    if 0 < number < 65536:
        return NextHop(name.decode("ascii"), bool(opening), number)
    return NextHop(name.decode("ascii"), bool(opening), None, service)


def _unusual(key: bytes) -> NextHop | NoPolicy:
    if not key:
        return NoPolicy.EMPTY
    if len(key) > MAX_KEY:
        return NoPolicy.TOO_LONG
    if b"/" in key:
        return NoPolicy.PATHNAME
    try:
        text = key.decode("utf-8")
    except UnicodeDecodeError:
        return NoPolicy.NOT_UTF8
    if not text.isascii():
        return _internationalised(text)
    lower = key.lower()
    if _is_address(text.lower()):
        return NoPolicy.ADDRESS
    if _NUMERIC.match(lower):
        return NoPolicy.NUMERIC
    if _ONE_LABEL.match(lower):
        return NoPolicy.ONE_LABEL
    return NoPolicy.NOT_HOSTNAME


def _is_address(text: str) -> bool:
    match = _ADDRESS.match(text)
    host, colon, port = text.rpartition(":")
    candidates = (match[1],) if match else (text, host) if colon and port.isalnum() else (text,)
    for candidate in candidates:
        try:
            ip_address(candidate)
        except ValueError:
            continue
        return True
    return False


def _internationalised(text: str) -> NextHop | NoPolicy:
    # With SMTPUTF8 Postfix sends U-labels; DNS, HTTPS and the reply need A-labels. Imported here because few hosts need
    # its tables, which take time and memory.
    import idna

    match = _UNICODE.match(text)
    if match is None:
        return NoPolicy.NOT_HOSTNAME
    opening, name, rest = match.groups()
    try:
        ascii_name = idna.encode(name, uts46=True, std3_rules=True)
    except UnicodeError:
        return NoPolicy.NOT_IDNA
    return parse_key(opening.encode() + ascii_name + rest.encode())


def policy_domain(text: str) -> str:
    """Return ``text`` as a policy domain, in lower-case A-labels without the final dot.

    Raises ``ValueError`` with a sentence if it cannot have a policy or is not a plain domain.
    """
    # A lone surrogate, as from an argument that is not UTF-8, is rejected by parse_key.
    found = parse_key(text.encode("utf-8", "surrogatepass"))
    if isinstance(found, NoPolicy):
        raise ValueError(found.value)
    if found.bracketed or found.port is not None or found.service is not None:
        raise ValueError("a policy domain is written without brackets and port")
    return found.policy_domain
