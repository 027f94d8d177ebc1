"""The alert rules and the dashboard use existing metrics."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

PACKAGING = Path(__file__).parents[2] / "packaging"
RULES = PACKAGING / "prometheus" / "mtasts-daemon.rules.yml"
DASHBOARD = PACKAGING / "grafana" / "mtasts-daemon.json"
MANUAL = PACKAGING / "man" / "mtasts-daemon.8"
PROMTOOL = shutil.which("promtool", path=f"{os.environ.get('PATH', '')}:{PACKAGING.parent}/.cache/tools/usr/bin")
_METRIC = re.compile(r"\bmtasts_[a-z0-9_]+\b")


def asked_for() -> set[str]:
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    expressions = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    expressions += [target["expr"] for panel in panels for target in panel["targets"]]
    return {name for expression in expressions for name in _METRIC.findall(expression)}


def metrics_source() -> str:
    folder = PACKAGING.parent / "mtasts_daemon" / "admin"
    found = "".join((folder / name).read_text(encoding="utf-8") for name in ("metrics.py", "receiving_metrics.py"))
    # The namespace of a ProcessMetrics, which appends the names of its metrics.
    return found.replace('"mtasts_receive"', '"mtasts_receive_process_resident_memory_bytes"')


def made() -> set[str]:
    """Return the names in the source of the metrics, as Prometheus sees them."""
    source = metrics_source()
    names = set(_METRIC.findall(source))
    return names | {f"{name}{suffix}" for name in names for suffix in ("_total", "_bucket", "_info", "_sum", "_count")}


def test_every_metric_asked_for_is_made() -> None:
    assert asked_for() - made() == set()


def test_every_metric_is_in_the_manual_and_no_other() -> None:
    source = metrics_source()
    section = MANUAL.read_text(encoding="utf-8").partition(".Sh METRICS")[2].partition("\n.Sh ")[0]
    listed = {name.removesuffix("_total").removesuffix("_info") for name in _METRIC.findall(section)}
    assert listed == set(_METRIC.findall(source))


def test_every_alert_has_a_summary_and_a_remedy() -> None:
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool (Debian package prometheus) is not installed")
def test_promtool_accepts_the_rules() -> None:
    assert PROMTOOL is not None
    found = subprocess.run([PROMTOOL, "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
