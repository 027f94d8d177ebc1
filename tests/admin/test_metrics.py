"""The metrics, as Prometheus reads them."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from mtasts_daemon.admin.metrics import ProcessMetrics
from tests.fakes.admin import Admin
from tests.fakes.ca import Flaw
from tests.fakes.https import Behaviour
from tests.fakes.process import Internet, Process

# Alerts and dashboards use these names: names may be added, but not changed after the first release.
CATALOGUE = (
    "mtasts_build_info mtasts_lookups mtasts_lookup_answers mtasts_lookup_duration_seconds "
    "mtasts_lookup_inflight mtasts_cache_requests mtasts_cache_hits mtasts_cache_stale_served "
    "mtasts_cache_entries mtasts_cache_entries_limit mtasts_cache_evictions mtasts_refresh "
    "mtasts_refresh_failures mtasts_refresh_due mtasts_refresh_lag_seconds "
    "mtasts_refresh_last_success_timestamp_seconds mtasts_policies_changed mtasts_downgrades_refused "
    "mtasts_dns_queries mtasts_dns_failures mtasts_dns_duration_seconds mtasts_dns_authenticated "
    "mtasts_policies_unmatched mtasts_deferred_domains "
    "mtasts_dns_retries mtasts_dns_dropped mtasts_dns_tcp_fallbacks "
    "mtasts_https_fetches mtasts_https_failures mtasts_https_duration_seconds mtasts_store_operations "
    "mtasts_store_failures mtasts_store_duration_seconds mtasts_config_last_reload_successful "
    "mtasts_config_last_reload_success_timestamp_seconds mtasts_event_loop_lag_seconds "
    "mtasts_tlsrpt_collecting mtasts_tlsrpt_sending mtasts_tlsrpt_deliveries mtasts_tlsrpt_deliveries_due "
    "mtasts_tlsrpt_undelivered_seconds mtasts_tlsrpt_events mtasts_tlsrpt_events_rejected "
    "mtasts_tlsrpt_last_event_timestamp_seconds mtasts_tlsrpt_sessions_refused mtasts_tlsrpt_findings_lost "
    "mtasts_tlsrpt_queued_bytes mtasts_tlsrpt_store_failures mtasts_tlsrpt_store_duration_seconds "
    "mtasts_tlsrpt_reports mtasts_tlsrpt_reports_made mtasts_tlsrpt_reports_skipped mtasts_tlsrpt_report_failures "
    "mtasts_log_messages mtasts_unhandled_exceptions process_cpu_seconds process_resident_memory_bytes "
    "process_open_fds process_start_time_seconds "
    "mtasts_received_receiving mtasts_received_reports mtasts_received_reports_stored mtasts_received_reports_refused "
    "mtasts_received_duplicates mtasts_received_revisions mtasts_received_foreign_domains mtasts_received_deviations "
    "mtasts_received_last_timestamp_seconds mtasts_received_alerts "
)
SUCCESS = b'{"dpv":"1","d":"a.example","pr":"v=TLSRPTv1; rua=mailto:x@a.example","policies":[{"policy-type":9,"f":0}]}'


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    """A daemon after some of every kind of event."""
    folder = tmp_path_factory.mktemp("metrics")
    with Internet(folder / "internet") as internet:
        internet.publish("good.example")
        internet.publish("bad.example", behaviour=Behaviour(certificate=Flaw.EXPIRED))
        internet.records("_mta-sts.servfail.example", "! TXT servfail")
        internet.records("_mta-sts.forged.example", "! TXT forge-id", "! TXT forge-name", "! TXT forge-type")
        internet.records("_mta-sts.long.example", "! TXT truncate")
        reporter = {name: f"{name}@sender.example" for name in ("organization", "contact", "sender")}
        settings = {
            "admin": {"socket": str(folder / "admin.sock")},
            "tlsrpt": {"socket": str(folder / "tlsrpt.sock"), **reporter},
        }
        with Process(folder / "daemon", internet, settings) as daemon:
            for domain in ("good", "good", "bad", "none", "servfail", "forged", "long"):
                daemon.lookup(f"{domain}.example")
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as postfix:
                for datagram in (SUCCESS, b"no event", SUCCESS):
                    postfix.sendto(datagram, str(folder / "tlsrpt.sock"))
            daemon.logged("tlsrpt-event-rejected")
            daemon.logged("admin-listening")
            yield Admin(folder / "admin.sock")


def families(admin: Admin) -> dict[str, Metric]:
    answer = admin.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return {family.name: family for family in parse_text(answer.body.decode())}


def value(admin: Admin, name: str, **labels: str) -> float:
    found = [s.value for f in families(admin).values() for s in f.samples if s.name == name and s.labels == labels]
    assert len(found) == 1, (name, labels, found)
    return found[0]


def test_every_documented_metric_exists(exposed: Admin) -> None:
    names = {name.removesuffix("_info") for name in families(exposed)} | set(families(exposed))
    assert {name.removesuffix("_info") for name in CATALOGUE.split()} <= names


def test_counters_match_the_lookups(exposed: Admin) -> None:
    assert value(exposed, "mtasts_lookups_total", protocol="socketmap") == 7
    assert value(exposed, "mtasts_lookup_answers_total", answer="secure") == 2
    assert value(exposed, "mtasts_lookup_answers_total", answer="none") == 5
    assert value(exposed, "mtasts_cache_hits_total") == 1
    assert value(exposed, "mtasts_lookup_duration_seconds_count") == 7
    assert value(exposed, "mtasts_https_fetches_total") == 2
    assert value(exposed, "mtasts_https_failures_total", reason="webpki-expired") == 1
    assert value(exposed, "mtasts_dns_failures_total", rrtype="TXT", reason="dns-servfail") >= 1
    assert value(exposed, "mtasts_policies_changed_total", change="learned") == 1
    assert value(exposed, "mtasts_store_operations_total", op="put") == 1
    assert value(exposed, "mtasts_config_last_reload_successful") == 1
    for task in ("daemon", "tls-results", "tls-reports", "public"):
        assert value(exposed, "mtasts_unhandled_exceptions_total", task=task) == 0


def test_dropped_dns_responses_are_counted_by_reason(exposed: Admin) -> None:
    assert value(exposed, "mtasts_dns_dropped_total", reason="unexpected") == 1
    assert value(exposed, "mtasts_dns_dropped_total", reason="mismatched") == 2
    assert value(exposed, "mtasts_dns_tcp_fallbacks_total") == 1


def test_dns_counters_survive_a_change_of_the_resolver(tmp_path: Path) -> None:
    with Internet(tmp_path / "internet") as internet:
        settings = {"admin": {"socket": str(tmp_path / "admin.sock")}}
        with Process(tmp_path / "daemon", internet, settings) as daemon:
            daemon.lookup("none.example")
            daemon.reload(**settings, dns={**internet.settings["dns"], "timeout": "2s"})
            assert value(Admin(tmp_path / "admin.sock"), "mtasts_dns_queries_total", rrtype="TXT") == 1


def test_tls_results_are_counted_rejected_ones_by_reason(exposed: Admin) -> None:
    assert value(exposed, "mtasts_tlsrpt_events_total") == 3
    assert value(exposed, "mtasts_tlsrpt_events_rejected_total", reason="event-not-json") == 1
    assert value(exposed, "mtasts_tlsrpt_events_rejected_total", reason="event-not-kept") == 0
    assert value(exposed, "mtasts_tlsrpt_last_event_timestamp_seconds") > 1.7e9
    assert value(exposed, "mtasts_tlsrpt_store_failures_total") == 0


def test_tls_reports_are_counted_by_state(exposed: Admin) -> None:
    assert value(exposed, "mtasts_tlsrpt_collecting") == value(exposed, "mtasts_tlsrpt_sending") == 1
    for state in ("waiting", "delivered", "refused", "failed", "suppressed"):
        assert value(exposed, "mtasts_tlsrpt_deliveries", state=state) == 0
    assert value(exposed, "mtasts_tlsrpt_undelivered_seconds") == 0
    assert value(exposed, "mtasts_tlsrpt_reports_total", transport="mail") == 0
    assert value(exposed, "mtasts_tlsrpt_reports_total", transport="https") == 0
    assert value(exposed, "mtasts_tlsrpt_report_failures_total", reason="deferred") == 0


def test_labels_are_closed_sets_without_domains(exposed: Admin) -> None:
    for family in families(exposed).values():
        for sample in family.samples:
            assert set(sample.labels) <= LABELS, sample
            assert not any("example" in text for text in sample.labels.values()), sample


LABELS = {"le", "answer", "protocol", "mode", "reason", "kind", "change", "rrtype", "op", "level", "version", "python"}
LABELS |= {"transport", "implementation", "major", "minor", "patchlevel", "state", "task"}
LABELS |= {"result", "status", "finding", "source", "authentication", "deviation"}


def test_memory_of_the_receiving_process_is_exposed_while_it_runs(exposed: Admin) -> None:
    name = "mtasts_receive_process_resident_memory_bytes"
    assert name not in families(exposed)
    assert exposed.get("/api/v1/watched").status == 200
    while name not in (found := families(exposed)):  # made once a second
        time.sleep(0.05)
    memory = {name: family.samples[0].value for name, family in found.items() if "resident_memory" in name}
    assert memory.keys() == {name, "process_resident_memory_bytes"}
    assert all(10e6 < size < 1e9 for size in memory.values())


def test_process_metrics_need_nothing_but_the_process_in_proc(tmp_path: Path) -> None:
    (tmp_path / "self").symlink_to("/proc/self")
    found = {family.name: family for family in ProcessMetrics(proc=str(tmp_path), registry=None).collect()}
    assert found["process_resident_memory_bytes"].samples[0].value > 10e6
    (complete,) = [one for one in ProcessCollector(registry=None).collect() if one.name == "process_start_time_seconds"]
    started = found["process_start_time_seconds"].samples[0].value
    assert started == pytest.approx(complete.samples[0].value, abs=2.0)


def test_openmetrics_is_returned_on_request(exposed: Admin) -> None:
    answer = exposed.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    found = parse_openmetrics(answer.body.decode())  # type: ignore[no-untyped-call]  # it has no annotations
    assert "mtasts_lookups" in {family.name for family in found}


def test_scrape_sends_no_queries(exposed: Admin) -> None:
    before = value(exposed, "mtasts_dns_queries_total", rrtype="NS")
    for _ in range(3):
        exposed.get("/metrics")
    assert value(exposed, "mtasts_dns_queries_total", rrtype="NS") == before


@pytest.fixture(scope="session")
def promtool() -> str:
    """Debian's, without installing the service that comes with it."""
    found = shutil.which("promtool")
    if found is not None:
        return found
    folder = Path(__file__).parents[2] / ".cache" / "prometheus"
    tool = folder / "usr" / "bin" / "promtool"
    if not tool.exists():
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            pytest.skip("promtool is not here, and only root on Debian gets it")
        folder.mkdir(parents=True, exist_ok=True)
        for command in (["apt-get", "-qq", "download", "prometheus"], ["sh", "-c", "dpkg-deb -x prometheus_*.deb ."]):
            if subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=240).returncode:
                pytest.skip("Debian's prometheus package cannot be had")
        for package in folder.glob("*.deb"):
            package.unlink()
    return str(tool)


def test_promtool_finds_no_problem(exposed: Admin, promtool: str) -> None:
    text = exposed.get("/metrics").body
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
