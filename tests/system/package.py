"""The Debian package, built from this checkout in a clean Debian 13 tree from Debian's libraries alone."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from mtasts_daemon import __version__
from tests.interop.network import Network
from tests.interop.prepare import CACHE, Tree, ensure
from tests.system.booted import PATH

__all__ = ["BUILD", "MACHINE", "build_packages", "copy_checkout", "run_in_build_tree", "run_in_tree"]

_CHECKOUT: Final = Path(__file__).parents[2]
_LIBRARIES: Final = (
    *("python3-aiohttp", "python3-cryptography", "python3-idna", "python3-prometheus-client", "python3-pydantic"),
    *("python3-aiosmtpd", "python3-dkim", "python3-dnspython", "python3-uvloop", "python3-yaml", "python3-yarl"),
)
MACHINE: Final = Tree(
    "trixie", ("dbus", "iproute2", "postfix", "procps", "systemd-sysv"), "machine", ("ca-certificates", *_LIBRARIES)
)
"""The machine that the package is installed on. It contains the dependencies, because the machine has no network."""

BUILD: Final = Tree(
    "trixie",
    ("ca-certificates",),
    "build",
    (
        *("build-essential", "debhelper", "dh-python", "fakeroot", "groff", "iproute2", "lintian"),
        *("man-db", "mandoc", "openssl", "procps", "pybuild-plugin-pyproject", "systemd"),
        *("python3-aiosmtpd", "python3-all", "python3-dkim", "python3-dnspython", "python3-hatchling"),
        *("python3-hypothesis", "python3-jsonschema", "python3-nacl", "python3-pytest", "python3-pytest-timeout"),
        *("python3-trustme", *_LIBRARIES),
    ),
)
"""The tree that the package is built in: the build dependencies of packaging/debian/control, and lintian."""

# Tests run as an ordinary user, offline, with memory for /tmp. $5 is run as root before, with the host's network and
# the authorities that the host trusts.
_ENTER: Final = """
set -e
mount -t tmpfs tree "$2"
mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" tree "$2/root"
mount --rbind /dev "$2/root/dev"
mount -t proc proc "$2/root/proc"
mount -t tmpfs tmp "$2/root/tmp"
mkdir -p "$2/root/build" "$2/root/run/systemd"
chown 65534:65534 "$2/root/run/systemd"
mount --bind "$3" "$2/root/build"
root=$2/root net=$4
if [ -n "$5" ]; then
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    cp --remove-destination /etc/resolv.conf /etc/hosts "$root/etc/"
    chroot "$root" sh -c "$5"
fi
shift 5
exec nsenter "--net=$net" chroot "$root" \\
    setpriv --reuid=65534 --regid=65534 --clear-groups --pdeathsig KILL \\
    env -C /build HOME=/nonexistent LC_ALL=C.UTF-8 "$@"
"""


def run_in_tree(tree: Tree, folder: Path, *command: str, log: Path, prepare: str = "") -> int:
    """Run a command as nobody and offline, with ``folder`` as its /build. Return its exit code.

    ``prepare`` is a shell command that root runs in the tree before, online. Writes outside ``folder`` are discarded.
    """
    lower = ensure(tree)
    scratch = CACHE / "mount"
    scratch.mkdir(exist_ok=True)
    os.chown(folder, 65534, 65534)
    with Network() as network, log.open("ab") as output:
        return subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child",
             "sh", "-c", _ENTER, "sh", lower, scratch, folder, network.path, prepare, *command],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, "PATH": PATH}, check=False,
        ).returncode  # fmt: skip


def run_in_build_tree(folder: Path, *command: str, log: Path) -> int:
    """Run a command in the tree that has the build dependencies."""
    return run_in_tree(BUILD, folder, *command, log=log)


def copy_checkout(folder: Path) -> None:
    """Copy the files of this checkout, as the user that runs commands in a tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=_CHECKOUT, capture_output=True, check=True,
    ).stdout.split(b"\0")  # fmt: skip
    for name in (os.fsdecode(name) for name in listed if name):
        if (_CHECKOUT / name).is_file() and not (_CHECKOUT / name).is_symlink():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(_CHECKOUT / name, folder / name)
    for place in (folder, *folder.rglob("*")):
        os.chown(place, 65534, 65534)


def build_packages(folder: Path, log: Path, *, tests: bool) -> tuple[Path, Path]:
    """Return the package and the same one as a later Debian revision, for upgrades.

    ``tests``: run the unit suite while the first is built, as the package's own rules do.
    """
    copy_checkout(folder / "source")
    sdist = f"mtasts_daemon-{__version__}.tar.gz"

    def step(*command: str) -> None:
        epoch = ("env", "SOURCE_DATE_EPOCH=1767225600")
        assert run_in_build_tree(folder, *epoch, *command, log=log) == 0, _tail(log)

    step("sh", "-c", "cd source && python3 -m hatchling build --target sdist --directory /build")
    build = "source/packaging/debian/build"
    step("DEB_BUILD_OPTIONS=" + ("" if tests else "nocheck"), "sh", build, sdist, "first")
    step("DEB_BUILD_OPTIONS=nocheck", "sh", build, sdist, "second", "2")
    return (
        folder / "first" / f"mtasts-daemon_{__version__}-1_all.deb",
        folder / "second" / f"mtasts-daemon_{__version__}-2_all.deb",
    )


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-60:])
