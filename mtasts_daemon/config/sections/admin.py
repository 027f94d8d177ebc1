"""The admin listeners: what may be written below ``admin``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from ..fields import FilePath, Section, parsed
from ..problems import Unresolved
from ..values import FileMode, HostPort

__all__ = ["AdminSettings"]


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
