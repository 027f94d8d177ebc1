"""The operator's requests to publishing, for the admin API: JSON values in and out."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, replace
from heapq import nsmallest
from typing import Any

from ..config.sections.publish import PublishedDomainSettings
from ..errors import PublishError, StsRecordError
from ..log import log_event
from ..policy.mtasts import Mode, parse_txt
from .counts import DomainCounts
from .database import PublishEvent
from .decision import Outcome
from .dns_lookup import observe_dns
from .dns_records import DnsRecord, RecordDifference, differences, zone_line
from .dns_update import UpdateResult
from .gate import GateResult
from .registry import DomainRegistry, PublishedDomain
from .removal import RemovalStep, begin_removal, finish_removal
from .rollout import RolloutStep, begin_rollout, next_phase, policy_of_phase
from .service import PublishService
from .state import PublishPhase
from .watch import PublishWatch

__all__ = ["PublishOperations"]

_MAX_REASON = 1000


class PublishOperations:
    """One for the life of the daemon. Raises ``PublishError`` and ``StoreError``; ``KeyError`` for unknown domains."""

    def __init__(self, service: PublishService, watch: PublishWatch) -> None:
        self._service = service
        self._watch = watch

    @property
    def _registry(self) -> DomainRegistry:
        registry = self._service.registry
        if registry is None:
            raise PublishError("no domain is published: add publish.domains to the configuration")
        return registry

    def _domain(self, name: str) -> PublishedDomain:
        return self._registry.domains[name]

    # -- seeing ------------------------------------------------------------------------------------------------

    @property
    def counts(self) -> DomainCounts:
        """The numbers of domains, as of the last minute."""
        return self._watch.counts

    async def overview(self) -> dict[str, Any]:
        """Return the numbers of domains by condition, and general problems."""
        registry, service = self._service.registry, self._service
        counts = await self._watch.count()
        problems = list(service.file_problems)
        if registry is not None and registry.write_failure:
            problems.append(f"{registry.database.path}: {registry.write_failure}")
        return {**asdict(counts), "dns_update": service.updater is not None, "problems": problems}

    async def domains(self, after: str, limit: int, *, attention: bool = False) -> dict[str, Any]:
        """Return a page of domains by name; ``attention`` only those that need it. ``next`` continues the list."""
        registry = self._service.registry
        known = {} if registry is None else dict(registry.domains)
        # On a thread: 100,000 take a while, and lookups wait for this loop.
        names = await asyncio.to_thread(
            lambda: nsmallest(
                limit + 1,
                (name for name, one in known.items() if name > after and (not attention or _needs_attention(one))),
            )
        )
        shown = names[:limit]
        return {
            "domains": [_summary(known[name], self._service) for name in shown],
            "next": shown[-1] if len(names) > limit else None,
        }

    async def domain(self, name: str) -> dict[str, Any]:
        """Return the state of a domain with findings and history."""
        one = self._domain(name)
        live = one.state.live
        return {
            **_summary(one, self._service),
            "lines": [] if live is None else list(live.policy.lines),
            "mx_hosts": list(one.state.mx_hosts or ()),
            "held_until": self._service.wall_of(one.state.held_until),
            "findings": [
                {
                    "slug": finding.slug,
                    "severity": finding.severity.value,
                    "subject": finding.subject,
                    "sentence": finding.sentence,
                    "remedy": finding.remedy,
                }
                for finding in one.findings
            ],
            "history": [
                {"at": event.at, "event": event.event, "detail": event.detail}
                for event in (await self._registry.database.history(name))[:100]
            ],
        }

    async def records(self, name: str) -> dict[str, Any]:
        """Return the domain's records as zone-file lines, and the differences from DNS."""
        one, service = self._domain(name), self._service
        wanted = service.records_of(one)
        delegate_to = one.settings.delegate_to if one.settings is not None else None
        observed = await observe_dns(service.resolver(), name, service.endpoint, delegate_to)
        return {
            "domain": name,
            "lines": [zone_line(record) for record in wanted],
            "differences": [_difference_json(found) for found in differences(wanted, observed)],
            "served": one.state.text is not None,
            "endpoint": service.settings.host is not None or bool(service.settings.addresses) or bool(delegate_to),
        }

    # -- doing -------------------------------------------------------------------------------------------------

    async def check(self, name: str) -> dict[str, Any]:
        """Check a domain now, as the watch does once a day."""
        one = self._domain(name)
        async with self._service.exclusive(one):
            await self._watch.check_now(one)
        return await self.domain(name)

    async def apply(self, name: str, *, force: str = "") -> dict[str, Any]:
        """Publish a domain if the gate permits it, then write its records if DNS updates are configured."""
        one, service = self._domain(name), self._service
        reason = " ".join(force.split())[:_MAX_REASON]
        if one.settings is None:
            raise PublishError(f"{name} is not in the configuration: add it, or run mtastsctl publish remove {name}")
        async with service.exclusive(one):
            if one.state.phase is PublishPhase.REMOVED:
                await self._put(one, replace(one.state, phase=PublishPhase.DIRECT), "begun again")
            await service.read_mx(one)
            early = await self._write_host(one)
            await service.advance(one, force=reason)
            result = await self._write_all(one)
        service.wake(one)
        return {**_summary(one, service), "dns": _result_json(result or early)}

    async def _write_host(self, one: PublishedDomain) -> UpdateResult | None:
        """Write the records that the gate needs to reach the policy host: all but the TXT record."""
        records = [record for record in self._service.records_of(one) if not record.name.startswith("_mta-sts.")]
        if self._service.updater is None or not records or one.state.dns_id:
            return None
        return await self._service.updater.write(records)

    async def _write_all(self, one: PublishedDomain) -> UpdateResult | None:
        live, updater = one.state.live, self._service.updater
        if live is None or updater is None:
            return None
        result = await updater.write(self._service.records_of(one))
        one.dns_problem = ""
        await self._put(one, replace(one.state, dns_id=live.id), "dns written", live.id)
        return result

    async def rollout(self, name: str, *, step: bool = False, force: str = "") -> dict[str, Any]:
        """Start a rollout, or return its state; with ``step`` take the next step, by force if a reason is given."""
        one, service = self._domain(name), self._service
        if one.settings is None or one.settings.mode != "enforce" or one.settings.delegate_to is not None:
            raise PublishError(f"a rollout leads to mode enforce: write mode: enforce for {name} in publish.domains")
        reason = " ".join(force.split())[:_MAX_REASON]
        async with service.exclusive(one):
            if one.state.phase in (PublishPhase.REMOVING, PublishPhase.REMOVED):
                raise PublishError(f"{name} is being removed, or was: run mtastsctl publish apply {name} first")
            begun = begin_rollout(one.state, service.clock.wall())
            if begun is not one.state and one.state.phase is not PublishPhase.COMPLETE:
                await self._put(one, begun, "rollout", f"begun: {begun.phase.value}")
                await service.read_mx(one)
                await service.advance(one)
            evidence = await service.check(name, fresh=True)
            one.step = await self._watch.rollout_step(one, evidence)
            if step:
                await self._take_step(one, one.step, reason)
                await service.advance(one, force=reason, evidence=evidence)
                one.step = await self._watch.rollout_step(one, evidence)
        return {**_summary(one, service), "plan": self._plan(one)}

    async def _take_step(self, one: PublishedDomain, step: RolloutStep | None, reason: str) -> None:
        if step is None:
            raise PublishError("the rollout is complete")
        if not step.ready and not reason:
            missing = "; ".join(step.missing)
            raise PublishError(f"the next step is not ready: {missing}. Wait, or use --force with a reason")
        if reason:
            log_event("publish-rollout-forced", domain=one.state.domain, phase=step.to.value, reason=reason)
        after = next_phase(one.state, self._service.clock.wall())
        await self._put(one, after, "rollout", f"{after.phase.value}{f', forced: {reason}' if reason else ''}")

    def _plan(self, one: PublishedDomain) -> list[dict[str, Any]]:
        live = one.state.live
        if live is None:
            return []
        target = policy_of_phase(live, PublishPhase.COMPLETE)
        settings = one.settings
        plan = []
        for phase in (PublishPhase.TESTING, PublishPhase.ENFORCE_DAY, PublishPhase.COMPLETE):
            short = phase is not PublishPhase.COMPLETE
            age = int(settings.max_age) if settings is not None else target.policy.max_age
            mode = Mode.TESTING if phase is PublishPhase.TESTING else Mode.ENFORCE
            plan.append(
                {
                    "phase": phase.value,
                    "mode": mode.value,
                    "max_age": min(age, 86400) if short else age,
                    "current": phase is one.state.phase,
                }
            )
        return plan

    async def remove(self, name: str) -> dict[str, Any]:
        """Start or continue a removal: first mode none, then the records are removed."""
        one, service = self._domain(name), self._service
        async with service.exclusive(one):
            now = service.clock.wall()
            result = None
            if one.state.phase not in (PublishPhase.REMOVING, PublishPhase.REMOVED):
                assumed = await self._assumed_age(one)
                begun = begin_removal(one.state, now, self._registry.serving.now(), assumed)
                await self._put(one, begun, "removal", "mode none is served")
                log_event("publish-removal-begun", domain=name, until=round(service.wall_of(begun.held_until)))
                if begun.dns_id:
                    result = await service.follow_with_dns(one)
            progress = service.removal_progress(one)
            records = [record for record in service.records_of(one) if not record.name.startswith("_smtp._tls.")]
            if progress is not None and progress.step is RemovalStep.DELETE_RECORDS and service.updater is not None:
                result = await service.updater.write([], remove=_distinct(records))
                await self._put(one, finish_removal(one.state, now, self._registry.serving.now()), "removed")
                log_event("publish-removed", domain=name)
                progress = service.removal_progress(one)
        service.wake(one)
        return {
            **_summary(one, service),
            "dns": _result_json(result),
            "delete": [zone_line(record) for record in records]
            if progress is not None and progress.step is RemovalStep.DELETE_RECORDS
            else [],
        }

    async def _assumed_age(self, one: PublishedDomain) -> float:
        """Return the max_age of a policy that senders may hold although the state does not know it, otherwise 0.

        If the state was lost, or comes from an old backup, DNS announces another policy than the one being served.
        """
        name, live = one.state.domain, one.state.live
        observed = await observe_dns(self._service.resolver(), name, self._service.endpoint)
        try:
            record = parse_txt(observed.sts)
        except StsRecordError:
            record = None  # senders take it for no record
        is_unknown = f"_mta-sts.{name}" in (observed.problems or {})
        if not is_unknown and (record is None or (live is not None and record.id == live.id)):
            return 0.0
        settings = one.settings or PublishedDomainSettings()
        return float(settings.max_age)

    async def _put(self, one: PublishedDomain, state: Any, event: str, detail: str = "") -> None:
        note = PublishEvent(one.state.domain, self._service.clock.wall(), event, detail)
        await self._registry.put([state], [note], must_keep=True)


def _distinct(records: list[DnsRecord]) -> list[DnsRecord]:
    """One record for each name and type: a removal takes them all."""
    return list({(record.name, record.kind): record for record in records}.values())


def _needs_attention(one: PublishedDomain) -> bool:
    return bool(
        one.findings
        or one.check_problem
        or one.dns_problem
        or one.outcome not in (Outcome.UNCHANGED, Outcome.PUBLISH)
        or (one.settings is None and one.state.phase not in (PublishPhase.REMOVING, PublishPhase.REMOVED))
    )


def _summary(one: PublishedDomain, service: PublishService) -> dict[str, Any]:
    state, live = one.state, one.state.live
    progress = service.removal_progress(one)
    return {
        "domain": state.domain,
        "configured": one.settings is not None,
        "mode": None if live is None else live.policy.mode.value,
        "wanted_mode": None if one.settings is None else one.settings.mode,
        "max_age": None if live is None else live.policy.max_age,
        "id": None if live is None else live.id,
        "live_since": state.live_since if live is not None else None,
        "phase": state.phase.value,
        "phase_since": state.phase_since,
        "outcome": one.outcome.value,
        "gate": _gate_json(one.gate),
        "forced": state.forced_reason or None,
        "next_step": next_action(one, progress.until if progress is not None else None),
        "rollout": None
        if one.step is None
        else {"to": one.step.to.value, "missing": list(one.step.missing), "clean_days": one.step.clean},
        "removal": None
        if progress is None
        else {"step": progress.step.value, "until": service.wall_of(progress.until) or None},
        "findings": len(one.findings),
        "checked_at": one.checked_at or None,
        "problems": [problem for problem in (one.check_problem, one.dns_problem) if problem],
        "delegate_to": one.settings.delegate_to if one.settings is not None else None,
        "dns_id": state.dns_id or None,
    }


def next_action(one: PublishedDomain, removal_until: float | None) -> str:
    """Return the next action at a domain in a few words."""
    phase = one.state.phase
    if phase is PublishPhase.REMOVED:
        return "removed" if one.settings is None else "removed; delete it from the configuration, or apply it again"
    if phase is PublishPhase.REMOVING:
        return "wait until no sender holds a policy" if removal_until else "delete the DNS records"
    if one.settings is None:
        return "not configured any more: publish remove, or configure it again"
    words = {
        Outcome.GATED: "fix what the gate found" if one.gate and one.gate.problems else "wait for the check",
        Outcome.MX_UNKNOWN: "wait until the MX records can be read",
        Outcome.WAITING: f"publish {one.settings.delegate_to} first",
        Outcome.INVALID: "correct the MX hosts: they make no valid policy",
        Outcome.PUBLISH: "published in a moment",
    }
    if one.outcome in words:
        return words[one.outcome]
    if one.step is not None:
        return f"{one.step.to.value}: {'ready' if one.step.ready else one.step.missing[0]}"
    return f"correct the findings: mtastsctl publish status {one.state.domain}" if one.findings else ""


def _gate_json(gate: GateResult | None) -> Mapping[str, Any] | None:
    if gate is None:
        return None
    problems = [{"subject": one.subject, "sentence": one.sentence, "remedy": one.remedy} for one in gate.problems]
    return {"at": gate.at, "id": gate.policy_id, "passed": not gate.problems, "problems": problems}


def _difference_json(found: RecordDifference) -> dict[str, Any]:
    return {
        "change": found.change.value,
        "name": found.name,
        "type": found.kind.value,
        "wanted": found.wanted,
        "found": list(found.found),
    }


def _result_json(result: UpdateResult | None) -> dict[str, Any] | None:
    if result is None:
        return None
    servers = [{"name": one.name, "address": one.address, "problem": one.problem} for one in result.servers]
    return {"zones": list(result.zones), "agreed": result.agreed, "servers": servers}
