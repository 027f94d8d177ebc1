"""The daemon under test: a process on the network, with its sockets where Postfix looks for them."""

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
# An /etc of its own, in memory: this host's, but without its Postfix, and with the files in $1/etc.
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
# It opens these by itself; master.cf names them too.
LISTEN: Final = ["socketmap:inet:127.0.0.1:8461", "tcp_table:127.0.0.1:8462"]


class Daemon:
    """A context manager that keeps it running; ``sockets`` is the folder for its Unix socket.

    The Unix socket is ours and handed over as systemd does it, so that it outlives the daemon and lookups wait in its
    backlog while the daemon restarts. ``settings`` change the configuration, section by section; ``etc`` holds the
    text of files below /etc that only the daemon sees: no main.cf but what is here.
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
        """End it and take its socket away."""
        self.kill()
        self._unix.close()

    @property
    def log(self) -> str:
        return self._log_file.read_text(errors="replace") if self._log_file.exists() else ""

    @property
    def complaints(self) -> list[str]:
        """The log's lines that tell of something wrong."""
        return [line for line in self.log.splitlines() if not line.startswith(("info: ", "debug: "))]

    def start(self) -> None:
        """Start it and wait for its first answer."""
        with self._log_file.open("ab") as output:
            self._process = subprocess.Popen(
                self._network.command(
                    "unshare", "--mount", "sh", "-c", _OWN_ETC, "sh", str(self._folder),
                    sys.executable, str(Path(__file__).parent / "activate.py"), f"socketmap={self._unix.fileno()}",
                    sys.executable, "-m", "mtasts_daemon", "serve", "-c", str(self._config),
                ),
                pass_fds=[self._unix.fileno()],
                stdout=output, stderr=output, cwd=_CHECKOUT,
            )  # fmt: skip
        self.lookup("start.invalid")

    def stop(self) -> None:
        """Ask it to end, as systemd does; fails the test when it does not end well within 5 s."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(5) == os.EX_OK, self.log

    def kill(self) -> None:
        """End it without a word of warning."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def reload(self, **settings: Any) -> None:
        """Let it read its configuration again, with these sections changed, and wait until that is in force."""
        self._configure(settings)
        assert self._process is not None
        reloads = self.log.count("reloaded")
        self._process.send_signal(signal.SIGHUP)
        eventually(lambda: self.log.count("reloaded") > reloads, "a reload")

    def logs(self, text: str, *, times: int = 1) -> None:
        """Wait until the log holds the text so many times."""
        eventually(lambda: self.log.count(text) >= times, f"{text!r} in the daemon's log")

    def comes_to_log(self, text: str, *, by_asking: str) -> None:
        """Wait until the log holds the text, looking the key up all the while."""
        eventually(lambda: self.lookup(by_asking) and text in self.log, f"{text!r} in the daemon's log")

    def ctl(self, *arguments: str, send: bytes = b"", codes: Sequence[int] = (os.EX_OK,)) -> str:
        """What ``mtastsctl`` prints where the daemon runs, with the daemon's configuration and ``send`` as input.

        It must end with one of the exit ``codes``.
        """
        assert self._process is not None
        done = subprocess.run(
            ["nsenter", "--target", str(self._process.pid), "--net", "--mount", f"--wd={_CHECKOUT}", "--",
             sys.executable, "-c", "from mtasts_daemon.cli.main import ctl_main; raise SystemExit(ctl_main())",
             *arguments, "-c", str(self._config)],
            input=send, capture_output=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode in codes, done.stderr.decode()
        return done.stdout.decode()

    def write_etc(self, name: str, text: str) -> None:
        """Change a file below /etc under the running daemon, all at once as others do it too."""
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
        """The reply to one lookup over the Unix socket, as it stands in the netstring."""
        process = self._process
        assert process is not None
        request = f"{zone} {key}".encode()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, client.makefile("rb") as replies:
            client.settimeout(20)
            client.connect(self._path)
            client.sendall(b"%d:%b," % (len(request), request))
            # The listening socket is ours, so a daemon that has died does not show on the connection.
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
        """Wait until the reply to a lookup holds the text."""
        eventually(lambda: text in self.lookup(key, zone), f"{text!r} in the reply for {key}")
