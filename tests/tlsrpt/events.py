"""Events, policies and failures to be counted."""

from mtasts_daemon.tlsrpt.model.event import Failure, Policy, PolicyResult, PolicyType, TlsrptEvent

__all__ = ["DAY", "failed", "failure", "policy", "succeeded"]

DAY = "2026-09-21"


def policy(number: int = 0, domain: str = "example.com") -> Policy:
    """An MTA-STS policy, another for each number."""
    lines = ("version: STSv1", "mode: enforce", f"mx: mx{number}.{domain}", "max_age: 86400")
    return Policy(PolicyType.STS, domain, lines, (f"mx{number}.{domain}",))


def failure(number: int = 0, result_type: str = "certificate-expired") -> Failure:
    """A failure, with other details for each number."""
    return Failure(result_type, "192.0.2.1", f"mx{number}.example.com", "mx", "198.51.100.7", "", "code")


def succeeded(domain: str = "example.com", number: int = 0) -> TlsrptEvent:
    """A session that went well, under the policy of that number."""
    return TlsrptEvent(domain, "v=TLSRPTv1; rua=mailto:a@example.com", (PolicyResult(policy(number, domain), False),))


def failed(domain: str = "example.com", number: int = 0, of: int = 0) -> TlsrptEvent:
    """A session that failed for the reason of that number, under the policy of the number ``of``."""
    return TlsrptEvent(domain, "v=TLSRPTv1;", (PolicyResult(policy(of, domain), True, (failure(number),)),))
