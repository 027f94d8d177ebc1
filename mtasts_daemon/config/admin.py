"""The admin listeners: what may be written below ``admin``."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from .fields import FilePath, Section, parsed
from .problems import BadValue, Unresolved
from .values import FileMode, host_and_port

__all__ = ["AdminSettings", "HostPort"]


@dataclass(frozen=True, slots=True)
class HostPort:
    """An address to listen on; port 0 lets the system choose."""

    host: str
    port: int

    PATTERN = r"^.+:[0-9]{1,5}$"

    @classmethod
    def parse(cls, value: object) -> "HostPort":
        """From ``HOST:PORT``, IPv6 addresses in brackets."""
        if not isinstance(value, str):
            raise BadValue("must be text", 'write it as "127.0.0.1:8463"')
        return cls(*host_and_port(value))

    @property
    def loopback(self) -> bool:
        """Whether only this host can connect."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class AdminSettings(Section):
    """Watching and steering the daemon."""

    socket: FilePath | None = Field(
        default=None,
        description="The Unix socket of mtastsctl, which may change things. Empty: admin.sock in $RUNTIME_DIRECTORY, "
        "which systemd sets; without that there is none.",
    )
    socket_mode: Annotated[FileMode, parsed(FileMode)] = Field(
        default=FileMode(0o660), description="Permissions of that socket, in octal and in quotes."
    )
    listen: Annotated[HostPort, parsed(HostPort)] | None = Field(
        default=None,
        description="HOST:PORT of the status page and the metrics, over HTTP. It changes nothing. Beyond this host "
        "it needs a token_file.",
    )
    token_file: FilePath | None = Field(
        default=None,
        description="A file with the token that listen asks for, as a bearer token or as the password of any user; "
        "16 characters at least, and not readable by everybody.",
    )

    def socket_path(self, environ: Mapping[str, str]) -> Path | None:
        """The socket to use, given the environment the daemon was started with."""
        if self.socket is not None:
            return self.socket
        # systemd.exec(5): several directories come separated by colons.
        directory = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        return Path(directory) / "admin.sock" if directory else None

    @model_validator(mode="after")
    def _guarded(self) -> "AdminSettings":
        if self.listen is not None and not self.listen.loopback and self.token_file is None:
            raise Unresolved(f"listen {self.listen} can be reached from other hosts", "add a token_file")
        return self
