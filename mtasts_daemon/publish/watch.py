"""The watch over published domains: MX records, gate, drift, rollout and removal, each when it is due."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from ..diagnose.check.evidence import CheckEvidence
from ..errors import MtaStsError, PublishError
from ..log import log_event
from ..notify.alert import Alert, AlertSink, Severity
from ..ports import Clock
from ..smtp.probe import OUR_PROBLEMS
from ..text import utc_day
from .counts import DomainCounts, count_domains
from .database import PublishEvent
from .decision import Outcome, PublishDecision, decide
from .dns_lookup import observe_dns
from .dns_records import differences
from .drift import DriftFinding, drift_findings
from .gate import gate_problems
from .registry import DomainRegistry, PublishedDomain
from .removal import RemovalStep, finish_removal
from .rollout import DayReports, RolloutEvidence, RolloutStep, next_phase, next_step
from .service import CHECKS_APART, MX_PER_SECOND, PublishService
from .state import PublishPhase

__all__ = ["PublishWatch", "ReportedDays", "is_incomplete"]

ReportedDays = Callable[[str, str], Awaitable[Mapping[str, DayReports] | None]]
"""Returns the trusted reports about a domain since a UTC day; None if reports are not received here."""

_CHECK_SECONDS = 86400.0
_AGAIN_SECONDS = 600.0
"""Time after which a new finding is checked again before it is reported, and a failed check is repeated."""
_GATE_SECONDS = 3600.0
"""Time after which a closed gate is tried again."""
_MX_SECONDS = 900.0
_TICK_SECONDS = 10.0
_COUNT_SECONDS = 60.0
_WORKERS = 4
_BATCH = 100
_VISIT_SECONDS = 600.0
_REMOVAL_READY = "publish-removal-ready"


class PublishWatch:
    """Visits the domains that are due. ``run`` is a background task's body, on the main loop."""

    def __init__(self, service: PublishService, alert: AlertSink, reports: ReportedDays, clock: Clock) -> None:
        self._service = service
        self._alert = alert
        self._reports = reports
        self._clock = clock
        self.counts = DomainCounts()
        """As of the last minute."""
        self._counted_at = float("-inf")

    async def run(self) -> None:
        """Visit domains until cancelled."""
        while True:
            self._service.changed.clear()
            registry = self._service.registry
            if self._clock.monotonic() - self._counted_at >= _COUNT_SECONDS:
                await self.count()
                if registry is not None and await registry.recover():
                    await self._service.schedule(registry)
            if registry is not None:
                due = registry.take_due(self._clock.monotonic(), _BATCH)
                if due:
                    queue = iter(due)
                    await asyncio.gather(*(self._work(queue) for _ in range(_WORKERS)))
                    continue
            try:
                async with asyncio.timeout(_TICK_SECONDS):
                    await self._service.changed.wait()
            except TimeoutError:
                pass

    @property
    def _registry(self) -> DomainRegistry:
        registry = self._service.registry
        assert registry is not None
        return registry

    @property
    def _check_seconds(self) -> float:
        """Time between two checks of a domain: a day, or longer with more than 43,200 domains."""
        return max(_CHECK_SECONDS, len(self._registry.domains) * CHECKS_APART)

    async def count(self) -> DomainCounts:
        """Count the domains by their condition. On a thread: 100,000 take a while."""
        registry = self._service.registry
        domains = [] if registry is None else list(registry.domains.values())
        self.counts = await asyncio.to_thread(count_domains, domains)
        self._counted_at = self._clock.monotonic()
        return self.counts

    async def _work(self, queue: Iterable[PublishedDomain]) -> None:
        for one in queue:
            self._registry.schedule(one, self._clock.monotonic() + _AGAIN_SECONDS)  # also if the visit fails
            try:
                async with asyncio.timeout(_VISIT_SECONDS), self._service.exclusive(one):
                    await self.visit(one)
            except (MtaStsError, TimeoutError) as error:
                log_event(
                    "publish-visit-failed",
                    level=logging.WARNING,
                    once_a_minute=one.state.domain,
                    domain=one.state.domain,
                    error=str(error) or "it took too long",
                )
            except Exception:
                logging.getLogger(__name__).exception(
                    "publish-internal-error", extra={"fields": {"domain": one.state.domain}}
                )

    async def visit(self, one: PublishedDomain) -> None:
        """Do the work that is due at a domain, and schedule the next visit."""
        now, registry = self._clock.monotonic(), self._registry
        if now >= one.mx_due:
            one.mx_due = now + max(_MX_SECONDS, len(registry.domains) / MX_PER_SECOND)
            await self._service.read_mx(one)
        decision = registry.decide(one)
        evidence = None
        if one.check_due is None or now >= one.check_due or self._gate_is_due(one, decision):
            evidence = await self._checked(one)
            one.check_due = now + (_AGAIN_SECONDS if evidence is None else self._check_seconds)
        if decision.outcome is Outcome.PUBLISH or (decision.outcome is Outcome.GATED and evidence is not None):
            await self._service.advance(one, evidence=evidence)
        elif decision.interim is not None:  # the gate cannot be asked now; a new MX host must not wait for it
            await self._service.publish_interim(one, decision.interim)
        if evidence is not None:
            await self._compare(one, evidence)
            await self._roll_out(one, evidence)
        await self._remove(one)
        if one.dns_problem or one.state.dns_is_outdated:
            await self._service.follow_with_dns(one)
        self._schedule(one, now)

    async def check_now(self, one: PublishedDomain) -> None:
        """Check a domain now, although it is not due. Raises ``PublishError`` if that is not possible."""
        evidence = await self._checked(one, fresh=True)
        if evidence is None:
            raise PublishError(one.check_problem)
        one.check_due = self._clock.monotonic() + self._check_seconds
        await self._service.advance(one, evidence=evidence)
        await self._compare(one, evidence)
        await self._roll_out(one, evidence)

    def _gate_is_due(self, one: PublishedDomain, decision: PublishDecision) -> bool:
        if decision.outcome is not Outcome.GATED or decision.policy is None:
            return False
        gate = one.gate
        return gate is None or gate.policy_id != decision.policy.id or self._clock.wall() - gate.at >= _GATE_SECONDS

    def _schedule(self, one: PublishedDomain, now: float) -> None:
        if one.due <= self._clock.monotonic():
            return  # something changed during the visit: it is due again at once
        times = [now + _CHECK_SECONDS if one.check_due is None else one.check_due]
        if one.settings is not None and one.settings.mx == "auto":
            times.append(one.mx_due)
        if one.dns_problem:
            times.append(now + _AGAIN_SECONDS)
        if one.outcome is Outcome.GATED:
            times.append(now + _GATE_SECONDS)
        if one.state.phase is PublishPhase.REMOVING:
            times.append(now + _GATE_SECONDS)
        self._registry.schedule(one, max(min(times), now + 1.0))

    async def _checked(self, one: PublishedDomain, *, fresh: bool = False) -> CheckEvidence | None:
        try:
            evidence = await self._service.check(one.state.domain, fresh=fresh)
        except PublishError as error:
            one.check_problem = error.detail
            log_event("publish-check-failed", level=logging.WARNING, domain=one.state.domain, error=error)
            return None
        one.check_problem = ""
        one.checked_at = evidence.at
        return evidence

    # -- drift -------------------------------------------------------------------------------------------------

    async def _compare(self, one: PublishedDomain, evidence: CheckEvidence) -> None:
        service, state = self._service, one.state
        delegate_to = one.settings.delegate_to if one.settings is not None else None
        observed = await observe_dns(service.resolver(), state.domain, service.endpoint, delegate_to)
        live = None if state.phase is PublishPhase.REMOVED else state.live
        found = drift_findings(live, evidence, differences(service.records_of(one), observed))
        self.report(one, found, incomplete=is_incomplete(evidence))

    def report(self, one: PublishedDomain, found: Sequence[DriftFinding], *, incomplete: bool) -> None:
        """Store the findings of a check. Send alerts for those found twice and those resolved.

        A new finding is checked again soon before it is reported: one lost packet is no reason for an alert.
        An ``incomplete`` check resolves nothing.
        """
        keys = {finding.key for finding in found}
        # Checks do not see that a removal is ready: ``_remove`` does.
        waits = one.state.phase is PublishPhase.REMOVING
        kept = [
            old for old in one.alerted if old.key not in keys and (incomplete or (waits and old.slug == _REMOVAL_READY))
        ]
        one.findings = (*found, *kept)
        confirmed = [finding for finding in found if finding.key in one.suspected]
        known = {finding.key for finding in one.alerted}
        for finding in confirmed:
            if finding.key not in known:
                self._send(one, finding, resolved=False)
        for finding in one.alerted:
            if finding.key not in keys and finding not in kept:
                self._send(one, finding, resolved=True)
        still = [finding for finding in found if finding.key in known or finding.key in one.suspected]
        if any(key not in one.suspected for key in keys):
            one.check_due = self._clock.monotonic() + _AGAIN_SECONDS
        one.suspected = frozenset(keys)
        one.alerted = (*still, *kept)

    def _send(self, one: PublishedDomain, finding: DriftFinding, *, resolved: bool) -> None:
        sentence = finding.sentence if finding.subject == one.state.domain else f"{finding.subject}: {finding.sentence}"
        self._alert(
            Alert(
                finding.slug,
                finding.severity,
                one.state.domain,
                sentence,
                self._clock.wall(),
                finding.remedy,
                resolved=resolved,
            )
        )

    # -- rollout and removal -----------------------------------------------------------------------------------

    async def rollout_step(self, one: PublishedDomain, evidence: CheckEvidence | None) -> RolloutStep | None:
        """Return the next step of a rollout with its missing conditions; ``check`` runs the gate first."""
        service, state = self._service, one.state
        after = next_phase(state, self._clock.wall())
        if after is state or one.settings is None:
            return None
        problems = None
        policy = decide(one.settings, after, None).policy
        if evidence is not None and policy is not None:
            problems = [problem.text for problem in gate_problems(policy.policy, state.live, evidence)]
        since = utc_day(state.phase_since)
        days = await self._reports(state.domain, since)
        return next_step(state, RolloutEvidence(service.settings.clean_days, problems, days))

    async def _roll_out(self, one: PublishedDomain, evidence: CheckEvidence) -> None:
        registry = self._registry
        await self._correct_phase(one)
        one.step = await self.rollout_step(one, evidence)
        automatic = one.settings is not None and one.settings.rollout == "automatic"
        if one.step is None or not one.step.ready or not automatic:
            return
        now = self._clock.wall()
        state = next_phase(one.state, now)
        note = PublishEvent(state.domain, now, "rollout", f"{state.phase.value}, after {one.step.clean} clean days")
        await registry.put([state], [note], must_keep=True)
        log_event("publish-rollout-advanced", domain=state.domain, phase=state.phase.value, clean_days=one.step.clean)
        one.step = None
        await self._service.advance(one, evidence=evidence)

    async def _correct_phase(self, one: PublishedDomain) -> None:
        """Let a phase begin now that seems to begin in the future, because the clock was wrong."""
        now = self._clock.wall()
        if one.state.phase_since > now + _CHECK_SECONDS:
            event = PublishEvent(one.state.domain, now, "rollout", "the clock was wrong: the phase begins again")
            await self._registry.put([replace(one.state, phase_since=now)], [event], must_keep=False)

    async def _remove(self, one: PublishedDomain) -> None:
        """End a removal once its records are gone from DNS."""
        progress = self._service.removal_progress(one)
        if progress is None or progress.step is not RemovalStep.DELETE_RECORDS:
            return
        service, registry = self._service, self._registry
        observed = await observe_dns(service.resolver(), one.state.domain, service.endpoint)
        name = f"_mta-sts.{one.state.domain}"
        if observed.sts or name in (observed.problems or {}):
            finding = DriftFinding(
                _REMOVAL_READY,
                Severity.NOTE,
                name,
                "no sender holds a policy any more: delete the TXT record, then the policy host's records",
                "mtastsctl publish remove lists them, and deletes them if publish.dns_update is configured.",
            )
            if finding.key not in {known.key for known in one.alerted}:
                one.alerted = (*one.alerted, finding)
                self._send(one, finding, resolved=False)
            return
        now = self._clock.wall()
        await registry.put(
            [finish_removal(one.state, now, registry.serving.now())],
            [PublishEvent(one.state.domain, now, "removed")],
            must_keep=True,
        )
        log_event("publish-removed", domain=one.state.domain)


def is_incomplete(evidence: CheckEvidence) -> bool:
    """Return True if a failure of this host left gaps, so that a missing finding proves nothing."""
    failures = [evidence.sts.failure, evidence.policy_host.failure, evidence.mx.failure]
    failures += [failure for host in evidence.hosts for failure in host.address_failures]
    if evidence.port25 is False or any(failure is not None and failure.ours for failure in failures):
        return True
    # On a host without IPv6 the sessions by IPv4 suffice.
    return any(
        host.sessions and all(session.problem in OUR_PROBLEMS for session in host.sessions) for host in evidence.hosts
    )
