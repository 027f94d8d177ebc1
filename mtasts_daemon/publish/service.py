"""Publishing: apply the configuration, publish policies through the gate, and keep DNS up to date.

Runs on the main loop. Slow work (checks, DNS) is awaited; long computations run on a thread.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Protocol

from ..config import Config
from ..config.domain_lines import read_domain_lines
from ..config.sections.publish import PublishedDomainSettings, PublishSettings
from ..diagnose.check.evidence import CheckEvidence
from ..errors import DnsError, MtaStsError, PublishError, StoreError
from ..log import log_event
from ..ports import Clock, Resolver
from ..store.sqlite_file import database_exists
from .database import PublishDatabase, PublishEvent
from .decision import Outcome, PublishDecision
from .dns_lookup import read_mx_hosts
from .dns_records import DnsRecord, Endpoint, wanted_records
from .dns_update import DnsUpdater, UpdateResult
from .gate import GateResult, gate_problems
from .policy_text import PublishedPolicy
from .registry import DomainRegistry, PublishedDomain, Serve, slices
from .removal import RemovalProgress, removal_step
from .rollout import begin_rollout
from .state import DomainState, with_policy

__all__ = ["DomainCheck", "PublishService"]


MX_PER_SECOND = 50.0
"""MX lookups of all domains together; with many domains each is looked up less often."""
CHECKS_APART = 2.0
"""Time between two checks of different domains, on average: a check takes tens of milliseconds of CPU."""


class DomainCheck(Protocol):
    """Checks a domain from outside."""

    def __call__(self, domain: str, *, fresh: bool = False) -> Awaitable[CheckEvidence]:
        """Return the evidence; ``fresh`` for an operator. Raises ``PublishError`` if the check cannot be made."""


class PublishService:
    """An optional part of the daemon. ``check`` is the check's engine, ``serve`` changes what the listener serves."""

    name = "publish"

    def __init__(
        self,
        environ: Mapping[str, str],
        resolver: Callable[[], Resolver],
        check: DomainCheck,
        serve: Serve,
        clock: Clock,
    ) -> None:
        self.settings = PublishSettings()
        self.registry: DomainRegistry | None = None
        self.file_problems: tuple[str, ...] = ()
        """Problems of ``publish.domains_file``."""
        self.knows_all = False
        """All published domains are in the registry; False until the file has been read."""
        self.updater: DnsUpdater | None = None
        self.clock = clock
        self.check = check
        self._environ = environ
        self.resolver = resolver
        self._serve = serve
        self._random = Random()  # noqa: S311 - it spreads load
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        self.changed = asyncio.Event()
        """Set when domains may have something to do."""

    # -- the configuration -------------------------------------------------------------------------------------

    async def configure(self, config: Config) -> None:
        """Apply ``config.publish``. Raises OSError if ``domains_file`` cannot be read; the domains then stay."""
        settings = config.publish
        if self.registry is None:
            path = settings.file(config.store.file(self._environ))
            if not settings.domains and settings.domains_file is None and not database_exists(path):
                self.knows_all = True
                return  # nothing is published, and nothing was
            registry = DomainRegistry(self._serve, PublishDatabase(path), self.clock)
            await registry.open()
            self.registry = registry
        self.settings = settings
        update = settings.dns_update
        self.updater = None if update is None else DnsUpdater(update, self._environ, self.resolver)
        self.knows_all = settings.domains_file is None
        await self.registry.configure(await self._domains(settings))
        self.knows_all = True
        await self._publish_at_once(self.registry, list(self.registry.domains.values()))
        # Delegating domains get a policy after their targets.
        waiting = [one for one in self.registry.domains.values() if one.outcome is Outcome.WAITING]
        await self._publish_at_once(self.registry, waiting)
        await self.schedule(self.registry)
        self.changed.set()

    async def schedule(self, registry: DomainRegistry) -> None:
        """Let the watch visit domains that need an action now, and all others in time.

        The first checks after a start are spread: each opens connections to every MX host.
        """
        now, domains = self.clock.monotonic(), len(registry.domains)
        async for part in slices([*registry.domains.values()]):
            for one in part:
                new = one.check_due is None
                if one.check_due is None:
                    one.check_due = now + self._random.uniform(0, domains * CHECKS_APART)
                if one.outcome is not Outcome.UNCHANGED or one.state.dns_is_outdated:
                    registry.schedule(one, now)
                elif one.settings is not None and one.settings.mx == "auto" and (new or one.due > one.mx_due):
                    registry.schedule(one, now + self._random.uniform(0, domains / MX_PER_SECOND))
                elif new:
                    registry.schedule(one, one.check_due)

    def wake(self, one: PublishedDomain) -> None:
        """Let the watch visit a domain soon."""
        self._registry.schedule(one, self.clock.monotonic())
        self.changed.set()

    async def _domains(self, settings: PublishSettings) -> Mapping[str, PublishedDomainSettings]:
        if settings.domains_file is None:
            self.file_problems = ()
            return settings.domains
        try:
            lines = await asyncio.to_thread(read_domain_lines, settings.domains_file)
        except OSError as error:
            reason = f"publish.domains_file: {settings.domains_file} cannot be read: {error.strerror or error}"
            if self.registry is not None:  # the domains of the file stay as they are
                known = {name: one.settings for name, one in self.registry.domains.items() if one.settings is not None}
                await self.registry.configure({**known, **settings.domains})
            raise OSError(error.errno or 0, reason) from None
        self.file_problems = tuple(map(str, lines.problems))
        for problem in self.file_problems:
            log_event("publish-domain-line-invalid", level=logging.ERROR, problem=problem)
        return {**lines.domains, **settings.domains}

    async def stop(self) -> None:
        """Close the file."""
        if self.registry is not None:
            await self.registry.close()

    async def _publish_at_once(self, registry: DomainRegistry, domains: Sequence[PublishedDomain]) -> None:
        """Publish all domains that need neither the gate nor DNS."""
        now = self.clock.wall()
        # On a thread: 100,000 policies take seconds.
        ready = await asyncio.to_thread(_ready, registry, domains, now, registry.serving.now()) if domains else []
        count = 0
        async for part in slices(ready):
            # The watch checks later changes.
            holding = [(after, event) for before, after, event in part if registry.holds(before)]
            if holding:
                states, events = zip(*holding, strict=True)
                await registry.put(states, events, must_keep=False)
                # Decided again, or the watch would visit every one of them.
                for state in states:
                    if (one := registry.domains.get(state.domain)) is not None:
                        registry.decide(one)
                count += len(holding)
        if count:
            log_event("publish-policies-published", count=count)

    @asynccontextmanager
    async def exclusive(self, one: PublishedDomain) -> AsyncIterator[None]:
        """Lock a domain for a change; changes await checks and DNS."""
        name = one.state.domain
        lock, users = self._locks.get(name) or (asyncio.Lock(), 0)
        self._locks[name] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(name)
            if users > 1:
                self._locks[name] = lock, users - 1

    # -- one domain --------------------------------------------------------------------------------------------

    async def read_mx(self, one: PublishedDomain) -> None:
        """Read the MX records of a domain with ``mx: auto``. Hosts that were seen stay if DNS fails."""
        if one.settings is None or one.settings.mx != "auto" or one.settings.delegate_to is not None:
            return
        try:
            hosts = tuple(sorted(await read_mx_hosts(self.resolver(), one.state.domain)))
        except DnsError as error:
            log_event("publish-mx-lookup-failed", level=logging.WARNING, domain=one.state.domain, error=error)
            return
        if not hosts or hosts == one.state.mx_hosts:
            return  # no MX host at all: a broken zone must not empty a policy
        before = one.state.mx_hosts
        event = PublishEvent(one.state.domain, self.clock.wall(), "mx-changed", ", ".join(hosts)[:1000])
        await self._registry.put([replace(one.state, mx_hosts=hosts)], [event], must_keep=False)
        if before is not None:
            log_event("publish-mx-changed", level=logging.WARNING, domain=one.state.domain, hosts=",".join(hosts))

    async def advance(self, one: PublishedDomain, *, force: str = "", evidence: CheckEvidence | None = None) -> None:
        """Publish a domain's new policy: at once if permitted, otherwise through the gate.

        ``force`` is a reason to bypass the gate. ``evidence`` is that of a check just made. Raises
        ``PublishError`` if the check cannot be made, ``StoreError`` if a stricter policy cannot be kept.
        """
        decision = self._registry.decide(one)
        policy = decision.policy
        if policy is None or decision.outcome is Outcome.UNCHANGED:
            return
        if decision.outcome is Outcome.PUBLISH:
            await self._go_live(one, policy, "published", must_keep=False)
            return
        if force:
            log_event("publish-gate-forced", level=logging.WARNING, domain=one.state.domain, id=policy.id, reason=force)
            await self._go_live(one, policy, "forced", force)
            return
        passed = await self._passes(one, decision, evidence)
        # Checks take minutes: the configuration or the MX records may have changed meanwhile.
        decision = self._registry.decide(one)
        if decision.policy is None or decision.policy.text != policy.text:
            self.wake(one)
        elif passed:
            await self._go_live(one, policy, "published", "the gate passed")
        elif decision.interim is not None:
            await self.publish_interim(one, decision.interim)

    async def _passes(self, one: PublishedDomain, decision: PublishDecision, evidence: CheckEvidence | None) -> bool:
        """Evaluate the gate with ``evidence`` or a new check, and store its result."""
        policy = decision.policy
        assert policy is not None
        if evidence is None:
            evidence = await self.check(one.state.domain, fresh=True)
        problems = gate_problems(policy.policy, one.state.live, evidence)
        before = one.gate
        one.gate = GateResult(policy.id, evidence.at, problems)
        if problems and (before is None or before.policy_id != policy.id or before.problems != problems):
            log_event(
                "publish-gate-refused",
                level=logging.WARNING,
                domain=one.state.domain,
                id=policy.id,
                problems=len(problems),
                first=problems[0].text,
            )
        return not problems

    async def _go_live(
        self, one: PublishedDomain, policy: PublishedPolicy, event: str, detail: str = "", *, must_keep: bool = True
    ) -> None:
        now = self.clock.wall()
        state = one.state
        if event == "forced":
            state = replace(state, forced_id=policy.id, forced_reason=detail)
        state = with_policy(state, policy, now, self._registry.serving.now())
        note = PublishEvent(state.domain, now, event, f"{_described(state)}{f': {detail}' if detail else ''}")
        await self._registry.put([state], [note], must_keep=must_keep)
        log_event("publish-policy-published", domain=state.domain, id=policy.id, mode=policy.policy.mode.value)
        self._registry.decide(one)
        delegating = self._registry.delegating_to(state.domain)
        for other in delegating:
            self.wake(other)
        await self._publish_at_once(self._registry, delegating)
        if state.dns_id and self.updater is not None:
            await self.follow_with_dns(one)

    def wall_of(self, moment: float) -> float:
        """Return the time at which the serving clock shows ``moment``; 0 stays 0."""
        return self._registry.serving.wall(moment) if moment else 0.0

    def removal_progress(self, one: PublishedDomain) -> RemovalProgress | None:
        """Return what the removal of a domain waits for; None if there is none."""
        return removal_step(one.state, self._registry.serving.now())

    async def publish_interim(self, one: PublishedDomain, policy: PublishedPolicy) -> None:
        """Publish a policy that permits the hosts of the present one and of the next one."""
        await self._go_live(one, policy, "published", "with the hosts of both policies")

    # -- DNS ---------------------------------------------------------------------------------------------------

    @property
    def endpoint(self) -> Endpoint:
        """Where policy hosts point to."""
        return Endpoint(self.settings.host, self.settings.addresses)

    def records_of(self, one: PublishedDomain) -> tuple[DnsRecord, ...]:
        """Return the records that a domain needs now."""
        live, settings = one.state.live, one.settings
        return wanted_records(
            one.state.domain,
            None if live is None else live.id,
            self.endpoint,
            rua=settings.rua if settings is not None else (),
            delegate_to=settings.delegate_to if settings is not None else None,
        )

    async def follow_with_dns(self, one: PublishedDomain) -> UpdateResult | None:
        """Write the TXT record of the policy being served, if ``publish apply`` has done so before."""
        live = one.state.live
        if live is None or self.updater is None or live.id == one.state.dns_id:
            return None
        try:
            result = await self.updater.write([record for record in self.records_of(one) if "_mta-sts" in record.name])
        except PublishError as error:
            one.dns_problem = error.detail
            log_event("publish-dns-update-failed", level=logging.ERROR, domain=one.state.domain, error=error)
            return None
        one.dns_problem = ""
        await self._registry.put([replace(one.state, dns_id=live.id)], [], must_keep=False)
        log_event("publish-dns-updated", domain=one.state.domain, id=live.id, agreed=result.agreed)
        return result

    @property
    def _registry(self) -> DomainRegistry:
        if self.registry is None:
            raise StoreError("nothing is published: add publish.domains")
        return self.registry


def _ready(
    registry: DomainRegistry, domains: Sequence[PublishedDomain], now: float, served: float
) -> list[tuple[DomainState, DomainState, PublishEvent]]:
    """Return states, each with the one that follows it and an event, of domains that need not wait for the gate.

    Runs on a thread, and changes no state.
    """
    ready: list[tuple[DomainState, DomainState]] = []
    for one in domains:
        settings, before = one.settings, one.state
        state = before
        if settings is not None and settings.rollout == "automatic" and settings.mode == "enforce" and not state.text:
            state = begin_rollout(state, now)
        try:
            decision = registry.decide(one, state)
        except MtaStsError:  # a state that can no longer be parsed
            continue
        if decision.outcome is Outcome.PUBLISH and decision.policy is not None:
            ready.append((before, with_policy(state, decision.policy, now, served)))
        elif state is not before:
            ready.append((before, state))
    return [(before, after, PublishEvent(after.domain, now, "published", _described(after))) for before, after in ready]


def _described(state: DomainState) -> str:
    live = state.live
    return "nothing" if live is None else f"mode {live.policy.mode.value}, max_age {live.policy.max_age}, id {live.id}"
