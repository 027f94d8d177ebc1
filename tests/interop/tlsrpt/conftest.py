"""A site whose Postfix sends TLS results to the daemon, and sends the reports as the README says."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.ca import Flaw
from tests.fakes.rua import RuaHost
from tests.interop.postfix import Postfix, eventually
from tests.interop.site import Site, open_site

SENDER = "tls-reports@sender.example"
MAILBOX = "postmaster@mailbox.example"

# As in the README, but with a program that only stores its input.
_MAIN = f"""
recipient_delimiter = +
sender_dependent_default_transport_maps = inline:{{ {SENDER}=tls-reports }}
tls-bounce_destination_recipient_limit = 1
virtual_mailbox_domains = mailbox.example
virtual_mailbox_base = /var/mail
virtual_mailbox_maps = inline:{{ {MAILBOX}=postmaster/ }}
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
"""
_MASTER = """
virtual    unix - n n - - virtual
tls-reports unix - - y - - smtp
  -o syslog_name=postfix/tls-reports
  -o smtp_tls_security_level=may
  -o smtp_tls_policy_maps=
  -o smtp_tls_loglevel=0
  -o smtp_tlsrpt_enable=no
tls-bounce unix - n n - - pipe
  flags=D user=nobody argv=/usr/bin/dd of=/tmp/bounce
"""


@dataclass(frozen=True, slots=True)
class Reporting:
    """The site, and the fake receiver of reports over HTTPS."""

    site: Site
    folder: Path
    host: RuaHost

    @property
    def database(self) -> Path:
        return self.folder / "tlsrpt.sqlite"

    @property
    def yesterday(self) -> str:
        return (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%d")

    def sent(self, domain: str, flaw: Flaw | None, count: int, rua: str) -> None:
        """Send ``count`` messages to the domain, which enforces a policy and wants reports; wait for the results."""
        world = self.site.world
        exchanger = world.exchanger(f"mx.{domain}", flaw=flaw)
        world.send_mail_for(domain, exchanger)
        world.publish(domain, "enforce", [exchanger.name])
        world.records(f"_smtp._tls.{domain}", f'TXT "v=TLSRPTv1; rua={rua}"')
        for _ in range(count):
            self.site.postfix.send(domain)
        self.collected(domain, count)

    def collected(self, domain: str, sessions: int, day: str = "today") -> list[dict[str, Any]]:
        """Return the policies of the domain's day once the database has ``sessions`` of them."""

        def look() -> list[dict[str, Any]] | None:
            shown = json.loads(self.site.daemon.ctl("tlsrpt", "show", "--json", day, domain))
            policies: list[dict[str, Any]] = shown["policies"]
            done = sum(policy["successful"] + policy["failed"] for policy in policies)
            assert done <= sessions
            return policies if done == sessions else None

        return eventually(look, f"{sessions} sessions of {domain}")

    def day_is_over(self) -> None:
        """Move today's results to yesterday, because a test cannot wait for midnight."""
        with closing(sqlite3.connect(self.database, timeout=20)) as connection, connection:
            connection.execute("UPDATE OR IGNORE report_unit SET day = ?", (self.yesterday,))

    @contextmanager
    def sender(self, address: str) -> Iterator[None]:
        """Use another sender of report mails during the block."""
        settings = _settings(self.site.postfix)["tlsrpt"]
        self.site.daemon.reload(tlsrpt=settings | {"sender": address})
        yield
        self.site.daemon.reload(tlsrpt=settings)


def _settings(postfix: Postfix) -> dict[str, Any]:
    tlsrpt = {
        "socket": str(postfix.sockets / "tlsrpt.sock"),
        "organization": "Example Ltd",
        "contact": SENDER,
        "sender": SENDER,
        "spread": "0s",
    }
    # Postfix's own level, so that domains in testing mode get attributes.
    return {"tlsrpt": tlsrpt, "zones": {"QUERYwithTLSRPT": {"default_level": "may"}}}


@pytest.fixture(scope="session")
def reporting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reporting]:
    folder = tmp_path_factory.mktemp("reporting")
    with open_site("3.10", folder, _settings) as site:
        _extend(site)
        host = RuaHost(site.world.ca)
        site.world.wait(host.__aenter__())
        site.world.records("reports.https.example", "A 127.0.0.1")
        try:
            yield Reporting(site, folder, host)
        finally:
            site.world.wait(host.__aexit__(None, None, None))


def _extend(site: Site) -> None:
    etc = site.machine.root / "etc/postfix"
    for name, more in (("main.cf", _MAIN), ("master.cf", _MASTER), ("transport", f"{SENDER} tls-bounce:\n")):
        (etc / name).write_text((etc / name).read_text() + more)
    site.machine.run("install", "-d", "-o", "nobody", "/var/mail/postmaster")
    site.machine.run("postfix", "reload")
