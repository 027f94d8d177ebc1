"""Gather the evidence of a check: DNS, policy host, MX hosts, DANE and report addresses, as far as possible at once.

Discovery is that of the daemon: the same resolver, policy fetcher, grammar and DANE walk.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from typing import Protocol, TypeVar

from ... import errors
from ...dns.dane_discovery import discover_dane
from ...policy import mtasts
from ...policy.dane import MAX_HOSTS, DaneVerdict, DnsQuestion, DnsResult, HostStatus, mx_hosts, why_unusable
from ...policy.dns_answer import DnsAnswer, RRType, has_null_mx
from ...policy.next_hop import NextHop
from ...ports import Clock, Pending, PolicyFetcher, Resolver
from ...smtp.chain_verification import dane_problem
from ...smtp.probe import SmtpSession
from ...tlsrpt.model.record import Rua, parse_tlsrpt
from .evidence import (
    CheckEvidence,
    CheckFailure,
    EndpointEvidence,
    MxEvidence,
    MxHostEvidence,
    PolicyHostEvidence,
    RuaEvidence,
    StsEvidence,
    TlsrptEvidence,
    failure_of,
)

__all__ = ["CheckStep", "EvidenceGatherer", "ServerProber"]

_ADDRESSES_PER_FAMILY = 2
_MAX_RUA = 4
_MAILBOX_HOSTS = 3
"""MX hosts of a report address whose addresses are looked up, until one has an address."""
_RUA_PORT = 443
_PROBE_WITHIN = 90.0
_FETCH_WITHIN = 75.0
_PORT25_AGE = 600.0
"""Seconds for which one connection shows that port 25 is open here."""
_REFERENCE_DOMAINS = ("gmail.com", "icloud.com", "proton.me")
"""Domains whose MX hosts are known to answer: if they do not, port 25 is blocked here."""

R = TypeVar("R")


class ServerProber(Protocol):
    """The part of ``SmtpProber`` that the gatherer uses."""

    last_connected: float | None

    async def probe(self, host: str, address: str) -> SmtpSession:
        """Return the session with the host at the address."""


@dataclass(frozen=True, slots=True)
class CheckStep:
    """Progress: what was done, with what subject, and in a few words the result."""

    name: str
    subject: str
    found: str


OnStep = Callable[[CheckStep], None]
ProbeEndpoint = Callable[[str, str, int], Awaitable[EndpointEvidence]]


@dataclass(frozen=True, slots=True)
class _HostAddresses:
    listed: tuple[str, ...]
    failures: tuple[CheckFailure, ...]
    alias: str | None
    left_out: int


class EvidenceGatherer:
    """Gathers evidence. ``validates`` returns whether the resolver validates DNSSEC, None if unknown.

    ``smtp`` is None if port 25 is not to be used; then no host is probed. ``endpoint`` is None if this host reaches
    HTTPS hosts only through a proxy; then no handshakes are made with them. Used from one event loop.
    """

    def __init__(
        self,
        resolver: Resolver,
        fetcher: PolicyFetcher,
        clock: Clock,
        *,
        smtp: ServerProber | None,
        endpoint: ProbeEndpoint | None,
        validates: Callable[[], Awaitable[bool | None]],
        https_port: int = 443,
        reference_domains: Sequence[str] = _REFERENCE_DOMAINS,
    ) -> None:
        self._resolver = resolver
        self._fetcher = fetcher
        self._clock = clock
        self._smtp = smtp
        self._endpoint = endpoint
        self._validates = validates
        self._https_port = https_port
        self._reference_domains = reference_domains
        self._blocked_until = float("-inf")

    async def gather(self, domain: str, on_step: OnStep = lambda _step: None) -> CheckEvidence:
        """Return the evidence for ``domain``, a policy domain in A-labels."""
        async with asyncio.TaskGroup() as group:
            validates = group.create_task(_awaited(self._validates()))
            policy = group.create_task(self._policy(domain, on_step))
            mail = group.create_task(self._mail(domain, on_step))
            tlsrpt = group.create_task(self._tlsrpt(domain, on_step))
        evidence = CheckEvidence(domain, self._clock.wall(), validates=validates.result(), tlsrpt=tlsrpt.result())
        sts_evidence, host = policy.result()
        mx, hosts, dane, port25 = mail.result()
        evidence = replace(evidence, sts=sts_evidence, policy_host=host, mx=mx, hosts=hosts, dane=dane, port25=port25)
        return replace(_blamed(evidence), hosts_left_out=max(0, len(mx.hosts) - len(hosts)))

    # -- the policy ------------------------------------------------------------------------------------------

    async def _policy(self, domain: str, on_step: OnStep) -> tuple[StsEvidence, PolicyHostEvidence]:
        name = f"_mta-sts.{domain}"
        try:
            answer = await _asked_twice(self._resolver.txt, name)
        except errors.DnsError as error:
            on_step(CheckStep("txt", name, error.slug))
            return StsEvidence(failure=failure_of(error)), PolicyHostEvidence()
        try:
            record = mtasts.parse_txt(answer.records)
        except errors.StsRecordError as error:
            on_step(CheckStep("txt", name, error.slug))
            return StsEvidence(answer, failure=failure_of(error)), PolicyHostEvidence()
        on_step(CheckStep("txt", name, f"id {record.id}" if record else "no record"))
        host = await self._policy_host(domain, announced=record is not None)
        found = host.failure.slug if host.failure else f"mode {host.policy.mode.value}" if host.policy else "none"
        on_step(CheckStep("policy", f"mta-sts.{domain}", found))
        return StsEvidence(answer, record), host

    async def _policy_host(self, domain: str, *, announced: bool) -> PolicyHostEvidence:
        host = f"mta-sts.{domain}"
        addresses = (await self._addresses(host, {})).listed
        if not announced and not addresses:
            return PolicyHostEvidence()
        async with asyncio.TaskGroup() as group:
            fetch = group.create_task(self._fetch(domain))
            probe = self._endpoint
            probes = [
                group.create_task(_awaited(probe(host, address, self._https_port)))
                for address in addresses
                if announced and probe is not None
            ]
        return replace(fetch.result(), present=bool(addresses), endpoints=tuple(probe.result() for probe in probes))

    async def _fetch(self, domain: str) -> PolicyHostEvidence:
        try:
            async with asyncio.timeout(_FETCH_WITHIN):
                fetched = await self._fetcher.fetch(domain, live=False)
        except errors.PolicyFetchError as error:
            return PolicyHostEvidence(failure=failure_of(error))
        except TimeoutError:
            return PolicyHostEvidence(failure=failure_of(errors.PolicyFetchBusy()))
        try:
            policy = mtasts.parse_policy(fetched.body)
        except errors.PolicySyntaxError as error:
            return PolicyHostEvidence(body=fetched.body, failure=failure_of(error))
        return PolicyHostEvidence(body=fetched.body, policy=policy)

    # -- MX hosts and DANE -----------------------------------------------------------------------------------

    async def _mail(
        self, domain: str, on_step: OnStep
    ) -> tuple[MxEvidence, tuple[MxHostEvidence, ...], DaneVerdict | None, bool | None]:
        try:
            answer = await _asked_twice(self._resolver.mx, domain)
        except errors.DnsError as error:
            on_step(CheckStep("mx", domain, error.slug))
            return MxEvidence(failure=failure_of(error)), (), None, None
        names = mx_hosts(answer, domain)
        on_step(CheckStep("mx", domain, f"hosts: {len(names)}"))
        known: dict[DnsQuestion, DnsResult] = {DnsQuestion(domain, RRType.MX): answer}
        verdict = await discover_dane(self._resolver, NextHop(domain), known)
        preferences = {record.host: record.preference for record in reversed(answer.records)}
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._host(name, preferences.get(name, 0), verdict, known, on_step))
                for name in names[:MAX_HOSTS]
            ]
        hosts = tuple(task.result() for task in tasks)
        return MxEvidence(answer, names), hosts, verdict, await self._port25(hosts)

    async def _host(
        self, name: str, preference: int, verdict: DaneVerdict, known: dict[DnsQuestion, DnsResult], on_step: OnStep
    ) -> MxHostEvidence:
        found = await self._addresses(name, known)
        dane = next((host for host in verdict.hosts if host.host == name), None)
        host = MxHostEvidence(name, preference, found.listed, found.left_out, found.failures, found.alias, dane)
        if self._smtp is None or name.rpartition(".")[2].isdigit():
            return host
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._probe(name, address, on_step)) for address in found.listed]
        sessions = tuple(task.result() for task in tasks)
        refused: dict[str, str | None] = {}
        if dane is not None and dane.status is HostStatus.USABLE:
            records = [record for record in dane.records if why_unusable(record) is None]
            names = (dane.tlsa_base or name, name, verdict.next_hop.policy_domain)
            for session in sessions:
                if session.tls is not None:
                    refused[session.address] = dane_problem(records, session.tls.session.chain, names)
        return replace(host, sessions=sessions, dane_refused=refused, probed=True)

    async def _probe(self, host: str, address: str, on_step: OnStep) -> SmtpSession:
        assert self._smtp is not None
        try:
            async with asyncio.timeout(_PROBE_WITHIN):
                session = await self._smtp.probe(host, address)
        except TimeoutError:
            session = SmtpSession(host, address, 25, self._clock.wall(), problem="smtp-busy")
        problem = session.problem
        if problem is None and session.tls is not None:
            problem = session.tls.problem_for(host)
        on_step(CheckStep("smtp", f"{host} [{address}]", problem or "good"))
        return session

    async def _port25(self, hosts: Sequence[MxHostEvidence]) -> bool | None:
        """Return whether port 25 is open from here; False only if no other server can be reached either."""
        sessions = [session for host in hosts for session in host.sessions if session.problem != "smtp-address-refused"]
        if self._smtp is None or not sessions:
            return None
        if any(session.connected for session in sessions):
            return True
        now = self._clock.monotonic()
        last = self._smtp.last_connected
        if last is not None and now - last < _PORT25_AGE:
            return True
        if now < self._blocked_until:
            return False
        if await self.reachable_reference() is not None:
            return True
        if self._reference_domains:
            self._blocked_until = now + _PORT25_AGE / 10
        return False if self._reference_domains else None

    async def reachable_reference(self) -> str | None:
        """Return the first reference domain with an MX host that can be connected to, or None."""
        for domain in self._reference_domains:
            if await self._reaches(domain):
                return domain
        return None

    async def _reaches(self, domain: str) -> bool:
        try:
            hosts = mx_hosts(await _asked_twice(self._resolver.mx, domain), domain)
        except errors.DnsError:
            return False
        for host in hosts[:1]:
            for address in (await self._addresses(host, {})).listed[:2]:
                session = await self._probe(host, address, lambda _step: None)
                if session.connected:
                    return True
        return False

    async def _addresses(self, host: str, known: dict[DnsQuestion, DnsResult]) -> "_HostAddresses":
        """Return the first addresses of both families, the failures, and the target if the name is an alias."""
        questions = (DnsQuestion(host, RRType.AAAA), DnsQuestion(host, RRType.A))
        asks = (self._resolver.aaaa, self._resolver.a)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_result(known.get(question), ask, host))
                for question, ask in zip(questions, asks, strict=True)
            ]
        replies = [task.result() for task in tasks]
        answers = [reply for reply in replies if isinstance(reply, DnsAnswer)]
        found = [[str(text) for text in answer.records[:_ADDRESSES_PER_FAMILY]] for answer in answers]
        addresses = [text for text in chain(*zip_longest(*found)) if text is not None]
        failures = tuple(failure_of(reply) for reply in replies if isinstance(reply, errors.DnsError))
        alias = next((answer.canonical for answer in answers if answer.canonical not in ("", host)), None)
        left_out = sum(len(answer.records) for answer in answers) - len(addresses)
        return _HostAddresses(tuple(addresses), failures, alias, left_out)

    # -- TLS reports -----------------------------------------------------------------------------------------

    async def _tlsrpt(self, domain: str, on_step: OnStep) -> TlsrptEvidence:
        name = f"_smtp._tls.{domain}"
        try:
            answer = await _asked_twice(self._resolver.txt, name)
            record = parse_tlsrpt(answer.records, most=_MAX_RUA)
        except (errors.DnsError, errors.TlsrptRecordError) as error:
            on_step(CheckStep("tlsrpt", name, error.slug))
            return TlsrptEvidence(failure=failure_of(error))
        on_step(CheckStep("tlsrpt", name, "no record" if record is None else f"addresses: {len(record.rua)}"))
        if record is None:
            return TlsrptEvidence()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._rua(rua)) for rua in record.rua]
        return TlsrptEvidence(True, tuple(task.result() for task in tasks), record.problems)

    async def _rua(self, rua: Rua) -> RuaEvidence:
        failure = await (self._mailbox(rua.host) if rua.mailbox else self._receiver(rua.host, rua.port))
        return RuaEvidence(rua.uri, failure)

    async def _mailbox(self, domain: str) -> CheckFailure | None:
        try:
            answer = await _asked_twice(self._resolver.mx, domain)
        except errors.DnsError as error:
            return failure_of(error)
        hosts = mx_hosts(answer, domain)
        if not hosts or has_null_mx(answer):
            text = "has a null MX" if answer.records else "does not exist"
            return CheckFailure("rua-no-mail", f"the domain {domain} {text}")
        for host in hosts[:_MAILBOX_HOSTS]:
            found = await self._addresses(host, {})
            if found.listed or found.failures:
                return None
        return CheckFailure("rua-no-mail", f"the MX host {hosts[0]} has no address")

    async def _receiver(self, host: str, port: int) -> CheckFailure | None:
        if port != _RUA_PORT:
            # A record may name any port of anyone: no handshakes with those.
            return CheckFailure("rua-not-checked", f"port {port} is not checked", ours=True)
        if self._endpoint is None:
            return CheckFailure("rua-not-checked", "not checked through a proxy", ours=True)
        found = await self._addresses(host, {})
        if not found.listed:
            return found.failures[0] if found.failures else CheckFailure("rua-no-address", f"{host} has no address")
        problems: list[str] = []
        for address in found.listed:
            endpoint = await self._endpoint(host, address, port)
            problem = endpoint.problem
            if problem is None and endpoint.tls is not None:
                problem = endpoint.tls.problem_for(host)
            if problem is None:
                return None
            problems.append(problem)
        ours = all(problem == "smtp-no-route" for problem in problems)
        return CheckFailure("rua-unreachable", f"{host} port {port}: {problems[0]}", ours)


def _blamed(evidence: CheckEvidence) -> CheckEvidence:
    """Return the evidence with silent name servers blamed on the domain, if our resolver answered other questions."""
    works = evidence.sts.answer is not None or evidence.mx.answer is not None or evidence.validates is not None
    if not works:
        return evidence

    def theirs(failure: CheckFailure | None) -> CheckFailure | None:
        silent = failure is not None and failure.slug == errors.DnsTimeout.slug
        return replace(failure, ours=False) if failure is not None and silent else failure

    return replace(
        evidence,
        sts=replace(evidence.sts, failure=theirs(evidence.sts.failure)),
        mx=replace(evidence.mx, failure=theirs(evidence.mx.failure)),
        tlsrpt=replace(evidence.tlsrpt, failure=theirs(evidence.tlsrpt.failure)),
    )


async def _asked_twice(ask: Callable[[str], Pending[DnsAnswer[R]]], name: str) -> DnsAnswer[R]:
    """Ask, and once more if no answer came: of many questions at once, some packets are lost here.

    Raises ``DnsError``.
    """
    try:
        return await ask(name)
    except errors.DnsTimeout:
        return await ask(name)


async def _result(known: DnsResult | None, ask: Callable[[str], Pending[DnsAnswer[str]]], name: str) -> DnsResult:
    """Return the known answer or error of a question, or query it."""
    if known is not None:
        return known
    try:
        return await _asked_twice(ask, name)
    except errors.DnsError as error:
        return error


async def _awaited(awaitable: Awaitable[R]) -> R:
    return await awaitable
