"""Events, policies and failures for tests."""

from collections.abc import Iterable

from mtasts_daemon.tlsrpt.database.connection import TlsrptDatabase
from mtasts_daemon.tlsrpt.model.event import Failure, Policy, PolicyResult, PolicyType, TlsrptEvent
from mtasts_daemon.tlsrpt.model.tally import Tally

__all__ = ["DAY", "add_events", "failed", "failure", "policy", "succeeded"]

DAY = "2026-09-21"


def policy(number: int = 0, domain: str = "example.com") -> Policy:
    """Return an MTA-STS policy, a different one for each number."""
    lines = ("version: STSv1", "mode: enforce", f"mx: mx{number}.{domain}", "max_age: 86400")
    return Policy(PolicyType.STS, domain, lines, (f"mx{number}.{domain}",))


def failure(number: int = 0, result_type: str = "certificate-expired") -> Failure:
    """Return a failure, with different details for each number."""
    return Failure(result_type, "192.0.2.1", f"mx{number}.example.com", "mx", "198.51.100.7", "", "code")


def succeeded(domain: str = "example.com", number: int = 0) -> TlsrptEvent:
    """Return a successful session under the policy of that number."""
    return TlsrptEvent(domain, "v=TLSRPTv1; rua=mailto:a@example.com", (PolicyResult(policy(number, domain), False),))


def failed(domain: str = "example.com", number: int = 0, of: int = 0) -> TlsrptEvent:
    """Return a session that failed with the failure of that number, under the policy of the number ``of``."""
    return TlsrptEvent(domain, "v=TLSRPTv1;", (PolicyResult(policy(of, domain), True, (failure(number),)),))


def add_events(database: TlsrptDatabase, events: Iterable[tuple[str, TlsrptEvent]]) -> int:
    """Add events, each with its day, in one transaction. Return the number of sessions that exceeded the caps."""
    tallies: dict[str, Tally] = {}
    for day, event in events:
        tallies.setdefault(day, Tally(day)).add(event)
    return database.add_tallies(tallies.values())
