"""The daemon under test: a process in the test network, with its sockets where Postfix expects them."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import yaml

from tests.interop.postfix import eventually
from tests.interop.world import NAMESERVER, World

__all__ = ["Daemon"]

_CHECKOUT: Final = Path(__file__).parents[2]
# A private /etc in memory: a copy of this host's without its Postfix, plus the files in $1/etc.
_OWN_ETC: Final = """
set -e
mount -t tmpfs etc "$1/memory"
mkdir "$1/memory/upper" "$1/memory/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$1/memory/upper,workdir=$1/memory/work" etc /etc
rm -rf /etc/postfix/main.cf
cp -RT "$1/etc" /etc
shift
exec "$@"
"""
_CHECKED_OUT: Final = {
    "mtasts-daemon": [sys.executable, "-m", "mtasts_daemon"],
    "mtastsctl": [sys.executable, "-c", "from mtasts_daemon.cli.main import ctl_main; raise SystemExit(ctl_main())"],
}
# The root folder of the container image, if that is tested instead of the checkout; see README.md.
IMAGE: Final = os.environ.get("INTEROP_IMAGE")
_IMAGE_USER: Final = 65532
# The image with memory on top and the folder in it, at $1/memory/root.
_OWN_ROOT: Final = """
set -e
mount -t tmpfs root "$1/memory"
mkdir "$1/memory/upper" "$1/memory/work" "$1/memory/root"
mount -t overlay -o "lowerdir=$INTEROP_IMAGE,upperdir=$1/memory/upper,workdir=$1/memory/work" root "$1/memory/root"
mount --bind /dev "$1/memory/root/dev"
mount -t proc proc "$1/memory/root/proc"
cp -RT "$1/etc" "$1/memory/root/etc"
mkdir -p "$1/memory/root$1"
mount --bind "$1" "$1/memory/root$1"
shift
exec "$@"
"""
# The daemon opens these; master.cf names them too.
LISTEN: Final = ["socketmap:inet:127.0.0.1:8461", "tcp_table:127.0.0.1:8462"]


class Daemon:
    """A context manager that runs the daemon; ``sockets`` is the folder for its Unix socket.

    The test owns the Unix socket and passes it as systemd does, so lookups wait in its backlog during a restart.
    ``settings`` change the configuration, section by section; ``etc`` holds files below /etc that only the daemon sees;
    without main.cf there is none.
    """

    def __init__(
        self,
        world: World,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        sockets: Path | None = None,
        etc: Mapping[str, str] | None = None,
    ) -> None:
        self._network = world.network
        self._folder = folder
        self._path = str((sockets or folder) / "lookup.sock")
        self._config = folder / "config.yml"
        self._log_file = folder / "daemon.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._settings: dict[str, Any] = {
            "listen": LISTEN,
            "dns": {"resolvers": [f"{NAMESERVER}:53"]},
            "https": {"ca_file": str(world.ca.pem), "allow_addresses": ["127.0.0.0/8"]},
            "store": {"path": str(folder / "store.sqlite3")},
            "cache": {"txt_ttl_min": "1s"},
            "log": {"level": "debug"},
        }
        self._configure(settings)
        (folder / "memory").mkdir()
        (folder / "etc").mkdir()
        for name, text in (etc or {}).items():
            self._write_etc(folder / "etc", name, text)
        if IMAGE:
            os.chown(folder, _IMAGE_USER, _IMAGE_USER)

    def __enter__(self) -> Self:
        self._unix.bind(self._path)
        Path(self._path).chmod(0o660)  # as the socket unit does; the folder gives it Postfix's group
        self._unix.listen(512)
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the daemon and remove its socket."""
        self.kill()
        self._unix.close()

    @property
    def log(self) -> str:
        return self._log_file.read_text(errors="replace") if self._log_file.exists() else ""

    @property
    def complaints(self) -> list[str]:
        """Return the warnings and errors in the log."""
        return [line for line in self.log.splitlines() if not line.startswith(("info: ", "debug: "))]

    def start(self) -> None:
        """Start the daemon and wait for its first answer."""
        with self._log_file.open("ab") as output:
            self._process = subprocess.Popen(
                self._network.command(
                    "unshare", "--mount", "sh", "-c", _OWN_ROOT if IMAGE else _OWN_ETC, "sh", str(self._folder),
                    sys.executable, str(Path(__file__).parent / "activate.py"), f"socketmap={self._unix.fileno()}",
                    *self._program("mtasts-daemon"), "serve", "-c", str(self._config),
                ),
                pass_fds=[self._unix.fileno()],
                stdout=output, stderr=output, cwd=_CHECKOUT,
            )  # fmt: skip
        self.lookup("start.invalid")

    def _program(self, name: str) -> list[str]:
        if IMAGE:
            user = f"--userspec={_IMAGE_USER}:{_IMAGE_USER}"
            return ["chroot", user, str(self._folder / "memory/root"), name]
        return _CHECKED_OUT[name]

    def stop(self) -> None:
        """Stop the daemon as systemd does. Fails the test if it does not exit with 0 within 5 s."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(5) == os.EX_OK, self.log

    def kill(self) -> None:
        """Kill the daemon (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def reload(self, **settings: Any) -> None:
        """Change these sections, reload, and wait until the change is in force."""
        self._configure(settings)
        assert self._process is not None
        reloads = self.log.count("reloaded")
        self._process.send_signal(signal.SIGHUP)
        eventually(lambda: self.log.count("reloaded") > reloads, "a reload")

    def logs(self, text: str, *, times: int = 1) -> None:
        """Wait until the log contains the text ``times`` times."""
        eventually(lambda: self.log.count(text) >= times, f"{text!r} in the daemon's log")

    def comes_to_log(self, text: str, *, by_asking: str) -> None:
        """Look the key up repeatedly until the log contains the text."""
        eventually(lambda: self.lookup(by_asking) and text in self.log, f"{text!r} in the daemon's log")

    def ctl(self, *arguments: str, send: bytes = b"", codes: Sequence[int] = (os.EX_OK,)) -> str:
        """Run ``mtastsctl`` next to the daemon with its configuration and ``send`` as input; return the output.

        The exit code must be one of ``codes``.
        """
        assert self._process is not None
        done = subprocess.run(
            ["nsenter", "--target", str(self._process.pid), "--net", "--mount", f"--wd={_CHECKOUT}", "--",
             *self._program("mtastsctl"), *arguments, "-c", str(self._config)],
            input=send, capture_output=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode in codes, done.stderr.decode()
        return done.stdout.decode()

    def write_etc(self, name: str, text: str) -> None:
        """Replace a file below /etc of the running daemon atomically."""
        assert self._process is not None
        self._write_etc(Path(f"/proc/{self._process.pid}/root/etc"), name, text)

    @staticmethod
    def _write_etc(etc: Path, name: str, text: str) -> None:
        file = etc / name
        file.parent.mkdir(exist_ok=True)
        fresh = file.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(file)

    def _configure(self, settings: Mapping[str, Any]) -> None:
        self._settings |= settings
        self._config.write_text(yaml.safe_dump(self._settings))

    def lookup(self, key: str, zone: str = "postfix") -> str:
        """Return the reply to one lookup over the Unix socket, as in the netstring."""
        process = self._process
        assert process is not None
        request = f"{zone} {key}".encode()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, client.makefile("rb") as replies:
            client.settimeout(20)
            client.connect(self._path)
            client.sendall(b"%d:%b," % (len(request), request))
            # The test owns the listening socket, so the connection does not show that the daemon died.
            eventually(
                lambda: process.poll() is not None or select.select([client], [], [], 0)[0], f"a reply for {key}"
            )
            assert process.poll() is None, f"the daemon ended:\n{self.log}"
            size = b""
            while (octet := replies.read(1)) != b":":
                assert octet.isdigit(), f"no netstring:\n{self.log}"
                size += octet
            return replies.read(int(size)).decode()

    def comes_to_answer(self, key: str, text: str, zone: str = "postfix") -> None:
        """Wait until the reply to a lookup contains the text."""
        eventually(lambda: text in self.lookup(key, zone), f"{text!r} in the reply for {key}")
