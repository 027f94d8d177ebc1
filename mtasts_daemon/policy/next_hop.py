"""A lookup key to the policy domain it asks about.

Postfix asks with the next-hop as it was written: a recipient domain, or ``host:port``, ``[host]``,
``[host]:port`` of a smart host, whose name is then the policy domain (RFC 8461 section 3.4). For a plain
domain it goes on to ask for each parent with a leading dot, which never has a policy of its own.
"""

import re
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address

__all__ = ["MAX_DOMAIN", "MAX_KEY", "NextHop", "NoPolicy", "parse_key", "policy_domain"]

MAX_DOMAIN = 253 - len("_mta-sts.")
"""Characters of a policy domain, so that ``_mta-sts.<domain>`` is still a DNS name (RFC 1035 section 2.3.4)."""

MAX_KEY = 1024
"""Octets of a key that are looked at; ``MAX_DOMAIN`` code points of UTF-8, brackets and a port fit."""


class NoPolicy(Enum):
    """Why a key can have no policy; the value is the sentence. Such a key costs no I/O."""

    EMPTY = "the key is empty"
    PARENT = "a parent domain's policy does not apply to its subdomains (RFC 8461 section 3.4)"
    ADDRESS = "an address literal has no policy (RFC 8461 section 3.4)"
    PATHNAME = "the path of a Unix socket has no policy"
    ONE_LABEL = "a name of one label has no policy"
    NUMERIC = "a name whose last label is a number is not a host name"
    TOO_LONG = f"the name is longer than {MAX_DOMAIN} characters"
    NOT_UTF8 = "the key is not UTF-8"
    NOT_IDNA = "the name is not a valid internationalised domain name (UTS #46)"
    NOT_HOSTNAME = "the key is not a host name of labels of 1 to 63 letters, digits and hyphens"

    @property
    def slug(self) -> str:
        """The reason as a metric label."""
        return "key-" + self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class NextHop:
    """Where Postfix wants to send, and whose policy applies, whatever the port.

    ``policy_domain`` is a lower-case A-label name without the final dot. ``bracketed`` means that there is no MX
    lookup. ``port`` is None where none was written, and where it was written as something that is neither 1 to 65535
    nor a service of mail; ``service`` then holds what was written, and DANE cannot be asked about.
    """

    policy_domain: str
    bracketed: bool = False
    port: int | None = None
    service: str | None = None


_SERVICES = {"smtp": 25, "lmtp": 24, "submission": 587, "smtps": 465, "submissions": 465, "ssmtp": 465}

_LABEL = rb"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_PORT = rb"(?::([a-z0-9][a-z0-9-]{0,31}))?"
# An all-numeric last label would make it an address, or nothing that DNS can delegate (RFC 3696 section 2).
_KEY = re.compile(rb"(\[?)((?:%b\.)+(?![0-9]+(?![a-z0-9-]))%b)\.?(\]?)%b\Z" % (_LABEL, _LABEL, _PORT))
_ONE_LABEL = re.compile(rb"(\[?)%b\.?(\]?)%b\Z" % (_LABEL, _PORT))
_NUMERIC = re.compile(rb"\[?(?:%b\.)*[0-9]+\.?\]?%b\Z" % (_LABEL, _PORT))
_ADDRESS = re.compile(r"\[(?:ipv6:)?([^\]]*)\](?::[a-z0-9-]*)?\Z")
_UNICODE = re.compile(r"(\[?)([^\[\]:]+)(\]?(?::[A-Za-z0-9-]+)?)\Z")


def parse_key(key: bytes) -> NextHop | NoPolicy:
    """The next-hop that ``key`` names, or why it can have no policy. Any octets will do."""
    # Every lookup of a domain without a policy is followed by its parents: these first.
    if key.startswith(b"."):
        return NoPolicy.PARENT
    match = _KEY.match(key.lower())
    if match is None:
        return _unusual(key)
    generation, name, closing, port = match.groups()
    if len(generation) != len(closing):
        return NoPolicy.NOT_HOSTNAME
    if len(name) > MAX_DOMAIN:
        return NoPolicy.TOO_LONG
    if port is None:
        return NextHop(name.decode("ascii"), bool(generation))
    service = port.decode("ascii")
    number = int(service) if service.isdigit() else _SERVICES.get(service, 0)
    if 0 < number < 65536:
        return NextHop(name.decode("ascii"), bool(generation), number)
    return NextHop(name.decode("ascii"), bool(generation), None, service)


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
    # Postfix hands U-labels over as they came with SMTPUTF8; DNS, HTTPS and the reply want A-labels. Imported
    # here because its tables cost every start time and memory that few hosts ever need.
    import idna

    match = _UNICODE.match(text)
    if match is None:
        return NoPolicy.NOT_HOSTNAME
    generation, name, rest = match.groups()
    try:
        ascii_name = idna.encode(name, uts46=True, std3_rules=True)
    except UnicodeError:
        return NoPolicy.NOT_IDNA
    return parse_key(generation.encode() + ascii_name + rest.encode())


def policy_domain(text: str) -> str:
    """``text`` as a policy domain, in lower-case A-labels without the final dot.

    Raises ``ValueError`` with a sentence where it can have no policy, or is more than a domain.
    """
    # A lone surrogate, as from an argument that was not UTF-8, is passed on to be refused there.
    found = parse_key(text.encode("utf-8", "surrogatepass"))
    if isinstance(found, NoPolicy):
        raise ValueError(found.value)
    if found.bracketed or found.port is not None or found.service is not None:
        raise ValueError("a policy domain is written without brackets and port")
    return found.policy_domain
