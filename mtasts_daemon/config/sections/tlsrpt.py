"""The section ``tlsrpt``: TLS reports that this host sends (RFC 8460)."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, StrictBool, StrictStr, model_validator

from ...policy.next_hop import policy_domain
from ...text import sanitize
from ..fields import Count, FilePath, Section, limited_field, parse_field
from ..problems import BadValue, Unresolved
from ..values import Duration, FileMode, HostPort

__all__ = ["Account", "DkimSettings", "Domain", "TlsrptSettings", "socket_path"]

_MAX_SOCKET_PATH = 107  # sun_path of Linux less its final NUL; unix(7)
# A dot-atom of RFC 5321 section 4.1.2; quoted local parts are not supported.
_LOCAL_PART = re.compile(r"(?=.{1,64}@)[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@")
_SELECTOR = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?\Z")
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\$?\Z")


def _domain(text: str) -> str:
    try:
        return policy_domain(text)
    except ValueError as error:
        raise BadValue(f'"{sanitize(text)}" is not a domain: {error}') from None


def _mailbox(text: str) -> str:
    if not _LOCAL_PART.match(text):
        raise BadValue(f'"{sanitize(text)}" is not an e-mail address', 'write the address alone: "tlsrpt@example.com"')
    local, _, domain = text.partition("@")
    return f"{local}@{_domain(domain)}"


def _line(text: str) -> str:
    line = " ".join(text.split())
    if not line or len(line) > 255 or not line.isprintable():
        raise BadValue("must be one line of 1 to 255 characters")
    return line


def _account(text: str) -> str:
    if not _ACCOUNT.match(text):
        raise BadValue(f'"{sanitize(text)}" is not the name of a user or a group')
    return text


def _selector(text: str) -> str:
    if not _SELECTOR.match(text):
        raise BadValue(f'"{sanitize(text)}" is not a selector', "write the label before ._domainkey")
    return text


def socket_path(value: Path) -> Path:
    """Return the path of a Unix socket; raise ``BadValue`` if it is too long for one."""
    if len(str(value).encode("utf-8", "surrogateescape")) > _MAX_SOCKET_PATH:
        raise BadValue(
            f"the path is longer than {_MAX_SOCKET_PATH} bytes",
            "use a shorter path: the system limits those of sockets",
        )
    return value


def _connectable(value: HostPort) -> HostPort:
    if not value.port:
        raise BadValue("port 0 cannot be connected to", "write the port of the mail server, such as 25 or 587")
    return value


Domain = Annotated[StrictStr, AfterValidator(_domain)]
Mailbox = Annotated[StrictStr, AfterValidator(_mailbox)]
Account = Annotated[StrictStr, AfterValidator(_account)]


class DkimSettings(Section):
    """DKIM signatures of report mails, for hosts whose mail server does not sign."""

    domain: Domain = Field(description="The signing domain (d=): that of sender, or a parent of it.")
    selector: Annotated[StrictStr, AfterValidator(_selector)] = Field(
        description="The selector (s=). Its key record must allow TLS reports: s=tlsrpt, s=* or no s= at all."
    )
    key_file: FilePath = Field(
        description="The private key, RSA or Ed25519, in PEM form; not readable by others. A relative path starts in "
        "$CREDENTIALS_DIRECTORY if systemd sets it."
    )


class TlsrptSettings(Section):
    """TLS reports that this host sends (RFC 8460). Off without a socket."""

    socket: Annotated[FilePath, AfterValidator(socket_path)] | None = Field(
        default=None,
        description="The Unix datagram socket that Postfix sends TLS results to (smtp_tlsrpt_socket_name). Default: "
        "the socket that systemd passes; otherwise nothing is collected.",
    )
    socket_owner: Account | None = Field(
        default=None, description="Owner of the socket. Default: the user of the daemon."
    )
    socket_group: Account | None = Field(
        default=None, description="Group of the socket: postfix, so that smtp(8) may write to it."
    )
    socket_mode: Annotated[FileMode, parse_field(FileMode)] = Field(
        default=FileMode(0o660), description="Permissions of the socket, in octal and in quotes."
    )
    database: FilePath | None = Field(
        default=None,
        description="The SQLite file of TLS results and reports. Default: tlsrpt.sqlite next to the file of policies.",
    )
    retention: Annotated[Duration, limited_field(Duration, "2d", "366d")] = Field(
        default=Duration.parse("30d"), description="Time that a day's results are kept and can be reported."
    )
    organization: Annotated[StrictStr, AfterValidator(_line)] | None = Field(
        default=None,
        description="The organization that reports name as their sender. No report is sent until organization, contact "
        "and sender are set.",
    )
    contact: Mailbox | None = Field(default=None, description="The e-mail address for questions that reports name.")
    sender: Mailbox | None = Field(
        default=None,
        description="The e-mail address that report mails come from. Bounces return to it with an extension that names "
        "the report: local+...@domain.",
    )
    smtp: Annotated[HostPort, parse_field(HostPort), AfterValidator(_connectable)] = Field(
        default=HostPort("127.0.0.1", 25), description="HOST:PORT of the mail server that sends report mails."
    )
    smtp_starttls: StrictBool = Field(
        default=False, description="Require TLS to that server, with a certificate that is valid for its name."
    )
    smtp_user: StrictStr | None = Field(default=None, description="User name for that server. Default: no login.")
    smtp_password_file: FilePath | None = Field(
        default=None,
        description="A file with the password; not readable by others. A relative path starts in "
        "$CREDENTIALS_DIRECTORY if systemd sets it.",
    )
    dkim: DkimSettings | None = Field(
        default=None, description="Sign report mails; needed only if the mail server does not."
    )
    spread: Annotated[Duration, limited_field(Duration, "0s", "12h")] = Field(
        default=Duration.parse("4h"),
        description="Time after midnight UTC over which the reports of a day are sent, each at a random moment.",
    )
    retry_for: Annotated[Duration, limited_field(Duration, "1m", "7d")] = Field(
        default=Duration.parse("24h"),
        description="Time for which a report that cannot be delivered is retried (RFC 8460 section 5.5: 24h).",
    )
    max_rua: Count = Field(
        default=4, ge=1, le=16, description="Maximum number of addresses of a domain that reports are sent to."
    )
    failures_only: StrictBool = Field(
        default=False, description="Report only days with a failed session of the domain."
    )
    copy_to: FilePath | None = Field(
        default=None, description="A directory for a copy of every report. Nothing is removed from it."
    )
    exclude: Annotated[tuple[Domain, ...], Field(max_length=10000)] = Field(
        default=(), description="Policy domains that get no reports, such as your own."
    )
    max_failure_details: Count = Field(
        default=200,
        ge=1,
        le=10000,
        description="Maximum number of distinct failures of a domain and day kept with details; others are counted.",
    )
    https_timeout: Annotated[Duration, limited_field(Duration, "1s", "5m")] = Field(
        default=Duration.parse("60s"), description="Maximum time to send a report to an HTTPS server."
    )

    @property
    def may_send(self) -> bool:
        """Return True if organization, contact and sender are set."""
        return None not in (self.organization, self.contact, self.sender)

    def file(self, store: Path) -> Path:
        """Return the database to use, given the file of policies."""
        return self.database if self.database is not None else store.parent / "tlsrpt.sqlite"

    @model_validator(mode="after")
    def _login(self) -> "TlsrptSettings":
        if (self.smtp_user is None) != (self.smtp_password_file is None):
            raise Unresolved("a login needs both smtp_user and smtp_password_file", "add the other, or remove both")
        # RFC 4954 section 4: no password in the clear.
        if self.smtp_user is not None and not (self.smtp_starttls or self.smtp.loopback):
            raise Unresolved(f"the password would cross the network to {self.smtp} in clear", "add smtp_starttls: true")
        return self
