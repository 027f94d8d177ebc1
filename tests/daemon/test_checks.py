"""Checks in the running daemon: the API streams them, watched domains become metrics, history and alerts."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.admin import Admin
from tests.fakes.ca import Flaw
from tests.fakes.https import Behaviour
from tests.fakes.probed_smtp import MxBehaviour, ProbedSmtp
from tests.fakes.process import Internet, Process

POLICY = b"version: STSv1\nmode: enforce\nmx: mx.example.com\nmax_age: 604800\n"


@pytest.fixture
def internet(tmp_path: Path) -> Iterator[Internet]:
    with Internet(tmp_path / "internet") as found:
        found.publish("watched.example", behaviour=Behaviour(body=POLICY))
        found.records("watched.example", "MX 10 mx.example.com.")
        found.records("mx.example.com", "A 127.0.0.1")
        yield found


@pytest.fixture
def smtp(internet: Internet) -> Iterator[ProbedSmtp]:
    found = ProbedSmtp(internet.ca, {"127.0.0.1": MxBehaviour("mx.example.com", flaw=Flaw.EXPIRED)})
    internet.run(found.__aenter__())
    yield found
    internet.run(found.__aexit__())


def test_api_streams_steps_and_ends_with_the_result(tmp_path: Path, internet: Internet, smtp: ProbedSmtp) -> None:
    settings = {"admin": {"socket": str(tmp_path / "d" / "admin.sock")}}
    environ = {"TEST_SMTP_PORT": str(smtp.port)}
    with Process(tmp_path / "d", internet, settings, environ=environ) as daemon:
        admin = Admin(tmp_path / "d" / "admin.sock")
        answer = admin.get("/api/v1/check/watched.example")
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        *steps, last = [json.loads(line) for line in answer.body.splitlines()]
        assert {step["step"]["name"] for step in steps} >= {"txt", "policy", "mx", "smtp"}
        result = last["result"]
        assert result["domain"] == "watched.example"
        assert result["exit_code"] == 2
        assert "certificate-expired" in [finding["slug"] for finding in result["findings"]]
        assert [one["delivery"] for one in result["conclusions"]] == ["deferred"] * 3
        # Lookups were not delayed, and the session was opened once.
        assert daemon.lookup("watched.example").startswith("OK secure ")
        admin.get("/api/v1/check/watched.example")
        assert smtp.connections == ["127.0.0.1"]
        assert admin.get("/api/v1/check/nonsense").status == 400
        assert admin.get("/api/v1/watched/watched.example").status == 404


def test_check_of_unknown_domain_is_a_result_too(tmp_path: Path, internet: Internet) -> None:
    settings = {"admin": {"socket": str(tmp_path / "d" / "admin.sock")}}
    with Process(tmp_path / "d", internet, settings):
        answer = Admin(tmp_path / "d" / "admin.sock").get("/api/v1/check/none.example")
        assert json.loads(answer.body.splitlines()[-1])["result"]["conclusions"][0]["delivery"] == "rejected"


def test_watched_domain_has_metrics_and_history(tmp_path: Path, internet: Internet, smtp: ProbedSmtp) -> None:
    settings = {
        "admin": {"socket": str(tmp_path / "d" / "admin.sock")},
        "check": {"domains": ["watched.example"], "every": "1h"},
    }
    environ = {"TEST_SMTP_PORT": str(smtp.port)}
    with Process(tmp_path / "d", internet, settings, environ=environ) as daemon:
        admin = Admin(tmp_path / "d" / "admin.sock")
        daemon.logged("domain-checked domain=watched.example exit_code=2")
        metrics = admin.get("/metrics").body.decode()
        assert 'mtasts_check_findings{domain="watched.example",severity="error"} 1.0' in metrics
        (watched,) = admin.get("/api/v1/watched").json["domains"]
        assert watched["result"]["exit_code"] == 2
        history = admin.get("/api/v1/watched/watched.example").json
        assert "certificate-expired" in [problem["slug"] for problem in history["problems"]]
        assert {entry["kind"] for entry in history["timeline"]} == {"policy-id", "policy", "mx", "certificate"}


def test_public_page_is_off_by_default_and_opens_no_private_network(
    tmp_path: Path, internet: Internet, smtp: ProbedSmtp
) -> None:
    path = tmp_path / "d" / "public.sock"
    settings = {"public": {"listen": [f"http:unix:{path}"]}}
    environ = {"TEST_SMTP_PORT": str(smtp.port)}
    with Process(tmp_path / "d", internet, settings, environ=environ) as daemon:
        public = Admin(path)
        assert public.get("/check").status == 404
        daemon.reload(public={"listen": [f"http:unix:{path}"], "check": True})
        assert b"<form" in public.get("/check").body
        while (answer := public.get("/check/watched.example?json=1")).status == 202:
            pass  # each answer waits for the check
        found = {finding["slug"]: finding for finding in answer.json["findings"]}
        # https.allow_addresses is for the operator, not for strangers.
        assert found["policy-address-refused"]["detail"] == "127.0.0.1: an address of this host"
        assert "smtp-address-refused" in found
        assert smtp.connections == []
        assert daemon.lookup("watched.example").startswith("OK secure ")
        daemon.reload(public={"listen": [f"http:unix:{path}"]})
        assert public.get("/check/watched.example").status == 404
