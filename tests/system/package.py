"""The Debian package, built from this checkout in a clean Debian 13 tree from Debian's libraries alone."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from mtasts_daemon import __version__
from tests.interop.network import Network
from tests.interop.prepare import CACHE, Tree, ensure

__all__ = ["BUILD", "MACHINE", "build_packages", "run_in_build_tree"]

_CHECKOUT: Final = Path(__file__).parents[2]
_LIBRARIES: Final = (
    *("python3-aiohttp", "python3-cryptography", "python3-idna", "python3-prometheus-client", "python3-pydantic"),
    *("python3-uvloop", "python3-yaml", "python3-yarl"),
)
MACHINE: Final = Tree(
    "trixie", ("dbus", "iproute2", "postfix", "procps", "systemd-sysv"), "machine", ("ca-certificates", *_LIBRARIES)
)
"""The machine that the package is installed on. Its dependencies are there, since the machine has no network."""

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

# As root where the trees are, but tests run as an ordinary user; without a network, and with memory for /tmp.
_ENTER: Final = """
set -e
mount -t tmpfs build "$2"
mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" build "$2/root"
mount --rbind /dev "$2/root/dev"
mount -t proc proc "$2/root/proc"
mount -t tmpfs tmp "$2/root/tmp"
mkdir -p "$2/root/build"
mount --bind "$3" "$2/root/build"
root=$2/root
shift 3
exec chroot "$root" setpriv --reuid=65534 --regid=65534 --clear-groups env -C /build "$@"
"""


def run_in_build_tree(folder: Path, *command: str, log: Path, environment: dict[str, str] | None = None) -> int:
    """Run a command in the build tree as nobody, offline; ``folder`` is its /build. Return its exit code."""
    lower = ensure(BUILD)
    scratch = CACHE / "mount"
    scratch.mkdir(exist_ok=True)
    os.chown(folder, 65534, 65534)
    given = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "HOME": "/nonexistent",
        **(environment or {}),
    }
    with Network() as network, log.open("ab") as output:
        return subprocess.run(
            ["nsenter", f"--net={network.path}", "unshare", "--mount", "--pid", "--fork", "--kill-child",
             "sh", "-c", _ENTER, "sh", lower, scratch, folder, *command],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=given, check=False,
        ).returncode  # fmt: skip


def build_packages(folder: Path, log: Path, *, tests: bool) -> tuple[Path, Path]:
    """Return the package and the same one as a later Debian revision, for upgrades.

    ``tests``: run the unit suite while the first is built, as the package's own rules do.
    """
    source = folder / "source"
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=_CHECKOUT, capture_output=True, check=True,
    ).stdout.split(b"\0")  # fmt: skip
    for name in (os.fsdecode(name) for name in files if name):
        if (_CHECKOUT / name).is_file() and not (_CHECKOUT / name).is_symlink():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(_CHECKOUT / name, source / name)
    for place in (source, *source.rglob("*")):
        os.chown(place, 65534, 65534)
    epoch = {"SOURCE_DATE_EPOCH": "1767225600"}
    sdist = f"mtasts_daemon-{__version__}.tar.gz"

    def step(*command: str, **environment: str) -> None:
        assert run_in_build_tree(folder, *command, log=log, environment=epoch | environment) == 0, _tail(log)

    step("sh", "-c", "cd source && python3 -m hatchling build --target sdist --directory /build")
    build = "source/packaging/debian/build"
    step("sh", build, sdist, "first", DEB_BUILD_OPTIONS="" if tests else "nocheck")
    step("sh", build, sdist, "second", "2", DEB_BUILD_OPTIONS="nocheck")
    return (
        folder / "first" / f"mtasts-daemon_{__version__}-1_all.deb",
        folder / "second" / f"mtasts-daemon_{__version__}-2_all.deb",
    )


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-60:])
