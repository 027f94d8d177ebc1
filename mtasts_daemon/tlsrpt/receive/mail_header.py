"""The header section of a report mail, read as DKIM reads it.

The signed text and the text that this program reads must be the same. So lines are split as in the DKIM library, and a
header that another parser could split differently is not trusted.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import getaddresses

from ...policy.next_hop import policy_domain
from .authentication import SenderClaims

__all__ = ["MailHeader", "read_header"]

_MAX_FIELDS = 1000
_NAME = re.compile(rb"([\x21-\x39\x3b-\x7e]+)[ \t]*:")
_ONCE = ("from", "content-type", "content-transfer-encoding", "mime-version", "tls-report-submitter")


@dataclass(frozen=True, slots=True)
class MailHeader:
    """Fields as (lower-case name, unfolded value), topmost first. ``ambiguous`` says why it proves nothing."""

    fields: Sequence[tuple[str, str]]
    ambiguous: str = ""

    def values(self, name: str) -> list[str]:
        """Return the values of the fields with this name."""
        return [value for field, value in self.fields if field == name]

    def claims(self) -> SenderClaims:
        """Return the domains that the mail claims to come from."""
        addresses = [address for _, address in getaddresses(self.values("from"))]
        submitters = [value.strip().strip("<>") for value in self.values("tls-report-submitter")]
        return SenderClaims(
            tuple(_domain(address.rpartition("@")[2]) for address in addresses),
            tuple(_domain(submitter) for submitter in submitters),
        )

    def report_domain(self) -> str:
        """Return the domain of TLS-Report-Domain, or empty text."""
        return _domain(next(iter(self.values("tls-report-domain")), ""))


def _domain(text: str) -> str:
    try:
        return policy_domain(text.strip()[:255])
    except ValueError:
        return ""


def read_header(message: bytes) -> MailHeader:
    """Read the header section of the message; any bytes will do."""
    end = re.search(rb"\r?\n\r?\n", message)
    head = message[: end.start()] if end else message
    ambiguous = "a header line contains a bare carriage return" if re.search(rb"\r(?!\n)", head) else ""
    fields: list[tuple[str, str]] = []
    for line in re.split(rb"\r?\n", head):
        text = line.decode("utf-8", "replace")
        if line[:1] in (b" ", b"\t") and fields:
            name, value = fields[-1]
            if len(value) < 65536:
                fields[-1] = (name, f"{value} {text.strip()}")
        elif match := _NAME.match(line):
            fields.append((match[1].decode("ascii").lower(), line[match.end() :].decode("utf-8", "replace").strip()))
        elif not (line.startswith(b"From ") and not fields):
            ambiguous = ambiguous or "a header line is not a field"
        if len(fields) > _MAX_FIELDS:
            ambiguous = "it has too many header fields"
            break
    for name in _ONCE:
        if sum(1 for field, _ in fields if field == name) > 1:
            ambiguous = ambiguous or f"the field {name} occurs more than once"
    return MailHeader(fields, ambiguous)
