"""Collected results compared with the mail sent, session by session."""

import pytest

from tests.fakes.ca import Flaw
from tests.interop.site import Site
from tests.interop.tlsrpt.conftest import Reporting

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120, func_only=True)]

SENDINGS: dict[str, tuple[Flaw | None, int, str]] = {
    "good": (Flaw.GOOD, 5, ""),
    "self-signed": (Flaw.SELF_SIGNED, 3, "validation-failure"),
    "expired": (Flaw.EXPIRED, 2, "certificate-expired"),
    "wrong-name": (Flaw.WRONG_NAME, 4, "certificate-host-mismatch"),
    "no-tls": (None, 2, "starttls-not-supported"),
}
"""By domain: the certificate of the mail exchanger, the number of messages, and the result of each session."""


def ask_for_reports(site: Site, domain: str) -> None:
    site.world.records(f"_smtp._tls.{domain}", f'TXT "v=TLSRPTv1; rua=mailto:tls@{domain}"')


@pytest.mark.parametrize("name", SENDINGS)
def test_session_is_counted_under_the_applied_policy(reporting: Reporting, name: str) -> None:
    flaw, count, result = SENDINGS[name]
    domain = f"{name}.counted.report.example"
    exchanger = reporting.site.world.exchanger(f"mx.{domain}", flaw=flaw)
    reporting.site.world.send_mail_for(domain, exchanger)
    reporting.site.world.publish(domain, "enforce", [exchanger.name])
    ask_for_reports(reporting.site, domain)
    for _ in range(count):
        assert reporting.site.postfix.send(domain).delivered is not bool(result)
    (policy,) = reporting.collected(domain, count)
    assert (policy["type"], policy["mx_hosts"]) == ("sts", [exchanger.name])
    assert "mode: enforce" in policy["strings"]
    if not result:
        assert (policy["successful"], policy["failed"], policy["failures"]) == (count, 0, [])
        return
    assert (policy["successful"], policy["failed"]) == (0, count)
    (failure,) = policy["failures"]
    assert (failure["result_type"], failure["count"]) == (result, count)
    assert (failure["mx_host"], failure["receiving_ip"]) == (exchanger.name, exchanger.address[0])
    # The name in the first line of the greeting only.
    assert failure["helo"] == exchanger.name


def test_domain_without_a_policy_is_reported_as_such(reporting: Reporting) -> None:
    domain = "open.counted.report.example"
    exchanger = reporting.site.world.exchanger(f"mx.{domain}")
    reporting.site.world.send_mail_for(domain, exchanger)
    ask_for_reports(reporting.site, domain)
    assert reporting.site.postfix.send(domain).delivered
    (policy,) = reporting.collected(domain, 1)
    assert (policy["type"], policy["successful"]) == ("no-policy-found", 1)


def test_sessions_in_testing_mode_are_reported_under_the_policy(reporting: Reporting) -> None:
    domain = "testing.counted.report.example"
    exchanger = reporting.site.world.exchanger(f"mx.{domain}", flaw=Flaw.SELF_SIGNED)
    reporting.site.world.send_mail_for(domain, exchanger)
    reporting.site.world.publish(domain, "testing", [f"another.{domain}"])
    ask_for_reports(reporting.site, domain)
    assert reporting.site.postfix.send(domain).delivered
    (policy,) = reporting.collected(domain, 1)
    assert (policy["type"], policy["successful"], policy["failed"]) == ("sts", 1, 0)
    assert "mode: testing" in policy["strings"]
    # Testing mode does not defer mail for this host, so only the daemon reports the mismatch.
    (failure,) = policy["failures"]
    assert (failure["mx_host"], failure["reason_code"]) == (exchanger.name, "mtasts-policy-mx-mismatch")


def test_failures_unseen_by_postfix_are_added_once(reporting: Reporting) -> None:
    domain = "unlisted.counted.report.example"
    listed, other = (reporting.site.world.exchanger(f"{name}.{domain}") for name in ("mx", "forged"))
    reporting.site.world.send_mail_for(domain, other, listed)
    reporting.site.world.publish(domain, "enforce", [listed.name])
    ask_for_reports(reporting.site, domain)
    assert reporting.site.postfix.send(domain).delivered
    (policy,) = reporting.collected(domain, 1)
    assert (policy["successful"], policy["failed"]) == (1, 0)
    (failure,) = policy["failures"]
    assert (failure["mx_host"], failure["reason_code"]) == (other.name, "mtasts-policy-mx-mismatch")
    assert other.connections == 0


def test_fetch_failure_is_reported_next_to_sessions_without_policy(reporting: Reporting) -> None:
    domain = "broken.counted.report.example"
    exchanger = reporting.site.world.exchanger(f"mx.{domain}")
    reporting.site.world.send_mail_for(domain, exchanger)
    reporting.site.world.publish(domain, "enforce", [exchanger.name])
    reporting.site.world.policy_host_down(domain)
    ask_for_reports(reporting.site, domain)
    assert reporting.site.postfix.send(domain).delivered
    policies = {policy["type"]: policy for policy in reporting.collected(domain, 1)}
    assert policies["no-policy-found"]["successful"] == 1
    assert (policies["sts"]["successful"], policies["sts"]["failed"]) == (0, 0)
    (failure,) = policies["sts"]["failures"]
    assert (failure["result_type"], failure["reason_code"]) == ("sts-policy-fetch-error", "policy-connect-failed")


def test_restart_of_the_daemon_loses_no_result(reporting: Reporting) -> None:
    domain = "restart.counted.report.example"
    exchanger = reporting.site.world.exchanger(f"mx.{domain}")
    reporting.site.world.send_mail_for(domain, exchanger)
    ask_for_reports(reporting.site, domain)
    assert reporting.site.postfix.send(domain).delivered
    reporting.site.daemon.stop()
    reporting.site.daemon.start()
    assert reporting.site.postfix.send(domain).delivered
    (policy,) = reporting.collected(domain, 2)
    assert policy["successful"] == 2
