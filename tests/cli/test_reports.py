"""``mtastsctl tlsrpt receive`` and ``mtastsctl reports``: from files to tables, JSON and CSV, without a daemon."""

import csv
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mtasts_daemon.cli.main import ctl_main
from tests.tlsrpt.receive import corpus
from tests.tlsrpt.receive.site import dated

HOSTILE = "=cmd|' /C calc'!A0\x1b[31m"


@dataclass(frozen=True, slots=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run the command with three reports of own domains in the database: two trusted, one not."""
    config = tmp_path / "config.yml"
    settings = {
        "store": {"path": str(tmp_path / "policies.sqlite")},
        "receive": {"own_domains": ["example.com", "other.example"]},
    }
    config.write_text(json.dumps(settings))

    def ran(*arguments: str) -> Ran:
        code = ctl_main([*arguments, "-c", str(config)])
        found = capsysbinary.readouterr()
        return Ran(code, found.out.decode(), found.err.decode())

    for name, more in (("trusted", ("--trusted",)), ("untrusted", ())):
        (tmp_path / name).mkdir()
        days = (1, 2) if name == "trusted" else (1,)
        for day in days:
            organization = "Reporter Inc." if name == "trusted" else HOSTILE
            report = corpus.report(
                **{"date-range": dated(day), "report-id": f"{name}-{day}", "organization-name": organization}
            )
            (tmp_path / name / f"{day}.json.gz").write_bytes(corpus.packed(report))
        assert ran("tlsrpt", "receive", *more, str(tmp_path / name)).code == 0
    return ran


def test_list_shows_domains_and_with_filters_reports(run: Run) -> None:
    title, row = run("reports", "list").out.splitlines()
    assert title.split()[:2] == ["DOMAIN", "REPORTS"]
    assert row.split()[:4] == ["example.com", "2", "200", "6"]
    assert [one["report_id"] for one in run("reports", "list", "--trusted", "--json").json] == [
        "trusted-2",
        "trusted-1",
    ]
    (other,) = run("reports", "list", "--untrusted", "--json").json
    assert (other["report_id"], other["method"]) == ("untrusted-1", "none")
    assert run("reports", "list", "--domain", "other.example").code == 1


def test_list_shows_domains_with_only_unauthenticated_reports_apart(run: Run, tmp_path: Path) -> None:
    policy = corpus.policy(policy={"policy-type": "sts", "policy-domain": "other.example"})
    report = corpus.report(**{"date-range": dated(1), "report-id": "other-1", "policies": [policy]})
    (tmp_path / "other.json").write_bytes(corpus.dumps(report))
    assert run("tlsrpt", "receive", str(tmp_path / "other.json")).code == 0
    _title, row, apart = run("reports", "list").out.splitlines()
    assert (row.split()[0], apart) == ("example.com", "other.example: only unauthenticated reports: 1")
    found = run("reports", "list", "--json").json
    assert [one["domain"] for one in found["domains"]] == ["example.com"]
    assert [(one["domain"], one["reports"]) for one in found["only_unauthenticated"]] == [("other.example", 1)]
    assert run("reports", "forget", "example.com").code == 0
    assert run("reports", "list").out.splitlines() == ["other.example: only unauthenticated reports: 1"]


def test_show_gives_advice_and_one_report(run: Run) -> None:
    shown = run("reports", "show", "example.com")
    assert "mx1.example.com fails with certificate-expired since" in shown.out
    assert "1 unauthenticated report" in shown.err
    found = run("reports", "show", "--json", "example.com").json
    assert (found["failures"][0]["failed"], found["untrusted"]) == (6, 1)
    (other,) = run("reports", "list", "--untrusted", "--json").json
    one = run("reports", "show", str(other["id"])).out
    assert "\x1b" not in one and "authenticated" in one
    assert run("reports", "show", "unknown.example").code == 1
    assert run("reports", "show", "999").code == 1


def test_raw_prints_the_report_as_received(run: Run) -> None:
    (other,) = run("reports", "list", "--untrusted", "--json").json
    assert json.loads(run("reports", "raw", str(other["id"])).out)["report-id"] == "untrusted-1"
    assert run("reports", "raw", "999").code == 1


def test_export_writes_csv_without_formulas_and_json_lines(run: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(run("reports", "export").out)))
    assert {row["report_id"] for row in rows} == {"trusted-1", "trusted-2", "untrusted-1"}
    assert not any(value[:1] in tuple("=+-@") for row in rows for value in row.values() if value)
    lines = run("reports", "export", "--json", "--trusted").out.splitlines()
    assert [json.loads(line)["counted"] for line in lines] == [True, True]


def test_forget_removes_the_domain(run: Run) -> None:
    assert run("reports", "forget", "example.com").code == 0
    assert run("reports", "list").code == 1
    assert run("reports", "forget", "example.com").code == 1


def test_silence_is_added_listed_and_removed(run: Run) -> None:
    assert run("reports", "silence", "add", "--domain", "example.com").code == os.EX_USAGE
    number = run(
        "reports", "silence", "add", "--kind", "new-failure", "--reason", "mx2 moves", "--days", "3"
    ).out.strip()
    (silence,) = run("reports", "silence", "list", "--json").json
    assert (silence["kind"], silence["reason"], str(silence["id"])) == ("new-failure", "mx2 moves", number)
    assert "mx2 moves" in run("reports", "silence", "list").out
    assert run("reports", "silence", "remove", number).code == 0
    assert run("reports", "silence", "remove", number).code == 1


def test_file_that_is_no_report_is_counted_and_read_once(run: Run, tmp_path: Path) -> None:
    (tmp_path / "no.json").write_text("{}")
    first = run("tlsrpt", "receive", str(tmp_path / "no.json"))
    assert first.err == "rejected: report-incomplete: 1\n"
    assert run("tlsrpt", "receive", str(tmp_path / "no.json")).err == ""


def test_database_that_is_missing_or_out_of_reach_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # As root no directory is closed, but a name can be too long.
    for name, code in (("none", os.EX_NOINPUT), ("x" * 300, os.EX_NOPERM)):
        config = tmp_path / "config.yml"
        config.write_text(json.dumps({"receive": {"database": str(tmp_path / name / "received.sqlite")}}))
        assert ctl_main(["reports", "list", "-c", str(config)]) == code
        assert "received.sqlite: " in capsys.readouterr().err
