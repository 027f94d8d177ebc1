"""``mtastsctl tlsrpt`` on the database of a running daemon."""

import asyncio
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mtasts_daemon.cli.main import ctl_main
from mtasts_daemon.cli.tlsrpt import day
from mtasts_daemon.store.policy_store import StoreLimits, open_store
from mtasts_daemon.tlsrpt.database.connection import TlsrptDatabase, open_database
from mtasts_daemon.tlsrpt.model.event import Failure, Policy, PolicyResult, PolicyType, TlsrptEvent
from tests.fakes.process import Internet
from tests.fakes.store import policy_entry
from tests.tlsrpt.events import add_events

LOGS = Path(__file__).parents[1] / "data" / "maillog"
DAY = "2026-11-20"
STS = Policy(PolicyType.STS, "a.example", ("version: STSv1", "mode: enforce"), ("mx.a.example",))
SELF_SIGNED = Failure("validation-failure", "", "mx.a.example", "", "192.0.2.1", "", "self-signed_certificate")
EVENTS = [
    TlsrptEvent("a.example", "", (PolicyResult(STS, False),)),
    TlsrptEvent("a.example", "", (PolicyResult(STS, True, (SELF_SIGNED,)),)),
    TlsrptEvent("b.example", "", (PolicyResult(Policy(PolicyType.NO_POLICY_FOUND, "b.example"), False),)),
]


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Site:
    """A configuration, a policy store and a TLSRPT database, as the daemon has them."""

    def __init__(self, folder: Path, captured: pytest.CaptureFixture[str]) -> None:
        self.config = folder / "config.yml"
        self.database = folder / "tlsrpt.sqlite"
        self.store = folder / "policies.sqlite"
        self.settings: dict[str, Any] = {}
        self._captured = captured
        self.configure()

    def configure(self, **tlsrpt: object) -> None:
        text = {"store": {"path": str(self.store)}, "listen": [], "tlsrpt": tlsrpt, **self.settings}
        self.config.write_text(json.dumps(text))

    def ctl(self, verb: str, *arguments: str) -> Ran:
        code = ctl_main(["tlsrpt", verb, "-c", str(self.config), *arguments])
        return Ran(code, *self._captured.readouterr())

    def rows(self, statement: str) -> list[Any]:
        connection = sqlite3.connect(self.database)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Site:
    return Site(tmp_path, capsys)


@pytest.fixture
def daemon(site: Site) -> Iterator[TlsrptDatabase]:
    """The database while the daemon has it open, with one day."""
    database = open_database(site.database, now=0.0)
    add_events(database, [(DAY, event) for event in EVENTS])
    yield database
    database.close_now()


def keep_policy(site: Site, domain: str) -> None:
    async def put() -> None:
        store = await open_store(site.store, limits=StoreLimits(), now=0.0, report=print)
        await store.put(policy_entry(domain, at=datetime.now(UTC).timestamp() - 86400), None)
        await store.close()

    asyncio.run(put())


# -- status and show ---------------------------------------------------------------------------------------


def test_status_counts_results_and_says_why_nothing_is_sent(site: Site, daemon: TlsrptDatabase) -> None:
    ran = site.ctl("status")
    assert ran.code == os.EX_OK
    titles, row = ran.out.splitlines()
    assert titles.split()[:5] == ["DAY", "DOMAINS", "SESSIONS", "FAILED", "WAITING"]
    assert row.split()[:5] == [DAY, "2", "3", "1", "0"]
    assert ran.err == "no reports are sent: set tlsrpt.organization, tlsrpt.contact, tlsrpt.sender\n"
    found_ = site.ctl("status", "--json").json
    assert (found_["sending"], found_["suppressed"]) == (False, 0)
    (found,) = found_["days"]
    reports = found.pop("reports")
    assert found == {"day": DAY, "domains": 2, "sessions": 3, "failures": 1}
    assert set(reports.values()) == {0}


def test_show_lists_the_domains_of_a_day(site: Site, daemon: TlsrptDatabase) -> None:
    ran = site.ctl("show", DAY)
    assert [line.split() for line in ran.out.splitlines()[1:]] == [
        ["a.example", "2", "1", "1", "sts"],
        ["b.example", "1", "0", "0", "no-policy-found"],
    ]
    assert [found["domain"] for found in site.ctl("show", DAY, "--json").json["domains"]] == ["a.example", "b.example"]


def test_show_prints_all_of_one_domain(site: Site, daemon: TlsrptDatabase) -> None:
    out = site.ctl("show", DAY, "A.example.").out
    assert out.startswith("sts: 1 session succeeded, 1 failed\n  version: STSv1\n  mode: enforce\n")
    assert out.splitlines()[-1].split() == [
        "1", "validation-failure", "self-signed_certificate", "mx.a.example", "192.0.2.1",
    ]  # fmt: skip
    (policy,) = site.ctl("show", DAY, "a.example", "--json").json["policies"]
    assert policy["failures"] == [
        {
            "result_type": "validation-failure",
            "mx_host": "mx.a.example",
            "receiving_ip": "192.0.2.1",
            "reason_code": "self-signed_certificate",
            "count": 1,
        }
    ]


def test_unknown_day_or_domain_ends_with_1(site: Site, daemon: TlsrptDatabase) -> None:
    assert site.ctl("show", "2026-01-01").code == 1
    assert site.ctl("show", DAY, "c.example").code == 1
    assert site.ctl("show", DAY, "c.example", "--json").json["policies"] == []


def test_day_names_are_in_utc() -> None:
    today = datetime.now(UTC).date()
    assert day("yesterday") < day("today")
    assert (datetime.fromisoformat(day("today")).date() - today).days in (0, 1)
    assert day(DAY) == DAY


@pytest.mark.parametrize("arguments", [["tomorrow"], ["2026-02-30"], [DAY, "no domain"], []])
def test_invalid_day_or_domain_ends_with_64(site: Site, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        site.ctl("show", *arguments)
    assert ended.value.code == os.EX_USAGE


def test_missing_database_is_reported_with_what_creates_it(site: Site) -> None:
    ran = site.ctl("status")
    assert ran.code == os.EX_NOINPUT
    assert "The daemon creates it" in ran.err
    assert not site.database.exists()


def test_file_that_is_not_a_database_is_unchanged(site: Site) -> None:
    site.database.write_text("something else, and long enough to be looked at")
    assert site.ctl("status").code == os.EX_UNAVAILABLE
    assert site.database.read_text().startswith("something else")


def test_invalid_configuration_is_reported(site: Site, daemon: TlsrptDatabase) -> None:
    site.configure(nonsense=1)
    assert site.ctl("status").code == os.EX_CONFIG


# -- reports -----------------------------------------------------------------------------------------------

SENDER = {"organization": "Example Ltd", "contact": "tls@sender.example", "sender": "reports@sender.example"}


@pytest.fixture
def internet(tmp_path: Path, site: Site) -> Iterator[Internet]:
    with Internet(tmp_path / "internet") as internet:
        internet.records("_smtp._tls.a.example", 'TXT "v=TLSRPTv1; rua=mailto:tls@a.example,ftp:nonsense"')
        site.settings = internet.settings
        site.configure(**SENDER)
        yield internet


def test_preview_prints_the_report_as_it_would_be_sent(site: Site, daemon: TlsrptDatabase, internet: Internet) -> None:
    report = site.ctl("preview", DAY, "a.example", "--json").json
    assert report["organization-name"] == "Example Ltd"
    assert report["date-range"]["start-datetime"] == f"{DAY}T00:00:00Z"
    (policy,) = report["policies"]
    assert policy["summary"] == {"total-successful-session-count": 1, "total-failure-session-count": 1}
    out = site.ctl("preview", DAY, "a.example").out
    assert "\nto mailto:tls@a.example\nignored: " in out
    assert "self-signed_certificate" in out
    assert site.ctl("preview", DAY, "c.example").code == 1


def test_dry_run_prints_recipients_and_changes_nothing(site: Site, daemon: TlsrptDatabase, internet: Internet) -> None:
    ran = site.ctl("send", DAY, "--dry-run", "--json")
    assert ran.code == os.EX_OK
    assert {(found["domain"], found["to"]) for found in ran.json["reports"]} >= {
        ("a.example", "mailto:tls@a.example"),
        ("b.example", "not sent: the domain has no _smtp._tls record"),
    }
    assert site.rows("SELECT count(*) FROM report") == [(0,)]


def test_report_of_an_unfinished_day_is_not_sent(site: Site, daemon: TlsrptDatabase, internet: Internet) -> None:
    ran = site.ctl("send", "today")
    assert ran.code == os.EX_USAGE
    assert "is not over" in ran.err
    site.configure()
    assert "until tlsrpt.organization, tlsrpt.contact and tlsrpt.sender are set" in site.ctl("send", DAY).err


def test_secret_readable_by_others_is_not_used(site: Site, daemon: TlsrptDatabase, internet: Internet) -> None:
    secret = site.config.with_name("secret")
    secret.write_text("password\n")
    secret.chmod(0o644)
    site.configure(**SENDER, smtp_user="me", smtp_password_file=str(secret))
    ran = site.ctl("send", DAY)
    assert ran.code == os.EX_CONFIG
    assert "can be read by other users" in ran.err


def test_sending_without_results_ends_with_1(site: Site, daemon: TlsrptDatabase, internet: Internet) -> None:
    site.configure(**SENDER)
    ran = site.ctl("send", DAY, "none.example")
    assert (ran.code, ran.err) == (1, f"there is nothing to send about {DAY} to none.example\n")


def test_addresses_are_suppressed_and_released_by_hand(site: Site, daemon: TlsrptDatabase) -> None:
    assert site.ctl("suppress", "add", "mailto:TLS@A.example", "--reason", "they asked").code == os.EX_OK
    (found,) = site.ctl("suppress", "list", "--json").json
    assert (found["uri"], found["reason"]) == ("mailto:TLS@a.example", "they asked")
    assert site.ctl("suppress", "list").out.splitlines()[1].startswith("mailto:TLS@a.example  2")
    assert site.ctl("suppress", "remove", "mailto:TLS@a.example").code == os.EX_OK
    assert site.ctl("suppress", "remove", "mailto:TLS@a.example").code == 1
    assert site.ctl("suppress", "add", "ftp:nonsense").code == os.EX_USAGE
    assert site.ctl("suppress", "add").code == os.EX_USAGE


def test_other_mail_than_a_bounce_is_rejected(
    site: Site, daemon: TlsrptDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = (
        b"To: reports+0123456789abcdef0123@sender.example\r\nMIME-Version: 1.0\r\n"
        b"Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n"
        b"--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; x\r\n\r\n"
        b"Final-Recipient: rfc822; tls@a.example\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n--b--\r\n"
    )
    for octets, code in ((b"Subject: hello\r\n\r\nhello", os.EX_DATAERR), (dsn, os.EX_OK)):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(octets)))
        assert site.ctl("bounce").code == code


# -- import-log --------------------------------------------------------------------------------------------


def test_log_is_imported_and_summed_up(site: Site, daemon: TlsrptDatabase) -> None:
    keep_policy(site, "good.plain.example")
    site.configure(retention="366d")
    ran = site.ctl("import-log", str(LOGS / "postfix-3.7.log"))
    assert ran.code == os.EX_OK
    assert "46 TLS sessions, 24 of them failed" in ran.err
    assert "not logged, so missing in the report" in ran.err
    assert site.rows("SELECT sum(successful), sum(failed) FROM tally") == [(2 + 22, 1 + 24)]


def test_imported_lines_are_counted_once_unless_again_is_given(site: Site, daemon: TlsrptDatabase) -> None:
    keep_policy(site, "good.plain.example")
    site.configure(retention="366d")
    log = site.config.with_name("mail.log")
    whole = (LOGS / "postfix-3.7.log").read_bytes()

    def imported(content: bytes, *options: str) -> tuple[int, str]:
        log.write_bytes(content)
        ran = site.ctl("import-log", str(log), *options)
        assert ran.code == os.EX_OK
        return site.rows("SELECT sum(successful) + sum(failed) FROM tally")[0][0] - 3, ran.err

    # Sessions across the rotation are complete.
    for part in range(0, len(whole), len(whole) // 9):
        imported(whole[:part])
    assert imported(whole)[0] == 46
    counted, err = imported(whole)
    assert (counted, "resuming at byte" in err, "0 TLS sessions" in err) == (46, True, True)
    assert imported(whole, "--again")[0] == 92
    assert imported(b"another file\n")[1].startswith(f"{log}: a new file since the last import")


def test_summary_is_available_as_json(site: Site, daemon: TlsrptDatabase) -> None:
    keep_policy(site, "good.plain.example")
    ran = site.ctl("import-log", "--json", "--smarthost", "[mx.good.plain.example]", str(LOGS / "postfix-3.7.log"))
    counters = ran.json
    assert (counters["lines"], counters["sessions"], counters["smarthost"]) == (278, 46, 6)


def test_import_fails_without_the_daemons_policies(site: Site, daemon: TlsrptDatabase) -> None:
    assert site.ctl("import-log", str(LOGS / "postfix-3.7.log")).code == os.EX_UNAVAILABLE
    assert site.rows("SELECT count(*) FROM report_unit") == [(2,)]


def test_missing_log_is_reported(site: Site, daemon: TlsrptDatabase) -> None:
    keep_policy(site, "a.example")
    ran = site.ctl("import-log", "/nonexistent/mail.log")
    assert (ran.code, ran.err) == (os.EX_NOINPUT, "/nonexistent/mail.log: No such file or directory\n")


def test_followed_log_is_committed_at_a_pause_and_at_the_end(site: Site, daemon: TlsrptDatabase) -> None:
    keep_policy(site, "a.example")
    site.configure(retention="366d")
    code = "import sys; from mtasts_daemon.cli.main import ctl_main; sys.exit(ctl_main())"
    command = [sys.executable, "-c", code, "tlsrpt", "import-log", "-c", str(site.config), "-"]
    lines = (LOGS / "postfix-3.7.log").read_bytes()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdin is not None
        running.stdin.write(lines)
        running.stdin.flush()
        while site.rows("SELECT sum(successful) + sum(failed) FROM tally") != [(3 + 46,)]:
            assert running.poll() is None
            time.sleep(0.05)
        running.send_signal(signal.SIGTERM)
        assert running.wait(120) == os.EX_OK
