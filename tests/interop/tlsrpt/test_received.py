"""Report mails delivered by a real Postfix, by LMTP and by pipe(8)."""

import json
import smtplib
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.interop.postfix import Postfix, eventually
from tests.interop.site import Site, open_site
from tests.tlsrpt.receive import corpus
from tests.tlsrpt.receive.site import dated, txt

pytestmark = [pytest.mark.interop, pytest.mark.timeout(180, func_only=True)]

DOMAIN = "received.example"
_REPOSITORY = Path(__file__).parents[3]
_MASTER = """
lmtp        unix - - y - - lmtp
tlsrpt-pipe unix - n n - - pipe
  flags= user=nobody argv=/usr/local/bin/take-report
"""
# The interpreter that runs this test, with its own libraries, since the machine has no Python.
_TAKE = """\
#!/bin/sh
export PYTHONHOME=/opt/python PYTHONPATH=/opt/repository:/opt/site PYTHONDONTWRITEBYTECODE=1
exec /opt/lib/{loader} --library-path /opt/python/lib:/opt/lib /opt/python/bin/{python} -c \\
  'import sys; from mtasts_daemon.cli.main import ctl_main; sys.exit(ctl_main())' \\
  tlsrpt receive -c /opt/state/config.yml
"""


@dataclass(frozen=True, slots=True)
class Receiving:
    site: Site
    database: Path
    piped: Path

    def submit(self, message: bytes, recipient: str) -> str:
        """Send the mail to Postfix by SMTP. Return the queue id."""

        def session() -> str:
            with smtplib.SMTP("127.0.0.1", 25, local_hostname="test.example", timeout=20) as smtp:
                smtp.ehlo()
                smtp.mail("tlsrpt@reporter.example")
                smtp.rcpt(recipient)
                code, said = smtp.data(message)
                assert code == 250, said
                return said.decode().rpartition("queued as ")[2].strip()

        return self.site.machine.network.call(session)


def rows(path: Path) -> list[tuple[Any, ...]]:
    # SQLite resolves the path, which fails below another process's root: read a copy.
    with tempfile.TemporaryDirectory() as folder, closing(sqlite3.connect(_copied(path, Path(folder)))) as connection:
        return connection.execute(
            "SELECT r.report_id, d.method, d.source, r.counted FROM report r JOIN document d ON d.id = r.document"
        ).fetchall()


def _copied(path: Path, folder: Path) -> Path:
    for suffix in ("", "-wal"):
        source = Path(f"{path}{suffix}")
        if source.exists():
            (folder / f"received.sqlite{suffix}").write_bytes(source.read_bytes())
    return folder / "received.sqlite"


def _settings(postfix: Postfix) -> dict[str, Any]:
    receive = {"own_domains": [DOMAIN], "lmtp_socket": str(postfix.sockets / "receive.sock"), "lmtp_mode": "0666"}
    return {"receive": receive}


@pytest.fixture(scope="module")
def receiving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiving]:
    folder = tmp_path_factory.mktemp("receiving")
    with open_site("3.10", folder, _settings) as site:
        site.world.records("sel._domainkey.reporter.example", txt(corpus.key_record()))
        etc = site.machine.root / "etc/postfix"
        (etc / "master.cf").write_text((etc / "master.cf").read_text() + _MASTER)
        routes = f"{{tlsrpt@{DOMAIN}=lmtp:unix:run/mtasts/receive.sock, piped@{DOMAIN}=tlsrpt-pipe:}}"
        main = (etc / "main.cf").read_text()
        (etc / "main.cf").write_text(main.replace("transport_maps = ", f"transport_maps = inline:{routes}, "))
        _install_command(site)
        site.machine.run("postfix", "reload")
        site.daemon.logs("tlsrpt-receiver-listening")
        yield Receiving(site, folder / "received.sqlite", site.machine.root / "opt/state/received.sqlite")


def _install_command(site: Site) -> None:
    """Make ``mtastsctl tlsrpt receive`` of this checkout available to pipe(8) inside the machine."""
    loader = next(Path("/lib64").glob("ld-linux-*"), None) or next(Path("/lib").glob("ld-linux-*"))
    binds = {
        "python": Path(sys.base_prefix),
        "site": Path(sysconfig.get_paths()["purelib"]),
        "repository": _REPOSITORY,
        "lib": loader.resolve().parent,
    }
    for name, source in binds.items():
        site.machine.run("mkdir", "-p", f"/opt/{name}")
        target = site.machine.command([])[2]
        subprocess.run(
            [
                "nsenter",
                "--target",
                target,
                "--mount",
                "--",
                "mount",
                "--bind",
                source,
                f"/proc/{target}/root/opt/{name}",
            ],
            check=True,
        )
    site.machine.run("install", "-d", "-o", "nobody", "-m", "0750", "/opt/state")
    config = {
        "store": {"path": "/opt/state/policies.sqlite"},
        "dns": {"resolvers": ["127.0.0.1:53"]},
        "receive": {"own_domains": [DOMAIN]},
    }
    site.machine.run("tee", "/opt/state/config.yml", send=json.dumps(config))
    script = _TAKE.format(loader=loader.resolve().name, python=Path(sys.executable).resolve().name)
    site.machine.run("tee", "/usr/local/bin/take-report", send=script)
    site.machine.run("chmod", "0755", "/usr/local/bin/take-report")


def signed(**changes: Any) -> bytes:
    policy = corpus.policy(policy={"policy-type": "sts", "policy-domain": DOMAIN})
    content = corpus.report(**{"date-range": dated(1), "policies": [policy]} | changes)
    return corpus.signed(corpus.mail(corpus.packed(content), domain=DOMAIN))


def test_postfix_hands_a_report_over_by_lmtp(receiving: Receiving) -> None:
    sent = receiving.site.postfix.outcome(receiving.submit(signed(**{"report-id": "by-lmtp"}), f"tlsrpt@{DOMAIN}"))
    assert sent.delivered
    assert "report accepted; new: received.example" in sent.reason
    assert rows(receiving.database) == [("by-lmtp", "dkim", "lmtp", 1)]


def test_postfix_bounces_a_mail_that_is_no_report(receiving: Receiving) -> None:
    queued = receiving.submit(b"Subject: hello\r\n\r\nno report\r\n", f"tlsrpt@{DOMAIN}")
    sent = receiving.site.postfix.outcome(queued)
    assert (sent.status, sent.dsn) == ("bounced", "5.6.0")


def test_postfix_keeps_a_report_while_the_daemon_is_down(receiving: Receiving) -> None:
    receiving.site.daemon.kill()
    queued = receiving.submit(signed(**{"report-id": "while-down"}), f"tlsrpt@{DOMAIN}")
    assert receiving.site.postfix.outcome(queued).deferred
    receiving.site.daemon.start()

    def stored() -> bool:
        receiving.site.machine.run("postqueue", "-i", queued, check=False)
        return ("while-down", "dkim", "lmtp", 1) in rows(receiving.database)

    eventually(stored, "the report after the daemon's return")


def test_postfix_hands_a_report_over_by_pipe(receiving: Receiving) -> None:
    sent = receiving.site.postfix.outcome(receiving.submit(signed(**{"report-id": "by-pipe"}), f"piped@{DOMAIN}"))
    assert sent.delivered, sent
    assert rows(receiving.piped) == [("by-pipe", "dkim", "pipe", 1)]


def test_pipe_bounces_a_mail_that_is_no_report(receiving: Receiving) -> None:
    queued = receiving.submit(b"Subject: hello\r\n\r\nno report\r\n", f"piped@{DOMAIN}")
    sent = receiving.site.postfix.outcome(queued)
    assert (sent.status, sent.dsn) == ("bounced", "5.6.0")


def test_pipe_defers_if_the_database_cannot_be_used(receiving: Receiving) -> None:
    state = receiving.piped.parent
    receiving.site.machine.run("chmod", "0555", "/opt/state")
    receiving.site.machine.run("sh", "-c", "mkdir -p /opt/away && mv /opt/state/received.sqlite* /opt/away/")
    try:
        queued = receiving.submit(signed(**{"report-id": "no-disk"}), f"piped@{DOMAIN}")
        assert receiving.site.postfix.outcome(queued).deferred
    finally:
        receiving.site.machine.run("sh", "-c", "mv /opt/away/received.sqlite* /opt/state/; chmod 0750 /opt/state")
    assert state.exists()
