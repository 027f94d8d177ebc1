"""The gate: reasons not to publish a policy that can defer mail. Pure.

It uses the same evidence as ``mtastsctl check``, and requires more: every address of every MX host must offer STARTTLS
with a certificate that is valid for the host. A failed probe counts as a problem.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ..diagnose.check.catalogue import CATALOGUE
from ..diagnose.check.evidence import CheckEvidence, CheckFailure, MxHostEvidence, PolicyHostEvidence
from ..policy.mtasts import Mode, StsPolicy
from .policy_text import PublishedPolicy, policy_host_of

__all__ = ["GateProblem", "GateResult", "gate_problems"]

# The certificate is valid if HTTP was spoken at all.
_HTTP_SLUGS = frozenset(
    {
        *("policy-http-malformed", "policy-http-status", "policy-http-redirect", "policy-media-type"),
        *("policy-content-encoding", "policy-too-large"),
    }
)


@dataclass(frozen=True, slots=True)
class GateProblem:
    """One thing to fix. ``subject`` is the host or name concerned."""

    subject: str
    sentence: str
    remedy: str = ""

    @property
    def text(self) -> str:
        """Subject and sentence on one line."""
        return f"{self.subject}: {self.sentence}"


@dataclass(frozen=True, slots=True)
class GateResult:
    """The gate's result for the policy with ``policy_id`` at a time (seconds since the epoch)."""

    policy_id: str
    at: float
    problems: tuple[GateProblem, ...]


def gate_problems(
    candidate: StsPolicy, live: PublishedPolicy | None, evidence: CheckEvidence
) -> tuple[GateProblem, ...]:
    """Return the problems to fix before ``candidate`` may replace ``live``."""
    found = [*_mx_problems(candidate, evidence), *_policy_host_problems(live, evidence)]
    return tuple(dict.fromkeys(found))


def _problem(subject: str, slug: str, detail: str = "") -> GateProblem:
    kind = CATALOGUE.get(slug)
    sentence = kind.sentence if kind is not None else slug
    return GateProblem(subject, f"{sentence} ({detail})" if detail else sentence, kind.remedy if kind else "")


def _failure(subject: str, failure: CheckFailure) -> GateProblem:
    kind = CATALOGUE.get(failure.slug)
    return GateProblem(subject, failure.sentence, kind.remedy if kind is not None else "")


def _mx_problems(candidate: StsPolicy, evidence: CheckEvidence) -> Iterator[GateProblem]:
    mx = evidence.mx
    if mx.failure is not None:
        yield _failure(evidence.domain, mx.failure)
        return
    if not evidence.hosts:
        yield _problem(evidence.domain, "mx-null" if mx.null else "mx-missing")
        return
    if evidence.hosts_left_out:
        yield _problem(evidence.domain, "mx-more-hosts", f"{evidence.hosts_left_out} were not checked")
    if evidence.port25 is False:
        yield _problem(evidence.domain, "port25-blocked")
    for host in evidence.hosts:
        yield from _host_problems(candidate, host)


def _host_problems(candidate: StsPolicy, host: MxHostEvidence) -> Iterator[GateProblem]:
    if candidate.mode is not Mode.NONE and not candidate.permits(host.host):
        yield GateProblem(
            host.host,
            "no mx pattern of the new policy permits this MX host",
            "Add the host to publish.domains, or remove the MX record.",
        )
    for failure in host.address_failures:
        yield _failure(host.host, failure)
    if not host.addresses and not host.address_failures:
        yield _problem(host.host, "mx-no-address")
    sessions = {session.address: session for session in host.sessions}
    for address in host.addresses:
        subject, session = f"{host.host} [{address}]", sessions.get(address)
        if session is None:
            yield GateProblem(subject, "was not checked")
        elif session.problem is not None:
            yield _problem(subject, session.problem, session.detail)
        elif session.tls is None:
            yield _problem(subject, "starttls-not-offered")
        elif (problem := session.tls.problem_for(host.host)) is not None:
            yield _problem(subject, problem)


def _policy_host_problems(live: PublishedPolicy | None, evidence: CheckEvidence) -> Iterator[GateProblem]:
    host, found = policy_host_of(evidence.domain), evidence.policy_host
    if evidence.sts.failure is not None and not found.present:
        yield _failure(f"_mta-sts.{evidence.domain}", evidence.sts.failure)
        return
    if not found.present:
        yield GateProblem(
            host, "the policy host has no address", "Publish its records first: mtastsctl publish records."
        )
        return
    for endpoint in found.endpoints:
        subject = f"{host} [{endpoint.address}]"
        if endpoint.problem is not None:
            yield _problem(subject, endpoint.problem, endpoint.detail)
        elif endpoint.tls is not None and (problem := endpoint.tls.problem_for(host)) is not None:
            yield _problem(subject, problem)
    yield from _text_problems(host, live, found)


def _text_problems(host: str, live: PublishedPolicy | None, found: PolicyHostEvidence) -> Iterator[GateProblem]:
    failure = found.failure
    if failure is not None and found.body is None:
        # Before the first policy our own listener answers 404; only the certificate matters then.
        if live is not None or failure.slug not in _HTTP_SLUGS:
            yield _failure(host, failure)
    elif live is not None and found.body is not None and found.body != live.text:
        yield GateProblem(
            host,
            "the policy host serves another text than this daemon",
            "Point mta-sts and the reverse proxy to the public listener of this host.",
        )
