"""``mtastsctl selftest``: each test of this host, and the verb as a whole."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtasts_daemon.cli.main import ctl_main
from mtasts_daemon.cli.selftest import ca_result, clock_result, route_result
from mtasts_daemon.diagnose.check.checker import DomainChecker
from mtasts_daemon.diagnose.check.gather import EvidenceGatherer
from tests.fakes.ca import Ca
from tests.fakes.probed_smtp import MxBehaviour, ProbedSmtp
from tests.fakes.process import Internet


@pytest.mark.parametrize(
    ("now", "synchronized", "good"), [(2e9, True, True), (2e9, None, None), (2e9, False, False), (1e9, True, False)]
)
def test_clock_is_judged_by_date_and_synchronisation(now: float, synchronized: bool | None, good: bool | None) -> None:
    assert clock_result(now, 1.9e9, synchronized).good is good


def test_ca_file_is_counted_and_a_missing_one_is_named(ca: Ca, tmp_path: Path) -> None:
    assert ca_result(ca.pem).found.startswith("1 authorities in ")
    missing = ca_result(tmp_path / "none.pem")
    assert missing.good is False
    assert "none.pem" in missing.found


def test_route_is_a_sentence_either_way() -> None:
    for family in ("IPv4", "IPv6"):
        assert route_result(family).found.startswith(("routed, from ", "no route: "))


@pytest.mark.process
def test_selftest_finds_resolver_and_port_25(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    references: Any = EvidenceGatherer.__init__.__kwdefaults__
    monkeypatch.setitem(references, "reference_domains", ("large.example",))
    defaults: Any = DomainChecker.__init__.__kwdefaults__
    with Internet(tmp_path / "internet") as internet:
        internet.records("", "NS ns.example.", "! NS ad")
        internet.records("large.example", "MX 1 mx.large.example.")
        internet.records("mx.large.example", "A 127.0.0.1")
        config = tmp_path / "config.yml"
        config.write_text(yaml.safe_dump(internet.settings))
        smtp = ProbedSmtp(internet.ca, {"127.0.0.1": MxBehaviour("mx.large.example")})
        internet.run(smtp.__aenter__())
        monkeypatch.setitem(defaults, "smtp_port", smtp.port)
        ctl_main(["selftest", "-c", str(config), "--json"])
        found = {one["name"]: one for one in json.loads(capsys.readouterr().out)["results"]}
        assert found["resolver"]["good"]
        assert found["DNSSEC"]["good"]
        assert found["port 25"]["found"] == "an MX host of large.example answers"
        monkeypatch.setitem(defaults, "smtp_port", 1)
        assert ctl_main(["selftest", "-c", str(config)]) == 1
        internet.run(smtp.__aexit__())
        assert "FAIL port 25" in capsys.readouterr().out


@pytest.mark.process
def test_selftest_without_resolver_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yml"
    config.write_text("dns: {resolvers: ['127.0.0.1:1'], timeout: 0.2s}\n")
    assert ctl_main(["selftest", "-c", str(config)]) == 1
    out = capsys.readouterr().out
    assert "FAIL resolver" in out
    assert "dns.resolvers" in out
