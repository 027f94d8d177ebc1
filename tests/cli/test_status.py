"""``mtastsctl status`` and the other verbs for operating a daemon: exit codes, JSON and text."""

import os
from pathlib import Path
from typing import Any

import pytest

from mtasts_daemon.cli import status
from mtasts_daemon.cli.postfix_host import PostfixHost
from mtasts_daemon.cli.postfix_tables import TableProbe
from mtasts_daemon.cli.status import as_text
from tests.cli.conftest import DOMAINS, Ctl
from tests.fakes.process import Process

EVENTS = {"received": 1200, "rejected": {"event-shape": 2, "event-domain": 1}, "last_at": None}
REPORTS = {"waiting": 2, "due": 1, "delivered": 1234, "refused": 3, "failed": 4, "suppressed": 5, "waits_since": 1.0}

RECEIVED = "1,200 TLS results, 3 rejected, the last never"


def test_status_of_a_working_daemon_ends_with_0(ctl: Ctl) -> None:
    ran = ctl("status")
    assert (ran.code, ran.err) == (0, "")
    assert "ok   resolver" in ran.out
    assert "replies    secure 3" in ran.out
    assert "tlsrpt     off" in ran.out
    assert ctl("status", "--json").json["lookups"]["answers"] == {"secure": 3}


@pytest.mark.parametrize(
    ("tlsrpt", "line"),
    [
        ({"collecting": False, "sending": False, "reports": None}, "off"),
        ({"collecting": True, "sending": True, "reports": None}, RECEIVED),
        (
            {"collecting": True, "sending": False, "reports": REPORTS},
            f"{RECEIVED}; set organization, contact and sender to send reports",
        ),
        (
            {"collecting": True, "sending": True, "reports": REPORTS},
            f"{RECEIVED}\nreports    1 due, 2 waiting; in seven days 1,234 delivered, 3 refused, 4 failed",
        ),
    ],
)
def test_status_counts_tls_reports_by_state(ctl: Ctl, tlsrpt: dict[str, Any], line: str) -> None:
    found = ctl("status", "--json").json | {"tlsrpt": {"events": EVENTS, **tlsrpt}}
    assert as_text(found).endswith(f"\ntlsrpt     {line}")


def test_quiet_status_prints_nothing(ctl: Ctl) -> None:
    assert ctl("status", "--quiet") == ctl("status", "--quiet", "--json") == (0, "", "")


def test_status_names_domains_whose_mail_is_deferred(ctl: Ctl) -> None:
    found = ctl("status", "--json").json
    assert "deferred   " not in as_text(found)
    since = found["now"] - 7200
    words = "its policy permits none of its MX hosts"
    mismatch = {"domain": "a.example", "sentence": words, "since": since}
    found["deferred"] = {
        "total": 22,
        "domains": [mismatch, {"domain": "b.example", "sentence": "\x1btext", "since": since}],
    }
    assert as_text(found).splitlines()[-4:] == [
        "deferred   mail to 22 domains is deferred",
        "           a.example, since 2h: its policy permits none of its MX hosts",
        "           b.example, since 2h: \\x1btext",
        "           and 20 more",
    ]


def test_status_warns_of_a_rejected_reload_without_failing(ctl: Ctl) -> None:
    found = ctl("status", "--json").json
    found["reload"] = {"ok": False, "problems": ["config.yml:1:1: nonsense"]}
    assert "FAIL" not in as_text(found)
    assert "WARN reload     the new configuration was rejected" in as_text(found)


def test_quiet_status_sets_the_exit_code_only(ctl: Ctl, tmp_path: Path) -> None:
    assert ctl("status", "--quiet") == (0, "", "")
    assert ctl("status", "--quiet", "--socket", str(tmp_path / "none")) == (os.EX_UNAVAILABLE, "", "")


def test_status_ends_with_1_if_a_check_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with Process(tmp_path / "daemon", None, {"admin": {"socket": str(tmp_path / "admin.sock")}}) as lame:
        lame.logged("admin-listening")
        ran = Ctl(capsys, lame.config)("status")
    assert ran.code == 1
    assert "FAIL resolver" in ran.out


def test_missing_daemon_is_reported_with_its_socket(ctl: Ctl, tmp_path: Path) -> None:
    ran = ctl("cache", "list", "--socket", str(tmp_path / "none.sock"))
    assert (ran.code, ran.out) == (os.EX_UNAVAILABLE, "")
    assert "No such file" in ran.err and "admin.socket" in ran.err


def test_server_without_http_counts_as_unreachable(ctl: Ctl, daemon: Process) -> None:
    ran = ctl("status", "--socket", daemon.socket)
    assert (ran.code, ran.out) == (os.EX_UNAVAILABLE, "")


def test_reload_ends_with_78_if_the_configuration_is_rejected(ctl: Ctl, daemon: Process) -> None:
    good = daemon.config.read_text()
    daemon.config.write_text(good + "nonsense: 1\n")
    try:
        ran = ctl.bare("reload", "--socket", str(daemon.config.parent / "admin.sock"))
    finally:
        daemon.config.write_text(good)
    assert ran.code == os.EX_CONFIG
    assert "nonsense" in ran.err and "previous configuration" in ran.err
    assert ctl("reload", "--json").json["ok"] is True


def test_log_level_is_shown_and_set(ctl: Ctl) -> None:
    assert ctl("log-level").out == "info\n"
    assert ctl("log-level", "debug").out == "debug\n"
    assert ctl("log-level", "--json").json == {"level": "debug"}
    assert ctl("log-level", "info").code == 0


def test_refresher_lists_the_next_policies(ctl: Ctl) -> None:
    ran = ctl("refresher")
    assert ran.code == 0
    assert all(domain in ran.out for domain in DOMAINS)
    assert len(ctl("refresher", "--json").json["next"]) == 3


def test_explain_uses_the_running_daemon_unless_offline(ctl: Ctl, daemon: Process) -> None:
    daemon.store.rename(hidden := daemon.store.with_suffix(".hidden"))
    try:
        ran = ctl("explain", "a.example")
    finally:
        hidden.rename(daemon.store)
    assert ran.code == 0
    assert "the policy is enforced" in ran.out
    assert ctl("explain", "--offline", "--json", "a.example").json["decisions"]["postfix"] == "mode-enforce"


@pytest.mark.parametrize(("ok", "sign", "code"), [(True, "ok  ", 0), (None, "note", 0), (False, "FAIL", 1)])
def test_status_shows_each_table_of_main_cf(
    ctl: Ctl, monkeypatch: pytest.MonkeyPatch, ok: bool | None, sign: str, code: int
) -> None:
    probe = TableProbe("socketmap:unix:run/x:postfix", ok, "was tried")
    monkeypatch.setattr(status, "find_postfix", lambda: PostfixHost("here", (3, 10), {}, None))
    monkeypatch.setattr(status, "probe_tables", lambda _postfix: [probe])
    ran = ctl("status")
    assert f"{sign} postfix    socketmap:unix:run/x:postfix was tried" in ran.out
    assert ran.code == code
    assert ctl("status", "--json").json["postfix"][0]["ok"] is ok
