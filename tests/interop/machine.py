"""A machine: a Debian tree in its own mount and process namespaces, on the test's network.

Writes go to memory, so each session starts with the unchanged tree. When its first process ends, or this process is
killed, the kernel ends all others.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.interop.network import Network, Unavailable
from tests.interop.prepare import CACHE, Tree, ensure

__all__ = ["Machine"]

# /dev is the host's, because the checkout may be on a file system mounted nodev. The last shell is process 1.
_BOOT = """
set -e
mount -t tmpfs machine "$2"
mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" machine "$2/root"
mount --bind /dev "$2/root/dev"
mount -t proc proc "$2/root/proc"
exec chroot "$2/root" /bin/sh -c 'echo up; read -r _'
"""


class Machine:
    """The running machine; a context manager.

    ``root`` is its root folder seen from outside; Unix sockets bound below it can be reached from inside. Raises
    ``Unavailable`` if it cannot be started.
    """

    def __init__(self, tree: Tree, network: Network) -> None:
        lower = ensure(tree)
        self.network = network
        # A mount point; other namespaces do not see the mounts, so all machines share it.
        scratch = CACHE / "mount"
        scratch.mkdir(exist_ok=True)
        self._first = subprocess.Popen(
            ["nsenter", f"--net={network.path}", "unshare", "--mount", "--pid", "--fork", "--kill-child",
             "sh", "-c", _BOOT, "boot", str(lower), str(scratch)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._first.stdout is not None
        if self._first.stdout.readline() != "up\n":
            _, said = self._first.communicate()
            raise Unavailable(f"the machine cannot be started: {said.strip()}")
        children = Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children").read_text().split()
        self._inside = children[0]
        self.root = Path(f"/proc/{self._inside}/root")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes and discard all writes."""
        self._first.communicate()

    def run(self, *command: str, send: str | None = None, check: bool = True) -> str:
        """Run a command inside as root and return its output. Fails the test with the command's error."""
        done = subprocess.run(
            [*self.command(command)], input=send, capture_output=True, text=True, check=False, timeout=60
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Return the command line that runs another one inside."""
        return ["nsenter", "--target", self._inside, "--net", "--mount", "--pid", "--root", "--wd", "--", *arguments]
