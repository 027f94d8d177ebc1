"""A booted machine: a Debian tree with writes in memory, run by systemd-nspawn on the test's network.

Nothing is registered with the host's systemd, which need not be running. Writes survive reboots and are discarded at
the end.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Final, Self

from tests.interop.network import Network, Unavailable
from tests.interop.postfix import eventually
from tests.interop.prepare import CACHE, Tree, ensure, install

__all__ = ["PATH", "BootedMachine"]

PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"

_SIZE: Final = "4g"
"""Size of the memory file system for the machine's writes."""

# The mounts of one machine, in a mount namespace that ends with the shell. systemd 256 and later need a cgroup v2 tree;
# a host with the older one can mount both.
_HOLD: Final = """
set -e
mount -t tmpfs -o "size=$3" machine "$2"
mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" machine "$2/root"
if [ ! -e /sys/fs/cgroup/cgroup.procs ]; then
    umount -l -R /sys/fs/cgroup
    mount -t cgroup2 none /sys/fs/cgroup
fi
echo up
read -r _
"""

_BOOT: Final = """
set -e
mkdir -p "/sys/fs/cgroup/$1"
echo $$ > "/sys/fs/cgroup/$1/cgroup.procs"
exec systemd-nspawn --quiet --boot --register=no --keep-unit --console=pipe --resolv-conf=off --timezone=off \\
    "--machine=$1" "--network-namespace-path=$2" --directory="$3"
"""


class BootedMachine:
    """A context manager; the machine is booted when it is entered. ``root`` is its root folder, seen from outside."""

    def __init__(self, tree: Tree, network: Network, log: Path) -> None:
        lower = ensure(tree)
        if shutil.which("systemd-nspawn") is None:
            install("systemd-container")
        self.network = network
        self._log = log
        self._name = f"mtasts-system-{os.getpid()}"
        scratch = CACHE / "mount"
        scratch.mkdir(exist_ok=True)
        self._root = scratch / "root"
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", _HOLD, "sh", lower, scratch, _SIZE],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "up\n":
            _, problem = self._holder.communicate()
            raise Unavailable(f"the mounts of a machine cannot be made: {problem.strip()}")
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = ""

    def __enter__(self) -> Self:
        try:
            self.boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self._leader}/root")

    def boot(self) -> None:
        """Boot it and wait until systemd has started everything."""
        with self._log.open("ab") as console:
            self._nspawn = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "nsenter", "--target", str(self._holder.pid), "--mount", "sh", "-c",
                 _BOOT, "sh", self._name, str(self.network.path), str(self._root)],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console,
            )  # fmt: skip
        self._leader = eventually(self._find_leader, "the machine's first process")
        eventually(lambda: self._run(["systemctl", "is-system-running"], 10)[1] in ("running\n", "degraded\n"), "boot")

    def _find_leader(self) -> str:
        nspawn = self._nspawn
        assert nspawn is not None
        if nspawn.poll() is not None:
            raise Unavailable(f"systemd-nspawn ended with {nspawn.returncode}:\n{self._log.read_text()[-2000:]}")
        children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children").read_text().split()
        # The child is systemd itself only after it has entered its namespaces and its root.
        return next((child for child in children if Path(f"/proc/{child}/comm").read_text() == "systemd\n"), "")

    def power_off(self) -> None:
        """Shut it down as an administrator does, and wait for its end."""
        assert self._nspawn is not None
        self._run(["systemctl", "poweroff", "--no-block"], 30)
        self._nspawn.wait(90)

    def close(self) -> None:
        """Kill it and discard its writes."""
        if self._nspawn is not None:
            if self._leader and self._nspawn.poll() is None:
                os.kill(int(self._leader), signal.SIGKILL)  # it would outlive nspawn
            self._nspawn.kill()
            self._nspawn.wait()
            with contextlib.suppress(OSError):
                self._remove_cgroups()
        self._holder.communicate()

    def _remove_cgroups(self) -> None:
        """Return the processes left; the kernel may need a moment to remove the last one."""
        time.sleep(0.2)
        command = f"find /sys/fs/cgroup/{self._name} -depth -type d -exec rmdir {{}} \\;"
        subprocess.run(
            ["nsenter", "--target", str(self._holder.pid), "--mount", "sh", "-c", command],
            stderr=subprocess.DEVNULL, check=False,
        )  # fmt: skip

    # -- inside ----------------------------------------------------------------------------------------------

    def command(self, *arguments: str) -> list[str]:
        """Return the command line that runs another one inside, as root."""
        namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd"]
        return ["nsenter", "--target", self._leader, *namespaces, "--", *arguments]

    def run(self, *arguments: str, timeout: float = 120) -> str:
        """Run a command and return its output. Fails the test if the command fails."""
        code, output = self._run(list(arguments), timeout)
        if code != 0:
            raise AssertionError(f"{arguments} ended with {code}: {output}")
        return output

    def attempt(self, *arguments: str, timeout: float = 120) -> tuple[int, str]:
        """Run a command and return its exit code and output."""
        return self._run(list(arguments), timeout)

    def _run(self, arguments: list[str], timeout: float) -> tuple[int, str]:
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
        }
        done = subprocess.run(
            self.command(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", env=environment, check=False, timeout=timeout,
        )  # fmt: skip
        return done.returncode, done.stdout

    def unit(self, name: str, key: str) -> str:
        """Return one property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={key}", name).strip()

    def journal(self, unit: str) -> str:
        """Return the log of a unit since the boot."""
        return self.run("journalctl", "--no-pager", "--boot", "--output=cat", f"--unit={unit}")
