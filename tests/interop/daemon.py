"""The daemon under test: a process on the network, with its sockets where Postfix looks for them."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import yaml

from tests.interop.network import Network
from tests.interop.postfix import eventually
from tests.interop.world import NAMESERVER

__all__ = ["Daemon"]

COMMAND: Final = (sys.executable, "-m", "mtasts_daemon", "serve", "-c")
# It opens these by itself; master.cf names them too.
LISTEN: Final = ["socketmap:inet:127.0.0.1:8461", "tcp_table:127.0.0.1:8462"]


class Daemon:
    """A context manager that keeps it running; ``sockets`` is the folder for its Unix socket.

    The Unix socket is ours and handed over as systemd does it, so that it outlives the daemon and lookups wait in its
    backlog while the daemon restarts.
    """

    def __init__(
        self, network: Network, sockets: Path, folder: Path, trust: Path, overrides: Mapping[str, Any]
    ) -> None:
        self._network = network
        self._path = str(sockets / "lookup.sock")
        self._config = folder / "config.yml"
        self._log_file = folder / "daemon.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        settings = {
            "listen": LISTEN,
            "dns": {"resolvers": [f"{NAMESERVER}:53"]},
            "https": {"ca_file": str(trust), "allow_addresses": ["127.0.0.0/8"]},
            "store": {"path": str(folder / "store.sqlite3")},
            "cache": {"txt_ttl_min": "1s"},
            "overrides": dict(overrides),
        }
        self._config.write_text(yaml.safe_dump(settings))

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

    def start(self) -> None:
        """Start it and wait for its first answer."""
        with self._log_file.open("ab") as output:
            self._process = subprocess.Popen(
                self._network.command(
                    sys.executable, str(Path(__file__).parent / "activate.py"),
                    f"socketmap={self._unix.fileno()}", *COMMAND, str(self._config),
                ),
                pass_fds=[self._unix.fileno()],
                stdout=output, stderr=output, cwd=Path(__file__).parents[2],
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
