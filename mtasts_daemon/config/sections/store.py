"""The section ``store``: the file of policies."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ..fields import Count, FilePath, Section, limited_field
from ..values import Size

__all__ = ["StoreSettings"]


class StoreSettings(Section):
    """The file of policies. Read at the start only."""

    path: FilePath | None = Field(
        default=None,
        description="The SQLite file. Default: policies.sqlite in $STATE_DIRECTORY, which systemd sets, "
        "otherwise in /var/lib/mtasts-daemon.",
    )
    max_policies: Count = Field(
        default=200000,
        ge=100,
        le=100000000,
        description="Maximum number of stored policies. The least recently used are removed first.",
    )
    max_bytes: Annotated[Size, limited_field(Size, "1MiB", "1TiB")] = Field(
        default=Size.parse("1GiB"),
        description="Maximum size of the file. The least recently used policies are removed first.",
    )

    def file(self, environ: Mapping[str, str]) -> Path:
        """Return the file to use, given the environment that the daemon was started with."""
        if self.path is not None:
            return self.path
        # systemd.exec(5): several directories are separated by colons.
        directory = environ.get("STATE_DIRECTORY", "").partition(":")[0]
        return Path(directory or "/var/lib/mtasts-daemon") / "policies.sqlite"
