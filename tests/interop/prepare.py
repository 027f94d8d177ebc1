"""Build the machines: Debian trees, kept in the checkout and rebuilt only if their recipe changes.

``python -m tests.interop.prepare`` builds missing trees (minutes) and prints where they are. It installs debootstrap
and the archive's keys on this host if they are missing, and no other package.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.interop.network import Network, Unavailable

__all__ = ["CACHE", "IMAP_SERVER", "NAME_SERVERS", "TREES", "WEB_SERVER", "Tree", "ensure", "install"]

CACHE: Final = Path(__file__).resolve().parents[2] / ".cache" / "interop"
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Increment if the steps below change so that old trees must be rebuilt.
RECIPE: Final = 1


@dataclass(frozen=True, slots=True)
class Tree:
    """A Debian release with a few packages, unpacked and configured, never started."""

    suite: str
    packages: tuple[str, ...]
    name: str = ""
    """Name of its folder, instead of the packages' names."""
    more: tuple[str, ...] = ()
    """Packages that apt adds afterwards, because debootstrap does not resolve virtual packages."""

    @property
    def path(self) -> Path:
        return CACHE / "-".join((self.suite, *((self.name,) if self.name else self.packages)))

    @property
    def stamp(self) -> Path:
        return self.path.with_suffix(".stamp")

    @property
    def recipe(self) -> str:
        """The recipe of the tree; if it changes, the tree is rebuilt."""
        return hashlib.sha256(repr((RECIPE, self.suite, self.packages, *self.more)).encode()).hexdigest()


TREES: Final = {
    "3.7": Tree("bookworm", ("postfix",)),
    "3.10": Tree("trixie", ("postfix",)),
}
"""One tree for each Postfix."""

NAME_SERVERS: Final = Tree("bookworm", ("knot", "unbound"))
WEB_SERVER: Final = Tree("trixie", ("nginx-light",))
IMAP_SERVER: Final = Tree("trixie", ("dovecot-imapd",))


def ensure(tree: Tree) -> Path:
    """Return the root folder of ``tree``; build it first if it is missing or its recipe has changed.

    Raises ``Unavailable`` if root or apt is missing or the build fails.
    """
    if os.geteuid() != 0:
        raise Unavailable("it needs root")
    CACHE.mkdir(parents=True, exist_ok=True)
    with _lock():
        if not (tree.stamp.exists() and tree.stamp.read_text() == tree.recipe and tree.path.is_dir()):
            _build(tree)
    return tree.path


@contextmanager
def _lock() -> Iterator[None]:
    """Lock: two runs in one checkout must not build the same tree."""
    with (CACHE / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build(tree: Tree) -> None:
    mirror = _mirror()
    _install_debootstrap(tree.suite)
    partial = tree.path.with_suffix(".partial")
    tree.stamp.unlink(missing_ok=True)
    for old in (partial, tree.path):
        if old.exists():
            shutil.rmtree(old)
    include = ",".join(tree.packages)
    log = tree.path.with_suffix(".log")
    log.unlink(missing_ok=True)
    _run(
        ["debootstrap", "--foreign", "--variant=minbase", f"--include={include}", f"--keyring={KEYRING}",
         tree.suite, str(partial), mirror, *_script(tree.suite)],
        log,
    )  # fmt: skip
    # The tree can be built again, so durability does not matter, and fsync takes most of dpkg's time.
    (partial / "etc/dpkg/dpkg.cfg.d").mkdir(parents=True, exist_ok=True)
    (partial / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n")
    # In its own namespaces, so that no process that a package starts reaches the host or keeps running.
    with Network() as network:
        _run(
            ["nsenter", f"--net={network.path}", "unshare", "--mount", "--pid", "--uts", "--ipc", "--fork",
             "--kill-child", "chroot", str(partial), "/debootstrap/debootstrap", "--second-stage"],
            log,
        )  # fmt: skip
    if tree.more:
        (partial / "etc/apt/sources.list").write_text(f"deb {mirror} {tree.suite} main\n")
        apt = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "chroot", str(partial), "apt-get", "-q"]
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
        # A mirror may be a snapshot, older than its Release file is valid.
        _run([*apt, "-o", "Acquire::Check-Valid-Until=false", "update"], log, environment)
        _run([*apt, "install", "-y", "--no-install-recommends", *tree.more], log, environment)
    for archive in (partial / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()
    partial.rename(tree.path)
    tree.stamp.write_text(tree.recipe)


def _script(suite: str) -> list[str]:
    """Return the script for a release that this host's debootstrap does not know yet."""
    scripts = Path("/usr/share/debootstrap/scripts")
    return [] if (scripts / suite).exists() else [str(scripts / "sid")]


def _mirror() -> str:
    """Return the Debian archive that this host's apt uses."""
    if shutil.which("apt-get") is None:
        raise Unavailable("it needs apt-get")
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    codename = release.get("VERSION_CODENAME", "").strip('"')
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Component: main",
         f"Release: {codename}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if release.get("ID") != "debian" or not targets.stdout.split():
        raise Unavailable("it needs a Debian host whose apt knows the main archive")
    return targets.stdout.split()[0]


def _install_debootstrap(suite: str) -> None:
    keys = KEYRING.with_name(f"debian-archive-{suite}-stable.gpg")
    if shutil.which("debootstrap") and (keys.exists() or (suite == "forky" and KEYRING.exists())):
        return
    install("debootstrap", "debian-archive-keyring")


def install(*packages: str) -> None:
    """Install packages on this host. Raises ``Unavailable`` if that fails."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    log = CACHE / "apt.log"
    _run(["apt-get", "update", "-q"], log, environment)
    _run(["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages], log, environment)


def _run(command: Sequence[str], log: Path, environment: dict[str, str] | None = None) -> None:
    with log.open("a") as output:
        status = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, check=False
        ).returncode
    if status != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise Unavailable(f"{command[0]} ended with {status}; the end of {log}:\n{tail}")


def main() -> int:
    """Build all trees. Return 69 (EX_UNAVAILABLE) if this host cannot."""
    named = {f"Postfix {version}": tree for version, tree in TREES.items()} | {"name servers": NAME_SERVERS}
    for name, tree in named.items():
        try:
            print(f"{name}: {ensure(tree)}")
        except Unavailable as error:
            print(f"{name}: {error}", file=sys.stderr)
            return os.EX_UNAVAILABLE
    return os.EX_OK


if __name__ == "__main__":
    raise SystemExit(main())
