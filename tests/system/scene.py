"""The shared parts of the tests on the booted machine: the machine, the fake Internet, and both packages."""

import re
import shutil
import smtplib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.interop.postfix import eventually
from tests.interop.world import NAMESERVER, World
from tests.system.booted import BootedMachine

__all__ = ["LOOKUP_SOCKET", "SOCKETS", "Scene"]

LOOKUP_SOCKET: Final = "/var/spool/postfix/run/mtasts/lookup.sock"
SOCKETS: Final = ("mtasts-daemon.socket", "mtasts-daemon-postfix.socket")
_DELIVERY: Final = re.compile(r"(\w+): to=<([^>]*)>.*status=(\w+)")


@dataclass(frozen=True, slots=True)
class Scene:
    """The shared parts. Paths in its methods are those on the machine."""

    machine: BootedMachine
    world: World
    package: Path
    newer_package: Path

    def file(self, path: str) -> Path:
        """Return the outside path of a file on the machine."""
        return self.machine.root / path.lstrip("/")

    def prepare(self) -> None:
        """Set up the resolver, trusted authorities and test network, as an administrator does."""
        self.file("/etc/resolv.conf").unlink(missing_ok=True)
        self.file("/etc/resolv.conf").write_text(f"nameserver {NAMESERVER}\n")
        shutil.copy(self.world.ca.pem, self.file("/usr/local/share/ca-certificates/world.crt"))
        self.machine.run("update-ca-certificates")
        self.machine.run("postconf", "-e", "inet_interfaces=127.0.0.1", "myhostname=sender.example", "mydestination=")
        self.machine.run("postconf", "-e", "maillog_file=/var/log/mail.log", "smtp_tls_loglevel=1")
        self.machine.run("systemctl", "restart", "postfix")

    def configure(self, text: str, name: str = "test.yml") -> None:
        """Write a file in conf.d; an empty text removes it."""
        place = self.file(f"/etc/mtasts-daemon/conf.d/{name}")
        if text:
            place.write_text(text)
        else:
            place.unlink(missing_ok=True)

    def postmap(self, key: str) -> str:
        """Return Postfix's reply for the key over the recommended socket; empty if there is no policy."""
        code, output = self.machine.attempt("postmap", "-q", key, f"socketmap:unix:{LOOKUP_SOCKET}:postfix")
        assert code in (0, 1), output
        return output.strip()

    def comes_to_answer(self, key: str, text: str) -> None:
        """Wait until the reply contains the text."""
        eventually(lambda: text in self.postmap(key), f"{text!r} for {key}")

    def active(self, *units: str) -> dict[str, str]:
        """Return the state of each unit."""
        return {unit: self.machine.unit(unit, "ActiveState") for unit in units}

    def invocations(self) -> list[str]:
        """Return values that change if a socket unit is started again."""
        return [self.machine.unit(unit, "ActiveEnterTimestampMonotonic") for unit in SOCKETS]

    def send(self, recipient: str) -> str:
        """Send a message and return its status: sent, deferred or bounced."""

        def session() -> None:
            with smtplib.SMTP("127.0.0.1", 25, local_hostname="test.example", timeout=20) as smtp:
                smtp.sendmail("sender@sender.example", [recipient], "Subject: test\r\n\r\nhello\r\n")

        self.machine.network.call(session)
        return eventually(lambda: self.deliveries().get(recipient, ""), f"a delivery attempt for {recipient}")

    def deliveries(self) -> dict[str, str]:
        """Return the last status of each recipient in Postfix's log."""
        log = self.file("/var/log/mail.log")
        text = log.read_text(errors="replace") if log.exists() else ""
        return {found[2]: found[3] for found in _DELIVERY.finditer(text)}
