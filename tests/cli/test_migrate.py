"""Conversion of the configuration and cache of postfix-mta-sts-resolver and postfix-tlspol."""

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtasts_daemon.cli.main import ctl_main
from mtasts_daemon.cli.migrate import convert, resolver_entries
from mtasts_daemon.policy.mtasts import Mode, parse_policy

RESOLVER = """
host: 127.0.0.1
port: 8461
reuse_port: true
shutdown_timeout: 20
cache_grace: 60
proactive_policy_fetching: {enabled: true}
cache:
  type: sqlite
  options: {filename: /var/lib/mta-sts/cache.db}
default_zone: {strict_testing: false, timeout: 4}
zones:
  myzone: {strict_testing: true, timeout: 4, require_sni: false}
  reported: {tlsrpt: true}
"""
TLSPOL = """
server:
  address: 127.0.0.1:8642
  log-level: warn
  log-format: json
  prefetch: true
  tlsrpt: true
  cache-file: /var/lib/postfix-tlspol/cache.db
  metrics-address: 127.0.0.1:9642
dns:
  address: 127.0.0.53:53
"""


class Ran:
    def __init__(self, capsys: pytest.CaptureFixture[str], file: Path, text: str, *arguments: str) -> None:
        file.write_text(text)
        self.code = ctl_main(["import-config", *arguments, str(file)])
        self.out, self.err = capsys.readouterr()


def test_resolver_configuration_is_converted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ran = Ran(capsys, tmp_path / "theirs.yml", RESOLVER)
    assert ran.code == 0
    assert yaml.safe_load(ran.out) == {
        "listen": ["socketmap:inet:127.0.0.1:8461"],
        "zones": {"myzone": {"dialect": "plain"}, "reported": {"dialect": "tlsrpt"}},
        "lookup": {"deadline": "4s"},
    }
    for note in ("myzone: strict_testing", "require_sni", "--format resolver /var/lib/mta-sts/cache.db"):
        assert note in ran.err


def test_tlspol_configuration_is_converted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ran = Ran(capsys, tmp_path / "theirs.yml", TLSPOL, "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["config"] == {
        "listen": ["socketmap:inet:127.0.0.1:8642"],
        "zones": {"QUERY": {"dialect": "tlsrpt"}},
        "dns": {"resolvers": ["127.0.0.53:53"]},
        "log": {"level": "warning", "format": "json"},
        "admin": {"listen": "127.0.0.1:9642"},
    }
    assert any("--format domains" in note for note in json.loads(ran.out)["notes"])


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"path": "/run/x.sock", "mode": 0o660}, {"listen": ["socketmap:unix:/run/x.sock"], "unix_mode": "0660"}),
        ({"host": "::1"}, {"listen": ["socketmap:inet:[::1]:8461"]}),
        ({"default_zone": {"timeout": 60}}, {"lookup": {"deadline": "20s"}}),
        ({"zones": None, "cache": []}, {}),
        (
            {"server": {"address": "unix:/run/x", "socket-permissions": 0o666}},
            {"listen": ["socketmap:unix:/run/x"], "unix_mode": "0666"},
        ),
    ],
)
def test_alternative_spellings_are_converted(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    assert convert(theirs)[0] == ours


def test_setting_without_counterpart_is_noted_if_it_was_set(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert Ran(capsys, tmp_path / "theirs.yml", "port: 8461\n").err == ""
    assert "cache_grace has no counterpart" in Ran(capsys, tmp_path / "theirs.yml", RESOLVER).err


def test_listening_on_all_addresses_is_noted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ran = Ran(capsys, tmp_path / "theirs.yml", "host: null\nport: 8461\n")
    assert yaml.safe_load(ran.out) == {"listen": ["socketmap:inet:127.0.0.1:8461"]}
    assert "host: without one it listened on all addresses" in ran.err


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://proxy.example:3128", "proxy.example:3128"),
        ("http://proxy.example/", "proxy.example:80"),
        ("proxy.example:3128", "proxy.example:3128"),
        ("http://[2001:db8::1]:3128", "[2001:db8::1]:3128"),
        ("https://proxy.example:3128", None),
        ("http://user:secret@proxy.example:3128", None),
        ("http://proxy.example:99999", None),
    ],
)
def test_proxy_of_the_environment_is_converted(url: str, proxy: str | None) -> None:
    config, notes = convert({"port": 8461}, {"HTTPS_PROXY": url})
    assert config.get("https") == (None if proxy is None else {"proxy": proxy})
    assert any("HTTPS_PROXY is not converted" in note for note in notes) is (proxy is None)
    assert not any("secret" in note for note in notes)


@pytest.mark.parametrize(
    ("text", "code"),
    [("listen: []\n", 65), ("- 1\n", 65), ("a: [\n", 65), ("", 65), ("1: 2\n", 65), ("!!python/object:x {}\n", 65)],
)
def test_other_configuration_is_rejected(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, code: int
) -> None:
    ran = Ran(capsys, tmp_path / "theirs.yml", text)
    assert (ran.code, ran.out) == (code, "")


def test_value_out_of_range_is_reported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ran = Ran(capsys, tmp_path / "theirs.yml", "host: not a host\nport: 8461\n")
    assert ran.code == 65
    assert "please correct: listen" in ran.err


def test_missing_file_is_reported(tmp_path: Path) -> None:
    assert ctl_main(["import-config", str(tmp_path / "none")]) == 66


# -- the cache ---------------------------------------------------------------------------------------------


def cache(path: Path, rows: Sequence[tuple[object, ...]]) -> Path:
    """Create a cache as postfix-mta-sts-resolver does."""
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("CREATE TABLE sts_policy_cache (domain text, ts integer, pol_id text, pol_body text)")
        connection.executemany("INSERT INTO sts_policy_cache VALUES (?, ?, ?, ?)", rows)
    connection.close()
    return path


def test_policies_of_a_resolver_cache_are_read(tmp_path: Path) -> None:
    policy = {"version": "STSv1", "mode": "enforce", "mx": ["a.example", "*.b.example"], "max_age": 86400}
    rows = [("x.example", 1728000000, "2024", json.dumps(policy)), ("y.example", 1, "1", '{"mode": []}')]
    good, bad = resolver_entries(cache(tmp_path / "cache.db", rows))
    assert (good["domain"], good["record_id"], good["fetched_at"]) == ("x.example", "2024", 1728000000)
    read = parse_policy(good["body"].encode())
    assert (read.mode, [mx.text for mx in read.mx], read.max_age) == (
        Mode.ENFORCE,
        ["a.example", "*.b.example"],
        86400,
    )
    assert bad["body"] == ""


def test_value_with_a_line_end_adds_no_line_to_a_policy(tmp_path: Path) -> None:
    policy = {"version": "STSv1", "mode": "none\nmode: enforce", "mx": ["a\nmx: *.evil"], "max_age": 86400}
    (entry,) = resolver_entries(cache(tmp_path / "cache.db", [("x.example", 1, "1", json.dumps(policy))]))
    assert entry["body"] == ""


def test_directory_instead_of_a_cache_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        resolver_entries(tmp_path)


def test_file_that_is_not_such_a_cache_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no database")
    with pytest.raises(ValueError, match="not an SQLite cache"):
        resolver_entries(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        resolver_entries(tmp_path / "none")
