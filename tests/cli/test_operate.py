"""``mtastsctl`` beside a running daemon: each verb by its exit code, its JSON and what people read."""

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mtasts_daemon.cli.admin_client import named_socket, socket_of
from mtasts_daemon.cli.main import ctl_main
from mtasts_daemon.cli.operate import as_text
from mtasts_daemon.cli.top import cut
from tests.fakes.ca import Flaw
from tests.fakes.https import Behaviour
from tests.fakes.process import Internet, Process

DOMAINS = ("a.example", "b.example", "c.example")
EVENTS = {"received": 1200, "rejected": {"event-shape": 2, "event-domain": 1}, "last_at": None}
REPORTS = {"waiting": 2, "due": 1, "delivered": 1234, "refused": 3, "failed": 4, "suppressed": 5, "waits_since": 1.0}

TOLD = "1,200 events, 3 rejected, the last never"


class Ran(NamedTuple):
    code: int
    said: str
    talked: str

    @property
    def json(self) -> Any:
        return json.loads(self.said)


class Ctl:
    """Runs the command within this process, with the daemon's configuration."""

    def __init__(self, captured: pytest.CaptureFixture[str], config: Path) -> None:
        self._captured = captured
        self._config = str(config)

    def __call__(self, *arguments: str) -> Ran:
        return self.bare(*arguments, "-c", self._config)

    def bare(self, *arguments: str) -> Ran:
        code = ctl_main(arguments)
        said, talked = self._captured.readouterr()
        return Ran(code, said, talked)


@pytest.fixture(scope="module")
def internet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Internet]:
    with Internet(tmp_path_factory.mktemp("internet")) as internet:
        for domain in (*DOMAINS, "new.example"):
            internet.publish(domain)
        internet.publish("expired.example", behaviour=Behaviour(certificate=Flaw.EXPIRED))
        yield internet


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, internet: Internet) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("daemon")
    with Process(folder, internet, {"admin": {"socket": str(folder / "admin.sock")}}) as daemon:
        for domain in DOMAINS:
            daemon.lookup(domain)
        daemon.logged("admin-listening")
        yield daemon


@pytest.fixture
def ctl(capsys: pytest.CaptureFixture[str], daemon: Process) -> Ctl:
    return Ctl(capsys, daemon.config)


# -- status and such ---------------------------------------------------------------------------------------


def test_status_tells_that_all_is_well(ctl: Ctl) -> None:
    ran = ctl("status")
    assert (ran.code, ran.talked) == (0, "")
    assert "ok   resolver" in ran.said
    assert "answers    secure 3" in ran.said
    assert "tlsrpt     off" in ran.said
    assert ctl("status", "--json").json["lookups"]["answers"] == {"secure": 3}


@pytest.mark.parametrize(
    ("told", "line"),
    [
        ({"collecting": False, "sending": False, "reports": None}, "off"),
        ({"collecting": True, "sending": True, "reports": None}, TOLD),
        (
            {"collecting": True, "sending": False, "reports": REPORTS},
            f"{TOLD}; nothing is sent until organization, contact and sender are configured",
        ),
        (
            {"collecting": True, "sending": True, "reports": REPORTS},
            f"{TOLD}\nreports    1 due, 2 waiting; in seven days 1,234 delivered, 3 refused, 4 failed",
        ),
    ],
)
def test_status_tells_what_becomes_of_tls_reports(ctl: Ctl, told: dict[str, Any], line: str) -> None:
    found = ctl("status", "--json").json | {"tlsrpt": {"events": EVENTS, **told}}
    assert as_text(found).endswith(f"\ntlsrpt     {line}")


def test_status_names_the_domains_that_cannot_be_delivered_to(ctl: Ctl) -> None:
    found = ctl("status", "--json").json
    assert "held up" not in as_text(found)
    found["undeliverable"] = {"total": 22, "domains": ["a.example", "b.example"]}
    assert as_text(found).splitlines()[-1] == (
        "held up    the policy permits none of the domain's MX hosts: a.example, b.example and 20 more"
    )


def test_a_refused_reload_is_a_warning_of_status_and_no_failure(ctl: Ctl) -> None:
    found = ctl("status", "--json").json
    found["reload"] = {"ok": False, "problems": ["config.yml:1:1: nonsense"]}
    assert "FAIL" not in as_text(found)
    assert "WARN reload     the new configuration was refused" in as_text(found)


def test_quiet_status_says_it_by_its_exit_code_alone(ctl: Ctl, tmp_path: Path) -> None:
    assert ctl("status", "--quiet") == (0, "", "")
    assert ctl("status", "--quiet", "--socket", str(tmp_path / "none")) == (os.EX_UNAVAILABLE, "", "")


def test_status_of_a_daemon_that_lacks_something_ends_with_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with Process(tmp_path / "daemon", None, {"admin": {"socket": str(tmp_path / "admin.sock")}}) as lame:
        lame.logged("admin-listening")
        ran = Ctl(capsys, lame.config)("status")
    assert ran.code == 1
    assert "FAIL resolver" in ran.said


def test_a_daemon_that_is_not_there_is_told_of(ctl: Ctl, tmp_path: Path) -> None:
    ran = ctl("cache", "list", "--socket", str(tmp_path / "none.sock"))
    assert (ran.code, ran.said) == (os.EX_UNAVAILABLE, "")
    assert "No such file" in ran.talked and "admin.socket" in ran.talked


def test_what_listens_and_speaks_no_http_is_told_of(ctl: Ctl, daemon: Process) -> None:
    ran = ctl("status", "--socket", daemon.socket)
    assert (ran.code, ran.said) == (os.EX_UNAVAILABLE, "")


def test_a_reload_ends_with_78_where_the_old_configuration_stays(ctl: Ctl, daemon: Process) -> None:
    good = daemon.config.read_text()
    daemon.config.write_text(good + "nonsense: 1\n")
    try:
        ran = ctl.bare("reload", "--socket", str(daemon.config.parent / "admin.sock"))
    finally:
        daemon.config.write_text(good)
    assert ran.code == os.EX_CONFIG
    assert "nonsense" in ran.talked and "old configuration" in ran.talked
    assert ctl("reload", "--json").json["ok"] is True


def test_the_log_level_is_shown_and_set(ctl: Ctl) -> None:
    assert ctl("log-level").said == "info\n"
    assert ctl("log-level", "debug").said == "debug\n"
    assert ctl("log-level", "--json").json == {"level": "debug"}
    assert ctl("log-level", "info").code == 0


def test_the_refresher_tells_what_is_next(ctl: Ctl) -> None:
    ran = ctl("refresher")
    assert ran.code == 0
    assert all(domain in ran.said for domain in DOMAINS)
    assert len(ctl("refresher", "--json").json["next"]) == 3


def test_explain_asks_the_running_daemon(ctl: Ctl, daemon: Process) -> None:
    daemon.store.rename(hidden := daemon.store.with_suffix(".hidden"))
    try:
        ran = ctl("explain", "a.example")
    finally:
        hidden.rename(daemon.store)
    assert ran.code == 0
    assert "the policy is enforced" in ran.said
    assert ctl("explain", "--offline", "--json", "a.example").json["decisions"]["postfix"] == "mode-enforce"


# -- the cache ---------------------------------------------------------------------------------------------


def test_the_list_is_a_table_or_json(ctl: Ctl) -> None:
    ran = ctl("cache", "list", "--sort", "domain", "--reverse", "--limit", "2")
    title, *rows = ran.said.splitlines()
    assert title.split()[:2] == ["DOMAIN", "MODE"]
    assert [row.split()[:2] for row in rows] == [["c.example", "enforce"], ["b.example", "enforce"]]
    assert ran.talked == "2 of 3; --limit 0 shows all\n"
    found = ctl("cache", "list", "--json", "--limit", "0", "b.").json
    assert [entry["domain"] for entry in found["entries"]] == ["b.example"]


def test_one_entry_is_shown(ctl: Ctl) -> None:
    assert "mx: mail.example.com" in ctl("cache", "show", "a.example").said
    assert ctl("cache", "show", "--json", "a.example").json["held"]["mode"] == "enforce"


def test_what_is_not_known_ends_with_1_and_what_is_no_domain_with_64(ctl: Ctl) -> None:
    assert ctl("cache", "show", "unknown.example").code == 1
    assert ctl("cache", "purge", "unknown.example").code == 1
    for text in ("not a domain", "", "{x}"):
        with pytest.raises(SystemExit) as ended:
            ctl("cache", "show", text)
        assert ended.value.code == os.EX_USAGE


def test_a_refresh_tells_what_came_of_it(ctl: Ctl) -> None:
    assert ctl("cache", "refresh", "a.example").code == 0
    ran = ctl("cache", "refresh", "expired.example", "a.example")
    assert ran.code == os.EX_TEMPFAIL
    assert "(webpki-expired)" in ran.said and "mx: mail.example.com" in ran.said
    assert ctl("cache", "purge", "expired.example").code == 0


def test_what_is_exported_comes_back(ctl: Ctl, tmp_path: Path) -> None:
    file = tmp_path / "policies.jsonl"
    assert ctl("cache", "export", str(file)).code == 0
    assert ctl("cache", "purge", *DOMAINS).code == 0
    assert ctl("cache", "import", "--json", str(file)).json == {"kept": 3, "older": 0, "refused": []}
    assert [json.loads(line)["domain"] for line in ctl("cache", "export").said.splitlines()] == list(DOMAINS)


def test_a_list_without_entries_says_so_on_standard_error(ctl: Ctl) -> None:
    assert ctl("cache", "list", "nowhere") == (0, "", "no stored policy is such\n")


def test_of_a_domain_without_a_policy_no_use_is_told(ctl: Ctl) -> None:
    ran = ctl("cache", "refresh", "plain.example")
    assert "no policy is held" in ran.said and "used" not in ran.said
    assert "used     first" in ctl("cache", "show", DOMAINS[0]).said


@pytest.mark.parametrize("file", ["/nowhere/export", "/", "/dev/full"])
def test_an_export_that_cannot_be_written_ends_with_73(ctl: Ctl, file: str) -> None:
    ran = ctl("cache", "export", file)
    assert (ran.code, ran.said) == (os.EX_CANTCREAT, "")
    assert f"{file} cannot be written: " in ran.talked


def test_an_export_is_not_lost_to_a_daemon_that_is_down(ctl: Ctl, tmp_path: Path) -> None:
    (tmp_path / "export").write_text("of yesterday")
    ran = ctl("cache", "export", str(tmp_path / "export"), "--socket", str(tmp_path / "none"))
    assert ran.code == os.EX_UNAVAILABLE
    assert (tmp_path / "export").read_text() == "of yesterday"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"domain": "cut', "it is not JSON, or is cut off"),
        ("[" * 20000, "it is not JSON, or is cut off"),
        ("[]", "it is no JSON object"),
        ('{"domain": 3}', "domain is missing, or of another kind"),
        ('{"domain": "x.example", "record_id": "1"}', "body is missing, or of another kind"),
        (f'"{"x" * (1 << 20)}"', "it is longer than any policy"),
    ],
)
def test_a_line_of_an_export_that_is_none_is_refused_by_its_number(
    ctl: Ctl, tmp_path: Path, line: str, reason: str
) -> None:
    file = tmp_path / "export"
    file.write_text(f"{ctl('cache', 'export').said}\n{line}\n")
    ran = ctl("cache", "import", str(file), "--json")
    assert (ran.code, ran.json["older"]) == (os.EX_DATAERR, 3)
    assert ran.json["refused"] == [{"domain": "line 5", "reason": reason}]
    # What begins so is no export at all.
    file.write_text(line)
    ran = ctl("cache", "import", str(file))
    assert (ran.code, ran.said) == (os.EX_DATAERR, "")
    assert f"line 1 is not as cache export writes it: {reason}" in ran.talked


def test_domains_of_a_list_are_looked_up(ctl: Ctl, tmp_path: Path) -> None:
    file = tmp_path / "domains"
    file.write_text("new.example  secure match=x\n\nexpired.example dane\n")
    told = ctl("cache", "import", "--format", "domains", "--json", str(file))
    assert told.code == os.EX_DATAERR
    assert (told.json["kept"], [refused["domain"] for refused in told.json["refused"]]) == (1, ["expired.example"])
    assert ctl("cache", "purge", "new.example", "expired.example").code == 0


@pytest.mark.parametrize(("text", "code"), [(None, os.EX_NOINPUT), ("{", os.EX_DATAERR)])
def test_a_file_that_cannot_be_imported_is_told_of(ctl: Ctl, tmp_path: Path, text: str | None, code: int) -> None:
    if text is not None:
        (tmp_path / "file").write_text(text)
    ran = ctl("cache", "import", str(tmp_path / "file"))
    assert (ran.code, ran.said) == (code, "")


# -- top ---------------------------------------------------------------------------------------------------


def test_top_needs_a_terminal(ctl: Ctl) -> None:
    assert ctl("top").code == os.EX_USAGE


def test_top_draws_until_q_and_leaves_the_terminal_as_it_was(daemon: Process) -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "tests.fakes.ctl", "top", "-c", str(daemon.config), "--interval", "0.2"]
    with subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower) as process:
        os.close(follower)
        seen = until(leader, b"lookups", b"secure", b"policies", b"refresher")
        os.write(leader, b"q")
        seen += until(leader, b"\x1b[?1049l")
        assert process.wait(30) == 0
    os.close(leader)
    assert seen.index(b"\x1b[?1049h") < seen.index(b"mtasts-daemon") < seen.index(b"\x1b[?1049l")


def test_top_goes_on_while_the_daemon_is_restarted(internet: Internet, tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    with Process(tmp_path / "daemon", internet, {"admin": {"socket": str(tmp_path / "admin.sock")}}) as daemon:
        daemon.logged("admin-listening")
        command = [sys.executable, "-m", "tests.fakes.ctl", "top", "-c", str(daemon.config), "--interval", "0.2"]
        with subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower) as process:
            os.close(follower)
            until(leader, b"lookups")
            daemon.kill()
            until(leader, b"DOES NOT ANSWER")
            daemon.start()
            until(leader, b"lookups")
            os.write(leader, b"q")
            until(leader, b"\x1b[?1049l")
            assert process.wait(30) == 0
    os.close(leader)


def test_a_line_of_top_that_does_not_fit_shows_that_it_goes_on() -> None:
    assert [cut("total 12,345", columns) for columns in (12, 11, 1)] == ["total 12,345", "total 12,3…", "…"]


def until(fd: int, *wanted: bytes) -> bytes:
    seen = b""
    while not all(text in seen for text in wanted):
        ready, _, _ = select.select([fd], [], [], 30)
        assert ready, seen
        seen += os.read(fd, 65536)
    return seen


# -- finding the daemon ------------------------------------------------------------------------------------


def test_the_socket_is_that_of_the_last_file_that_names_one(tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text("admin: {socket: /first}\n")
    assert socket_of(config, {}) == Path("/first")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.yml").write_text("admin: {socket: /second}\n")
    (tmp_path / "conf.d" / "b.yml").write_text("admin: {listen: '127.0.0.1:1'}\n")
    (tmp_path / "conf.d" / ".hidden.yml").write_text("admin: {socket: /third}\n")
    assert socket_of(config, {}) == Path("/second")
    assert socket_of(config, {"MTASTS_ADMIN__SOCKET": "/fourth"}) == Path("/fourth")
    assert socket_of(config, {"MTASTS_ADMIN": "{socket: /fifth}"}) == Path("/fifth")


def test_without_a_name_it_is_where_systemd_has_it(tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text("# admin\nlisten: []\n")
    assert socket_of(config, {"RUNTIME_DIRECTORY": "/run/x:/run/y"}) == Path("/run/x/admin.sock")
    assert socket_of(config, {}) == Path("/run/mtasts-daemon/admin.sock")
    # A configuration of its own is not to be explained by the host's daemon.
    assert named_socket(config, {}) is None


def test_a_configuration_that_is_none_is_told_of_in_its_readers_words(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "config.yml").write_text("admin: {sockte: /x}\nadmin: [\n")
    ran = Ctl(capsys, tmp_path / "config.yml")("status")
    assert ran.code == os.EX_CONFIG
    assert f"{tmp_path / 'config.yml'}:" in ran.talked
