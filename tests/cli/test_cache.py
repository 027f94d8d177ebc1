"""``mtastsctl cache``: each verb by its exit code, its JSON and its text."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import DOMAINS, Ctl


def test_list_prints_a_table_or_json(ctl: Ctl) -> None:
    ran = ctl("cache", "list", "--sort", "domain", "--reverse", "--limit", "2")
    title, *rows = ran.out.splitlines()
    assert title.split()[:2] == ["DOMAIN", "MODE"]
    assert [row.split()[:2] for row in rows] == [["c.example", "enforce"], ["b.example", "enforce"]]
    assert ran.err == "2 of 3; --limit 0 lists all\n"
    found = ctl("cache", "list", "--json", "--limit", "0", "b.").json
    assert [entry["domain"] for entry in found["entries"]] == ["b.example"]


def test_show_prints_one_entry(ctl: Ctl) -> None:
    assert "mx: mail.example.com" in ctl("cache", "show", "a.example").out
    assert ctl("cache", "show", "--json", "a.example").json["held"]["mode"] == "enforce"


def test_unknown_domain_ends_with_1_and_invalid_one_with_64(ctl: Ctl) -> None:
    assert ctl("cache", "show", "unknown.example").code == 1
    assert ctl("cache", "purge", "unknown.example").code == 1
    for text in ("not a domain", "", "{x}"):
        with pytest.raises(SystemExit) as ended:
            ctl("cache", "show", text)
        assert ended.value.code == os.EX_USAGE


def test_refresh_prints_the_new_entry(ctl: Ctl) -> None:
    assert ctl("cache", "refresh", "a.example").code == 0
    ran = ctl("cache", "refresh", "expired.example", "a.example")
    assert ran.code == os.EX_TEMPFAIL
    assert "(webpki-expired)" in ran.out and "mx: mail.example.com" in ran.out
    assert ctl("cache", "purge", "expired.example").code == 0


def test_refresh_shows_steps_on_a_terminal(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    ran = ctl("cache", "refresh", "a.example", "plain.example")
    assert ran.err.splitlines() == [
        "[1/2] querying DNS and the policy host of a.example",
        "  TXT record: _mta-sts.a.example: id 1",
        "  policy fetch: mode enforce, max_age 604800, 66 bytes",
        "[2/2] querying DNS and the policy host of plain.example",
        "  TXT record: _mta-sts.plain.example: no record begins with v=STSv1;",
    ]


def test_export_can_be_imported(ctl: Ctl, tmp_path: Path) -> None:
    file = tmp_path / "policies.jsonl"
    assert ctl("cache", "export", str(file)).code == 0
    assert ctl("cache", "purge", *DOMAINS).code == 0
    assert ctl("cache", "import", "--json", str(file)).json == {"kept": 3, "older": 0, "refused": []}
    assert [json.loads(line)["domain"] for line in ctl("cache", "export").out.splitlines()] == list(DOMAINS)


def test_empty_list_is_reported_on_standard_error(ctl: Ctl) -> None:
    assert ctl("cache", "list", "nowhere") == (0, "", "no matching policies\n")


def test_domain_without_policy_has_no_time_of_use(ctl: Ctl) -> None:
    ran = ctl("cache", "refresh", "plain.example")
    assert "no policy is cached" in ran.out and "used" not in ran.out
    assert "used     first" in ctl("cache", "show", DOMAINS[0]).out


@pytest.mark.parametrize("file", ["/nowhere/export", "/", "/dev/full"])
def test_export_to_an_unwritable_file_ends_with_73(ctl: Ctl, file: str) -> None:
    ran = ctl("cache", "export", file)
    assert (ran.code, ran.out) == (os.EX_CANTCREAT, "")
    assert f"{file} cannot be written: " in ran.err


def test_existing_export_is_kept_if_the_daemon_is_down(ctl: Ctl, tmp_path: Path) -> None:
    (tmp_path / "export").write_text("earlier export")
    ran = ctl("cache", "export", str(tmp_path / "export"), "--socket", str(tmp_path / "none"))
    assert ran.code == os.EX_UNAVAILABLE
    assert (tmp_path / "export").read_text() == "earlier export"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"domain": "cut', "not JSON, or cut off"),
        ("[" * 20000, "not JSON, or cut off"),
        ("[]", "not a JSON object"),
        ('{"domain": 3}', "domain is missing or has the wrong type"),
        ('{"domain": "x.example", "record_id": "1"}', "body is missing or has the wrong type"),
        (f'"{"x" * (1 << 20)}"', "longer than any policy"),
    ],
)
def test_invalid_line_of_an_export_is_rejected_by_its_number(ctl: Ctl, tmp_path: Path, line: str, reason: str) -> None:
    file = tmp_path / "export"
    file.write_text(f"{ctl('cache', 'export').out}\n{line}\n")
    ran = ctl("cache", "import", str(file), "--json")
    assert (ran.code, ran.json["older"]) == (os.EX_DATAERR, 3)
    assert ran.json["refused"] == [{"domain": "line 5", "reason": reason}]
    # A file that begins like this is not an export.
    file.write_text(line)
    ran = ctl("cache", "import", str(file))
    assert (ran.code, ran.out) == (os.EX_DATAERR, "")
    assert f"line 1 is not from cache export: {reason}" in ran.err


def test_listed_domains_are_looked_up(ctl: Ctl, tmp_path: Path) -> None:
    file = tmp_path / "domains"
    file.write_text("new.example  secure match=x\n\nexpired.example dane\n")
    found = ctl("cache", "import", "--format", "domains", "--json", str(file))
    assert found.code == os.EX_DATAERR
    assert (found.json["kept"], [refused["domain"] for refused in found.json["refused"]]) == (1, ["expired.example"])
    assert ctl("cache", "purge", "new.example", "expired.example").code == 0


@pytest.mark.parametrize(("text", "code"), [(None, os.EX_NOINPUT), ("{", os.EX_DATAERR)])
def test_unreadable_import_file_is_reported(ctl: Ctl, tmp_path: Path, text: str | None, code: int) -> None:
    if text is not None:
        (tmp_path / "file").write_text(text)
    ran = ctl("cache", "import", str(tmp_path / "file"))
    assert (ran.code, ran.out) == (code, "")


@pytest.mark.parametrize("text", ["x@a.example", "https://a.example/path", "<x@A.Example>", "mailto:x@a.example"])
def test_address_or_url_is_reduced_to_its_domain(ctl: Ctl, text: str) -> None:
    assert ctl("cache", "show", "--json", text).json["domain"] == "a.example"
