"""The daemon as a process, with a fake service manager and a fake Internet.

    with Internet(folder / "internet") as internet, Process(folder, internet) as daemon:
        internet.publish("example.com")
        assert daemon.lookup("example.com").startswith("OK secure ")
        daemon.signal(signal.SIGHUP)
        daemon.hear("READY=1")

Tests wait for notifications and log lines, not for time to pass.
"""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import yaml

from tests.fakes.ca import Ca
from tests.fakes.dns import FakeDns
from tests.fakes.https import Behaviour, PolicyHost

__all__ = ["Client", "Internet", "Process"]

T = TypeVar("T")

_PATIENCE: Final = 120.0
"""Seconds after which a wait fails the test; far more than any step takes."""

_REPOSITORY: Final = Path(__file__).parent.parent.parent

# Another port than 443 for policy hosts, and 25 for MX hosts, also in the receiving process.
_PORTS: Final = """
import importlib.machinery, os, sys

class AtAnotherPort:
    def find_spec(self, name, path, target=None):
        package, _, last = name.rpartition(".")
        if last not in ("policy_fetcher", "checker", "receiving_process") or not package.startswith("mtasts_daemon."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            if last == "receiving_process":
                module.PROGRAM = f"port, ports = {port!r}, {ports!r}; exec(ports); {module.PROGRAM}"
            elif last == "checker":
                defaults = module.DomainChecker.__init__.__kwdefaults__
                defaults["https_port"], defaults["smtp_port"] = int(port), int(os.environ.get("TEST_SMTP_PORT", "25"))
            else:
                module.HttpsPolicyFetcher.__init__.__kwdefaults__["port"] = int(port)
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, AtAnotherPort())
"""
# The program's main function, optionally without uvloop.
_LAUNCH: Final = f"""
import sys
_, port, loop, main, *arguments = sys.argv
ports = {_PORTS!r}
exec(ports)
if loop == "asyncio":
    sys.modules["uvloop"] = None
else:
    import uvloop
from mtasts_daemon.cli import main as cli
sys.exit(getattr(cli, main)(arguments))
"""


class Internet:
    """A fake DNS and a fake policy host, served from a thread. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.ca = Ca(folder)
        self._zone: dict[str, list[str]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="internet", daemon=True)
        self.dns = FakeDns()
        self.host = PolicyHost(self.ca, {})

    def __enter__(self) -> Self:
        self._thread.start()
        self.run(self.dns.start())
        self.run(self.host.start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut_off()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def settings(self) -> dict[str, Any]:
        """Return the configuration of a daemon that uses this Internet."""
        return {
            "dns": {"resolvers": ["{}:{}".format(*self.dns.address)], "timeout": "3s"},
            "https": {"ca_file": str(self.ca.pem), "allow_addresses": ["127.0.0.0/8"]},
        }

    def publish(self, domain: str, record_id: str = "1", behaviour: Behaviour | None = None) -> None:
        """Publish the domain's record, a policy host with this behaviour, and the MX host of the default policy."""
        self.records(domain, "MX 10 mail.example.com.")
        self.records(f"_mta-sts.{domain}", f'TXT "v=STSv1; id={record_id};"')
        self.records(f"mta-sts.{domain}", "A 127.0.0.1")
        self.host.behaviours = {**self.host.behaviours, domain: behaviour or Behaviour()}

    def publish_all(self, behaviours: Mapping[str, Behaviour]) -> None:
        """Publish many domains at once."""
        for domain in behaviours:
            self._zone[f"_mta-sts.{domain}"] = ['TXT "v=STSv1; id=1;"']
            self._zone[f"mta-sts.{domain}"] = ["A 127.0.0.1"]
            self._zone[domain] = ["MX 10 mail.example.com."]
        self.host.behaviours = {**self.host.behaviours, **behaviours}

        async def load() -> None:
            self.dns.load(self._zone)

        self.run(load())

    def records(self, name: str, *entries: str) -> None:
        """Set the records and behaviours of a name, as in ``tests.fakes.dns_zone``."""
        self._zone[name] = list(entries)

        async def load() -> None:
            self.dns.load(self._zone)

        self.run(load())

    def requested(self, count: int) -> None:
        """Wait until policy hosts have received ``count`` requests in total."""
        self.run(self.host.seen(count))

    def stop_dns(self) -> None:
        """Stop the resolver; its address refuses queries."""
        self.run(self.dns.close())

    def start_dns(self) -> None:
        """Start the resolver again, at the same address."""
        self.run(self.dns.start())

    def cut_off(self) -> None:
        """Make DNS and all policy hosts unreachable."""
        self.run(self.dns.close())
        self.run(self.host.stop())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it on the thread of the Internet and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_PATIENCE)


class Client:
    """A lookup connection, as Postfix opens it. A context manager."""

    def __init__(self, address: str | tuple[str, int]) -> None:
        self._socket = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        self._socket.settimeout(_PATIENCE)
        self._socket.connect(address)
        self._replies = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._replies.close()
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor, for ``select``."""
        return self._socket.fileno()

    def send(self, octets: bytes) -> None:
        """Send raw bytes."""
        self._socket.sendall(octets)

    def ask(self, key: str, name: str = "postfix") -> None:
        """Send one socketmap request."""
        request = f"{name} {key}".encode()
        self.send(b"%d:%b," % (len(request), request))

    def reply(self) -> str:
        """Return the next socketmap reply."""
        length = b""
        while (octet := self._replies.read(1)) != b":":
            assert octet.isdigit(), "the connection was closed instead"
            length += octet
        payload = self._replies.read(int(length) + 1)
        assert payload.endswith(b",")
        return payload[:-1].decode("ascii")

    def line(self) -> str:
        """Return the next tcp_table reply."""
        return self._replies.readline().decode("ascii")

    def ended(self) -> bool:
        """Wait for data. Return True if the daemon closed the connection instead."""
        return self._replies.read(1) == b""


class Process:
    """A daemon that can be restarted with the same files. A context manager that starts it.

    ``settings`` are added to a configuration with a Unix socket (``socket``), a store and the ``internet``; ``loop``
    is uvloop or asyncio; ``environ`` is added to the environment. ``log`` holds the lines of all runs.
    """

    def __init__(
        self,
        folder: Path,
        internet: Internet | None = None,
        settings: Mapping[str, Any] | None = None,
        *,
        loop: str = "asyncio",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.config = folder / "config.yml"
        self.socket = str(folder / "lookup.sock")
        self.store = folder / "policies.sqlite"
        self.log: list[str] = []
        self.notified: list[list[str]] = []
        self.settings: dict[str, Any] = {
            "listen": [f"socketmap:unix:{self.socket}"],
            "store": {"path": str(self.store)},
            "dns": {"resolvers": ["127.0.0.1:1"]},
            **({} if internet is None else internet.settings),
            **(settings or {}),
        }
        self.process: subprocess.Popen[str] | None = None
        self._port = 1 if internet is None else internet.host.port
        self._loop = loop
        self._environ = environ or {}
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.settimeout(1.0)
        self._manager.bind(os.fspath(folder / "notify"))
        self._more_log = threading.Condition()
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- its life ------------------------------------------------------------------------------------------

    def configure(self, **settings: Any) -> None:
        """Write the configuration again, with these changes."""
        self.settings |= settings
        self.config.write_text(yaml.safe_dump(self.settings))

    def start(self) -> None:
        """Start the daemon and wait until it is ready."""
        self.launch()
        self.hear("READY=1")

    def launch(self) -> None:
        """Start the daemon, which may exit at once."""
        self.configure()
        own = ("MTASTS_", "NOTIFY_", "WATCHDOG_", "LISTEN_", "JOURNAL_", "STATE_")
        environ = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _LAUNCH,
                str(self._port),
                self._loop,
                "daemon_main",
                "serve",
                "-c",
                str(self.config),
            ],
            cwd=_REPOSITORY,
            env={**environ, "NOTIFY_SOCKET": self._manager.getsockname(), **self._environ},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read_log, args=(self.process,), name="log", daemon=True)
        self._reader.start()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def ended(self, within: float = _PATIENCE) -> int:
        """Wait for the daemon's exit and return its exit code."""
        assert self.process is not None
        assert self._reader is not None
        code = self.process.wait(within)
        self._reader.join()
        return code

    def close(self) -> None:
        """Stop the daemon if it runs, and the service manager."""
        self.kill()
        self._manager.close()

    def kill(self) -> None:
        """Kill the daemon (SIGKILL)."""
        if self.process is not None:
            self.process.kill()
            self.ended()

    # -- what it tells -------------------------------------------------------------------------------------

    def hear(self, line: str) -> list[str]:
        """Return the next notification with a line that begins with ``line``; skipped ones are also in ``notified``."""
        assert self.process is not None
        waiting = _PATIENCE
        while True:
            alive = self.process.poll() is None
            try:
                message = self._manager.recv(65536).decode().split("\n")
            except TimeoutError:
                waiting -= 1
                assert alive and waiting > 0, f"{line} was not sent; the log: {self.log}"
                continue
            self.notified.append(message)
            if any(sent.startswith(line) for sent in message):
                return message

    def reload(self, **settings: Any) -> str:
        """Configure, send SIGHUP and wait for the end of the reload. Return its STATUS."""
        self.configure(**settings)
        self.signal(signal.SIGHUP)
        self.hear("RELOADING=1")
        return next(line for line in self.hear("READY=1") if line.startswith("STATUS="))

    def logged(self, pattern: str, count: int = 1) -> list[str]:
        """Wait until ``count`` log lines match the pattern, and return all of them."""
        with self._more_log:
            while True:
                found = self.lines(pattern)
                if len(found) >= count:
                    return found
                assert self._more_log.wait(_PATIENCE), f"{pattern} was not logged, but {self.log}"

    def lines(self, pattern: str) -> list[str]:
        """Return the log lines so far that match the pattern."""
        return [line for line in self.log if re.search(pattern, line)]

    def _read_log(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                with self._more_log:
                    self.log.append(line.rstrip("\n"))
                    self._more_log.notify_all()

    # -- what it answers -----------------------------------------------------------------------------------

    def client(self) -> Client:
        """Return a connection to its Unix socket."""
        return Client(self.socket)

    def lookup(self, key: str, name: str = "postfix") -> str:
        """Return the reply to one lookup on a new connection."""
        with self.client() as client:
            client.ask(key, name)
            return client.reply()
