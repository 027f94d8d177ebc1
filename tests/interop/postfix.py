"""A real Postfix on a machine: configuration, start, mail, log and queue."""

import json
import re
import smtplib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from tests.interop.machine import Machine
from tests.interop.world import NAMESERVER

__all__ = ["Postfix", "Sent", "eventually"]

T = TypeVar("T")
_FILES: Final = Path(__file__).parent / "postfix"
_QUEUE: Final = "var/spool/postfix"
_ATTEMPT: Final = re.compile(r" (\w+): to=<.*dsn=([\d.]+), status=(\w+) \((.*)\)$", re.MULTILINE)


def eventually(look: Callable[[], T | None], what: str, seconds: float = 30.0) -> T:
    """Call ``look`` until its result is true and return that. Fails the test after the deadline."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)
    return seen


@dataclass(frozen=True, slots=True)
class Sent:
    """The delivery status of one message and recipient, from the log."""

    queue_id: str
    status: str
    dsn: str
    reason: str

    @property
    def delivered(self) -> bool:
        return self.status == "sent"

    @property
    def deferred(self) -> bool:
        return self.status == "deferred"


class Postfix:
    """Runs until its machine ends. ``version`` is the tree's name; it selects the content of master.cf."""

    def __init__(self, machine: Machine, version: str, trust: Path) -> None:
        self.version = version
        self._machine = machine
        etc = machine.root / "etc/postfix"
        master = (_FILES / "master.cf").read_text()
        if version != "3.7":
            master += (_FILES / "master-3.10.cf").read_text()
        (etc / "master.cf").write_text(master)
        for name in ("main.cf", "transport"):
            (etc / name).write_text((_FILES / name).read_text())
        (etc / "ca.pem").write_bytes(trust.read_bytes())
        resolver = f"nameserver {NAMESERVER}\n"
        (machine.root / "etc/resolv.conf").write_text(resolver)
        chroot_etc = machine.root / _QUEUE / "etc"
        chroot_etc.mkdir(exist_ok=True)
        (chroot_etc / "resolv.conf").write_text(resolver)
        (chroot_etc / "services").write_bytes((machine.root / "etc/services").read_bytes())
        self.log_file = machine.root / "var/log/mail.log"
        # Sockets bound here belong to the group of smtp(8).
        self.sockets = machine.root / _QUEUE / "run/mtasts"
        machine.run("install", "-d", "-g", "postfix", "-m", "2755", f"/{_QUEUE}/run/mtasts")

    def start(self) -> None:
        self._machine.run("postfix", "start")

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    @property
    def exact_version(self) -> str:
        """Return mail_version, such as 3.7.11."""
        return self._machine.run("postconf", "-h", "mail_version").strip()

    def postmap(self, key: str, table: str) -> str:
        """Return the output of ``postmap -q``; empty text if the key is not found."""
        return self._machine.run("postmap", "-q", key, table, check=False)

    def submit(self, *recipients: str) -> list[str]:
        """Send one message to each recipient in one session. Return the queue ids."""

        def session() -> list[str]:
            with smtplib.SMTP("127.0.0.1", 25, local_hostname="test.example", timeout=20) as smtp:
                return [self._submit_one(smtp, recipient) for recipient in recipients]

        return self._machine.network.call(session)

    @staticmethod
    def _submit_one(smtp: smtplib.SMTP, recipient: str) -> str:
        smtp.ehlo_or_helo_if_needed()
        for verb, expected in (("MAIL FROM:<sender@sender.example>", 250), (f"RCPT TO:<{recipient}>", 250)):
            code, said = smtp.docmd(verb)
            assert code == expected, said
        code, said = smtp.data(f"From: <sender@sender.example>\r\nTo: <{recipient}>\r\n\r\nhello\r\n")
        queued = re.search(rb"queued as (\w+)", said)
        assert code == 250, said
        assert queued, said
        return queued[1].decode()

    def outcomes(self) -> dict[str, Sent]:
        """Return the result of the first delivery attempt of each message so far, by queue id."""
        tried = (Sent(*found.group(1, 3, 2, 4)) for found in _ATTEMPT.finditer(self.log))
        return {sent.queue_id: sent for sent in reversed([*tried])}

    def outcome(self, queue_id: str) -> Sent:
        """Wait for the first delivery attempt of the message and return its result."""
        return eventually(lambda: self.outcomes().get(queue_id), f"an attempt to deliver {queue_id}")

    def send(self, domain: str) -> Sent:
        """Send one message to the domain and return the result of its first delivery attempt."""
        return self.outcome(self.submit(f"user@{domain}")[0])

    def queued(self, queue_id: str) -> dict[str, object] | None:
        """Return the message as in ``postqueue -j``; None if it is not in the queue."""
        entries = [json.loads(line) for line in self._machine.run("postqueue", "-j").splitlines()]
        return next((entry for entry in entries if entry["queue_id"] == queue_id), None)

    def rests_deferred(self, queue_id: str) -> bool:
        """Return True once the message is in the deferred queue."""

        def lies() -> bool:
            entry = self.queued(queue_id)
            return entry is not None and entry["queue_name"] == "deferred"

        return eventually(lies, f"{queue_id} in the deferred queue")

    def leaves_queue(self, queue_id: str) -> bool:
        """Return True once the message has left every queue."""
        return eventually(lambda: self.queued(queue_id) is None, f"{queue_id} in no queue")
