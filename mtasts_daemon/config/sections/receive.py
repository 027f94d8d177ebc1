"""TLS reports that others send: what may be written below ``receive``."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, StrictBool, StrictStr, model_validator

from ..fields import Count, FilePath, Section, limited_field, parse_field
from ..problems import BadValue, Unresolved
from ..values import Duration, FileMode, HostPort
from .tlsrpt import Account, Domain, socket_path

__all__ = ["ImapSettings", "ReceiveSettings"]


def _conninfo(text: str) -> str:
    if not text.startswith(("postgresql://", "postgres://")) or not text.isprintable():
        raise BadValue("must be a PostgreSQL URL", "write for example postgresql://mtasts@db.example.com/mtasts")
    if "@" in text and ":" in text.partition("://")[2].rpartition("@")[0]:
        raise BadValue("must not contain a password", "put the password into a file and name it in $PGPASSFILE")
    return text


class ImapSettings(Section):
    """A mailbox that is polled for report mails."""

    server: Annotated[HostPort, parse_field(HostPort)] = Field(
        description="HOST:PORT of the IMAP server, such as imap.example.com:993. TLS is always used."
    )
    user: StrictStr = Field(min_length=1, max_length=255, description="Login name.")
    password_file: FilePath = Field(
        description="A file with the password; not readable by others. A relative path starts in "
        "$CREDENTIALS_DIRECTORY if systemd sets it."
    )
    mailbox: StrictStr = Field(default="INBOX", min_length=1, max_length=255, description="The mailbox.")
    every: Annotated[Duration, limited_field(Duration, "1m", "1d")] = Field(
        default=Duration.parse("5m"), description="Time between two polls."
    )


class ReceiveSettings(Section):
    """Receiving TLS reports about the own domains, RFC 8460. Published domains are own domains."""

    own_domains: Annotated[tuple[Domain, ...], Field(max_length=100000)] = Field(
        default=(),
        description="Your policy domains. Names below them, such as MX hosts, are included. Reports about other "
        "domains are counted and dropped.",
    )
    lmtp_socket: Annotated[FilePath, AfterValidator(socket_path)] | None = Field(
        default=None,
        description="Unix socket for LMTP, below the queue directory of Postfix, such as "
        "/var/spool/postfix/run/tlsrpt-receive/lmtp.sock. Not needed if systemd passes the socket.",
    )
    lmtp_owner: Account | None = Field(
        default=None, description="Owner of the socket. Default: the user of the daemon."
    )
    lmtp_group: Account | None = Field(
        default=None, description="Group of the socket: postfix, so that lmtp(8) may connect."
    )
    lmtp_mode: Annotated[FileMode, parse_field(FileMode)] = Field(
        default=FileMode(0o660), description="Permissions of the socket, in octal and in quotes."
    )
    accept_https: StrictBool = Field(
        default=False, description="Accept reports at /v1/tls-reports of the public listener (RFC 8460 section 5.4)."
    )
    fleet_token_file: FilePath | None = Field(
        default=None,
        description="A file with the token that own daemons send as Authorization: Bearer. Their reports are trusted.",
    )
    imap: ImapSettings | None = Field(default=None, description="A mailbox that is polled.")
    authserv_ids: Annotated[tuple[Domain, ...], Field(max_length=100)] = Field(
        default=(),
        description="Hosts whose Authentication-Results are trusted (RFC 8601). They must remove such fields from "
        "incoming mail. Default: only signatures verified here count.",
    )
    database: FilePath | None = Field(
        default=None, description="The SQLite file. Default: received.sqlite next to the file of policies."
    )
    postgresql: Annotated[StrictStr, AfterValidator(_conninfo)] | None = Field(
        default=None, description="URL of a PostgreSQL database to use instead of the SQLite file."
    )
    retention: Annotated[Duration, limited_field(Duration, "30d", "3660d")] = Field(
        default=Duration.parse("400d"), description="How long daily sums are kept."
    )
    details_retention: Annotated[Duration, limited_field(Duration, "7d", "3660d")] = Field(
        default=Duration.parse("60d"), description="How long failure details and raw reports are kept."
    )
    max_reports_per_submitter: Count = Field(
        default=50000, ge=10, le=10000000, description="Reports of one submitter accepted per day; more are deferred."
    )
    max_unauthenticated: Count = Field(
        default=2000, ge=0, le=10000000, description="Reports without authentication accepted per day."
    )

    @property
    def has_input(self) -> bool:
        """True if reports come in by mail or HTTPS, not only by the command."""
        return self.lmtp_socket is not None or self.accept_https or self.imap is not None

    def file(self, store: Path) -> Path:
        """Return the SQLite file to use, given the file of policies."""
        return self.database if self.database is not None else store.parent / "received.sqlite"

    @model_validator(mode="after")
    def _consistent(self) -> "ReceiveSettings":
        if self.details_retention > self.retention:
            raise Unresolved("details_retention is longer than retention", "write a shorter details_retention")
        return self
