"""``mtastsctl setup --apply`` and ``--undo``: main.cf is changed only as shown, and restored byte by byte."""

import io
import json
import os
import stat
from pathlib import Path

import pytest

from mtasts_daemon.cli.main import ctl_main
from mtasts_daemon.cli.setup_apply import MainCf, MainCfChange, changes, merge_changes
from tests.fakes.postconf import installed

pytestmark = pytest.mark.process  # postconf(1)

BEFORE = b"# caf\xe9\nmyhostname = mail.example\n\nsmtp_tls_security_level =\tencrypt\n# the end"
WANTED = (MainCfChange("smtp_tls_policy_maps", None, "new"), MainCfChange("smtp_tls_security_level", "encrypt", "dane"))


class Postfix:
    def __init__(self, folder: Path) -> None:
        self.main_cf = folder / "main.cf"
        self.main_cf.write_bytes(BEFORE)
        self.main_cf.chmod(0o640)
        self.postconf = installed(folder, self.main_cf)
        self.undo_file = folder / "main.cf.mtasts-daemon-undo.json"

    def open(self) -> MainCf:
        return MainCf(str(self.postconf))

    def edit(self, line: str) -> None:
        with self.main_cf.open("a") as file:
            file.write(f"\n{line}\n")


@pytest.fixture
def postfix(tmp_path: Path) -> Postfix:
    return Postfix(tmp_path)


def test_only_values_not_in_force_are_changed() -> None:
    wanted = {"smtp_tls_security_level": "may", "smtp_tls_CAfile": "/ca.pem", "smtp_tls_policy_maps": "new"}
    in_force = {"smtp_tls_security_level": "may", "smtp_tls_policy_maps": "old"}
    found = changes(wanted, in_force, {"smtp_tls_policy_maps": "$old"})
    assert found == (
        MainCfChange("smtp_tls_CAfile", None, "/ca.pem"),
        MainCfChange("smtp_tls_policy_maps", "$old", "new"),
    )


def test_changes_of_two_calls_keep_the_first_value_and_the_last() -> None:
    earlier = [MainCfChange("a", None, "1"), MainCfChange("b", "x", "y")]
    later = [MainCfChange("a", "1", "2"), MainCfChange("c", None, "z")]
    assert merge_changes(earlier, later) == (
        MainCfChange("a", None, "2"),
        MainCfChange("b", "x", "y"),
        MainCfChange("c", None, "z"),
    )


def test_undo_restores_every_byte_and_the_mode(postfix: Postfix) -> None:
    postfix.open().write(WANTED)
    assert b"smtp_tls_policy_maps = new" in postfix.main_cf.read_bytes()
    assert postfix.open().restore() == ()
    assert postfix.main_cf.read_bytes() == BEFORE
    assert stat.S_IMODE(postfix.main_cf.stat().st_mode) == 0o640
    assert not postfix.undo_file.exists()


def test_undo_after_two_applies_restores_the_first_state(postfix: Postfix) -> None:
    postfix.open().write(WANTED)
    postfix.open().write([MainCfChange("smtp_tls_policy_maps", "new", "newer")])
    postfix.open().restore()
    assert postfix.main_cf.read_bytes() == BEFORE


def test_undo_keeps_later_edits_of_other_parameters(postfix: Postfix) -> None:
    postfix.open().write(WANTED)
    postfix.edit("relayhost = smart.example")
    assert postfix.open().restore() == ()
    found = postfix.open().explicit(["relayhost", "smtp_tls_policy_maps", "smtp_tls_security_level"])
    assert found == {"relayhost": "smart.example", "smtp_tls_security_level": "encrypt"}


def test_undo_leaves_a_parameter_that_was_changed_since(postfix: Postfix) -> None:
    postfix.open().write(WANTED)
    text = postfix.main_cf.read_text("latin-1")
    postfix.main_cf.write_text(text.replace("maps = new", "maps = mine"), "latin-1")
    assert postfix.open().restore() == (WANTED[0],)
    assert postfix.open().explicit(["smtp_tls_policy_maps"]) == {"smtp_tls_policy_maps": "mine"}


def test_undo_after_an_edit_between_two_applies_goes_by_parameter(postfix: Postfix) -> None:
    postfix.open().write(WANTED)
    postfix.edit("relayhost = smart.example")
    postfix.open().write([MainCfChange("smtp_tls_policy_maps", "new", "newer")])
    assert postfix.open().restore() == ()
    found = postfix.open().explicit(["relayhost", "smtp_tls_policy_maps", "smtp_tls_security_level"])
    assert found == {"relayhost": "smart.example", "smtp_tls_security_level": "encrypt"}


def test_undo_follows_a_symbolic_link(postfix: Postfix, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    place.mkdir()
    postfix.main_cf.rename(place / "main.cf")
    postfix.main_cf.symlink_to(place / "main.cf")
    postfix.open().write(WANTED)
    postfix.open().restore()
    assert postfix.main_cf.is_symlink()
    assert postfix.main_cf.read_bytes() == BEFORE


def test_undo_file_is_for_its_owner_only(postfix: Postfix) -> None:
    postfix.open().write(WANTED)
    assert stat.S_IMODE(postfix.undo_file.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 2}', '{"format": 1, "changes": [{}]}', "null"])
def test_damaged_undo_file_changes_nothing(
    postfix: Postfix, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    postfix.undo_file.write_text(content)
    monkeypatch.setenv("PATH", f"{postfix.postconf.parent}:{os.environ['PATH']}")
    assert ctl_main(["setup", "--undo", "--yes"]) == os.EX_CANTCREAT
    assert str(postfix.undo_file) in capsys.readouterr().err
    assert postfix.main_cf.read_bytes() == BEFORE


def test_without_a_terminal_nothing_is_changed_unless_confirmed(
    postfix: Postfix, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    postfix.open().write(WANTED)
    applied = postfix.main_cf.read_bytes()
    monkeypatch.setenv("PATH", f"{postfix.postconf.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))  # a pipe, not a terminal
    assert ctl_main(["setup", "--undo"]) == os.EX_USAGE
    assert postfix.main_cf.read_bytes() == applied
    shown = capsys.readouterr().out
    assert "- smtp_tls_policy_maps = new\n" in shown
    assert "- smtp_tls_security_level = dane\n+ smtp_tls_security_level = encrypt\n" in shown
    assert ctl_main(["setup", "--undo", "--yes"]) == os.EX_OK
    assert postfix.main_cf.read_bytes() == BEFORE


def test_undo_without_an_apply_says_so(
    postfix: Postfix, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", f"{postfix.postconf.parent}:{os.environ['PATH']}")
    assert ctl_main(["setup", "--undo", "--yes"]) == os.EX_NOINPUT
    assert "no change by setup --apply is on record" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--json"], ["--main-cf", "main.cf"]])
def test_apply_refuses_options_of_the_report(option: list[str]) -> None:
    assert ctl_main(["setup", "--apply", *option]) == os.EX_USAGE


def test_undo_file_holds_what_was_there(postfix: Postfix) -> None:
    postfix.open().write(WANTED)
    kept = json.loads(postfix.undo_file.read_text())
    assert kept["text"].encode("latin-1") == BEFORE
