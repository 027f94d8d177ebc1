"""``mtastsctl publish`` with a real daemon: output, exit codes, and the served policies."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.process import Internet, Process

DOMAINS = {
    "testing.example": {"mode": "testing", "mx": ["mx.testing.example"], "rua": ["mailto:tls@testing.example"]},
    "enforce.example": {"mode": "enforce", "mx": ["mx.enforce.example"]},
    "user.example": {"delegate_to": "testing.example"},
}


class Published:
    """A publishing daemon with a fake Internet, and functions to query it."""

    def __init__(self, folder: Path, internet: Internet, daemon: Process) -> None:
        self.folder, self.internet, self.daemon = folder, internet, daemon

    def ctl(self, *arguments: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "tests.fakes.ctl", "publish", *arguments, "-c", str(self.daemon.config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        return done.returncode, done.stdout, done.stderr

    def json(self, *arguments: str) -> Any:
        return json.loads(self.ctl(*arguments, "--json")[1])

    def get(self, host: str, path: str = "/.well-known/mta-sts.txt") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.folder / "public.sock"))
        try:
            connection.request("GET", path, headers={"Host": host})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp("publish")
    with Internet(folder / "internet") as internet:
        for domain in DOMAINS:
            internet.records(domain, f"MX 10 mx.{domain}.")
            internet.records(f"mx.{domain}", "A 127.0.0.1")
            internet.records(f"mta-sts.{domain}", "A 192.0.2.80")
        settings = {
            "admin": {"socket": str(folder / "admin.sock")},
            "public": {"listen": [f"http:unix:{folder / 'public.sock'}"]},
            "publish": {"domains": DOMAINS, "addresses": ["192.0.2.80"]},
        }
        with Process(folder / "daemon", internet, settings) as daemon:
            yield Published(folder, internet, daemon)


def test_published_policies_are_served_by_host(published: Published) -> None:
    expected = b"version: STSv1\r\nmode: testing\r\nmx: mx.testing.example\r\nmax_age: 2592000\r\n"
    assert published.get("mta-sts.testing.example") == (200, expected)
    assert published.get("mta-sts.user.example") == (200, expected)
    assert published.get("mta-sts.enforce.example")[0] == 404
    assert published.get("mta-sts.other.example")[0] == 404


def test_list_and_status_show_what_happens_next(published: Published) -> None:
    code, printed, _ = published.ctl("list")
    assert code == os.EX_OK
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines[1:]] == sorted(DOMAINS)
    assert published.json("list")[2]["mode"] == "testing"
    code, printed, _ = published.ctl("status", "testing.example")
    assert "testing.example: mode testing, max_age 30d, since" in printed
    assert "mx: mx.testing.example" in printed
    code, printed, _ = published.ctl("status")
    assert "http:unix:" in printed


def test_gate_prints_what_to_fix_and_exits_with_1(published: Published) -> None:
    code, printed, _ = published.ctl("apply", "enforce.example")
    assert code == 1
    assert "the policy did not go live: fix what the gate found" in printed
    assert "mx.enforce.example [127.0.0.1]" in printed
    code, printed, _ = published.ctl("status", "enforce.example")
    assert (code, printed.startswith("enforce.example: nothing is served\n")) == (1, True)
    found = published.json("status", "enforce.example")
    assert (found["outcome"], found["mode"], found["gate"]["passed"]) == ("gated", None, False)
    assert published.json("list", "--attention")[0]["domain"] == "enforce.example"


def test_records_are_a_zone_file_with_the_differences_as_comments(published: Published) -> None:
    code, printed, _ = published.ctl("records", "testing.example")
    assert code == os.EX_OK
    live = published.json("status", "testing.example")["id"]
    assert "mta-sts.testing.example. 3600 IN A 192.0.2.80\n" in printed
    assert f'_mta-sts.testing.example. 3600 IN TXT "v=STSv1; id={live};"\n' in printed
    assert "; add: _mta-sts.testing.example TXT" in printed
    assert all(line.startswith(";") or " IN " in line for line in printed.splitlines())
    assert published.ctl("records", "testing.example", "--diff")[0] == 1
    published.internet.records("_mta-sts.testing.example", f'TXT "v=STSv1; id={live};"')
    published.internet.records("_smtp._tls.testing.example", 'TXT "v=TLSRPTv1; rua=mailto:tls@testing.example"')
    code, printed, _ = published.ctl("records", "testing.example", "--diff")
    assert (code, printed) == (os.EX_OK, "; testing.example: as DNS has it\n")


def test_wrong_use_is_refused(published: Published) -> None:
    assert published.ctl("apply", "testing.example", "--force", " ")[0] == os.EX_USAGE
    assert published.ctl("rollout", "enforce.example", "--force", "x")[0] == os.EX_USAGE
    assert published.ctl("status", "--check")[0] == os.EX_USAGE
    code, _, said = published.ctl("status", "unknown.example")
    assert (code, "the domain is not published here" in said) == (1, True)
    code, _, said = published.ctl("rollout", "testing.example")
    assert "a rollout leads to mode enforce" in said
    assert published.ctl("records", "a b")[0] == os.EX_USAGE


def test_apply_all_takes_the_unfinished_domains_only(published: Published) -> None:
    code, out, err = published.ctl("apply", "--all")
    assert code == 1, err
    assert out.startswith("enforce.example: the policy did not go live")
    assert "testing.example" not in out
    assert err == "0 of 1 domains done, 1 wait for the gate, 0 failed; run the command again to resume\n"


def test_apply_of_several_domains_goes_on_after_an_error(published: Published) -> None:
    code, out, err = published.ctl("apply", "testing.example", "other.example", "user.example")
    assert code == os.EX_TEMPFAIL
    assert "testing.example: mode testing" in out and "user.example: mode testing" in out
    assert err.splitlines() == [
        "other.example: the domain is not published here: add it to publish.domains and reload",
        "2 of 3 domains done, 0 wait for the gate, 1 failed; run the command again to resume",
    ]


def test_apply_stops_after_three_failures_in_a_row(published: Published) -> None:
    code, out, err = published.ctl("apply", *(f"other{number}.example" for number in range(5)), "testing.example")
    assert (code, out) == (os.EX_TEMPFAIL, "")
    assert err.splitlines()[3:] == [
        "0 of 6 domains done, 0 wait for the gate, 3 failed, 3 not tried: correct the cause; "
        "run the command again to resume"
    ]


@pytest.mark.parametrize("arguments", [[], ["--all", "testing.example"], ["--all", "--force", "x"]])
def test_apply_needs_domains_or_all(published: Published, arguments: list[str]) -> None:
    code, _, err = published.ctl("apply", *arguments)
    assert code == os.EX_USAGE
    assert err == "name the domains, or use --all without --force\n"


def test_rollout_starts_in_testing_and_lists_the_missing_evidence(published: Published) -> None:
    code, printed, _ = published.ctl("rollout", "enforce.example")
    assert code == os.EX_OK
    assert "-> testing      mode testing, max_age 1d" in printed
    assert "TLS reports are not received here" in printed
    assert b"mode: testing" in published.get("mta-sts.enforce.example")[1]


def test_forced_policy_goes_live_and_removal_replaces_it(published: Published) -> None:
    published.ctl("rollout", "enforce.example")
    code, printed, said = published.ctl("rollout", "enforce.example", "--next", "--force", "a test")
    assert code == os.EX_OK, said
    assert b"mode: enforce" in published.get("mta-sts.enforce.example")[1]
    assert published.json("status", "enforce.example")["history"][0]["event"] == "forced"
    code, printed, _ = published.ctl("remove", "enforce.example")
    assert "mode none is served; senders may hold a policy until in 23h59m" in printed
    assert b"mode: none" in published.get("mta-sts.enforce.example")[1]


def test_ask_answers_published_names_that_resolve_here(published: Published) -> None:
    assert published.get("caddy", "/ask?domain=mta-sts.testing.example")[0] == 200
    assert published.get("caddy", "/ask?domain=mta-sts.enforce.example")[0] == 200
    published.internet.records("mta-sts.user.example", "A 192.0.2.81")
    assert published.get("caddy", "/ask?domain=mta-sts.user.example")[0] == 404
    for name in ("mta-sts.other.example", "testing.example", "x.mta-sts.testing.example"):
        assert published.get("caddy", f"/ask?domain={name}")[0] == 404
    assert published.get("caddy", "/ask")[0] == 400
    assert published.get("mta-sts.testing.example", "/ask?domain=mta-sts.testing.example")[0] == 404


def test_reload_publishes_new_domains_and_keeps_what_senders_hold(published: Published) -> None:
    daemon = published.daemon
    domains = {"new.example": {"mode": "testing", "mx": ["mx.new.example"]}}
    daemon.configure(publish={"domains": domains, "addresses": ["192.0.2.80"]})
    daemon.signal(signal.SIGHUP)
    daemon.hear("READY=1")
    assert b"mx.new.example" in published.get("mta-sts.new.example")[1]
    assert b"mode: testing" in published.get("mta-sts.testing.example")[1]
    assert "not configured any more" in published.ctl("status", "testing.example")[1]
