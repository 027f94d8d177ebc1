"""The section ``admin``: the admin socket, the status page and the metrics."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from ..fields import FilePath, Section, parse_field
from ..problems import Unresolved
from ..values import FileMode, HostPort

__all__ = ["AdminSettings"]


class AdminSettings(Section):
    """The admin socket, the status page and the metrics."""

    socket: FilePath | None = Field(
        default=None,
        description="The Unix socket for mtastsctl, with write access. Default: admin.sock in $RUNTIME_DIRECTORY, "
        "which systemd sets; otherwise no socket.",
    )
    socket_mode: Annotated[FileMode, parse_field(FileMode)] = Field(
        default=FileMode(0o660), description="Permissions of the socket, in octal and in quotes."
    )
    listen: Annotated[HostPort, parse_field(HostPort)] | None = Field(
        default=None,
        description="HOST:PORT of the status page and the metrics, over HTTP and read-only. An address that is not "
        "loopback needs a token_file.",
    )
    token_file: FilePath | None = Field(
        default=None,
        description="A file with the token that clients of listen must send, as a bearer token or as the password of "
        "any user. At least 16 characters; not readable by others.",
    )

    def socket_path(self, environ: Mapping[str, str]) -> Path | None:
        """Return the socket to use, given the environment that the daemon was started with."""
        if self.socket is not None:
            return self.socket
        # systemd.exec(5): several directories are separated by colons.
        directory = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        return Path(directory) / "admin.sock" if directory else None

    @model_validator(mode="after")
    def _guarded(self) -> "AdminSettings":
        if self.listen is not None and not self.listen.loopback and self.token_file is None:
            raise Unresolved(f"listen {self.listen} can be reached from other hosts", "add a token_file")
        return self
