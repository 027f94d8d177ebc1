"""Decide which addresses get a report when it is due; the TLSRPT record is looked up at that time.

A policy domain gets a report about its mail, and an MX host gets a report about the use of its TLSA records: for DANE
the MX host is the policy domain (RFC 8460 section 1.1). Results that an address of the MX host's record already gets in
the report of the recipient domain are omitted from the MX host's report, so that no address gets them twice. A report
is delivered when one of the record's addresses has accepted it (section 3).
"""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ... import errors
from ...policy.next_hop import policy_domain
from ...ports import Clock, Resolver
from ..database.connection import SavedReport, TlsrptDatabase
from ..database.decisions import NewDelivery, ReportDecision, ReportMade, Retry, Skip, WaitingUnit
from ..database.outbox import Outbox
from ..database.suppression import Suppressions
from ..model.record import Rua, TlsrptRecord, parse_tlsrpt
from ..model.report import (
    DAY,
    Report,
    Reporter,
    compress_report,
    day_begins,
    decompress_report,
    has_failures,
    merge_rows,
)
from ..model.tally import DayRows
from .smtp_delivery import SmtpServer

if TYPE_CHECKING:
    from ..model.signing import Signer

__all__ = ["MAIL", "DeliverySettings", "Planner", "backoff"]

MAIL = "mail"
"""Destination of report mail. HTTPS destinations are named by their host."""

_LOOKUPS_AT_ONCE = 200
_BATCH = 500
"""Maximum number of report units decided and stored together."""
_MOMENT = 0.2
"""Seconds for which the first result of a batch waits for others."""
_PAGE = 200
_MAX_CONTRIBUTORS = 20_000
"""Maximum number of policy domains whose mail one MX host's report covers."""

T = TypeVar("T")
_Found = tuple[WaitingUnit, TlsrptRecord | Skip | Retry]


@dataclass(frozen=True, slots=True)
class DeliverySettings:
    """Settings for making and sending reports; times are in seconds. No report is sent until the first three are set.

    ``exclude`` are policy domains that get no reports; those of ``contact`` and ``sender`` never get any.
    """

    organization: str = ""
    contact: str = ""
    sender: str = ""
    smtp: SmtpServer = field(default_factory=SmtpServer)
    signer: "Signer | None" = None
    spread: float = 4 * 3600.0
    retry_for: float = 24 * 3600.0
    max_rua: int = 4
    failures_only: bool = False
    copy_to: Path | None = None
    exclude: frozenset[str] = frozenset()
    retention: float = 30 * 86400.0

    @property
    def may_send(self) -> bool:
        """Return True if the reporter is configured."""
        return bool(self.organization and self.contact and self.sender)

    @property
    def reporter(self) -> Reporter:
        """Return the reporter."""
        return Reporter(self.organization, self.contact)

    def excludes(self, domain: str) -> bool:
        """Return True if the domain gets no reports."""
        # Reports about the delivery of reports would cause a loop.
        return domain in self.exclude or domain in (self.contact.rpartition("@")[2], self.sender.rpartition("@")[2])


def backoff(attempts: int) -> float:
    """Return the seconds to wait after failed attempts: 5 minutes, doubling, to 3 hours (RFC 8460 section 5.5)."""
    return 300.0 * 2 ** min(attempts - 1, 5) if attempts < 7 else 3 * 3600.0


class Planner:
    """Planner of reports. It does not store decisions. ``unique`` returns the given number of random bytes as hex."""

    def __init__(
        self,
        database: TlsrptDatabase,
        resolver: Resolver,
        clock: Clock,
        settings: DeliverySettings,
        unique: Callable[[int], str] = secrets.token_hex,
    ) -> None:
        self.settings = settings
        self.outbox = Outbox(database)
        self.suppressions = Suppressions(database)
        self._database = database
        self._resolver = resolver
        self._clock = clock
        self._unique = unique
        self._lookups = asyncio.Semaphore(_LOOKUPS_AT_ONCE)

    def moment(self, day: str, domain: str) -> float:
        """Return when the report unit is due: constant per unit, and spread evenly after the end of the day."""
        digest = hashlib.blake2b(f"{day} {domain}".encode(), digest_size=8).digest()
        share = int.from_bytes(digest, "big") / 2**64
        return complete_at(day) + share * self.settings.spread

    async def decide(self, units: Sequence[WaitingUnit]) -> AsyncGenerator[list[ReportDecision], None]:
        """Yield decisions in batches as lookups end, so that slow name servers do not delay other domains."""
        # The limit keeps lookups from running far ahead of stored decisions.
        found: asyncio.Queue[_Found | Exception] = asyncio.Queue(2 * _BATCH)
        left = iter(units)

        async def look_up() -> None:
            try:
                for unit in left:
                    await found.put((unit, await self._receiver_of(unit)))
            except Exception as error:
                await found.put(error)

        asking = [asyncio.create_task(look_up()) for _ in range(min(len(units), _LOOKUPS_AT_ONCE))]
        try:
            count = 0
            while count < len(units):
                batch = await _gathered(found, min(_BATCH, len(units) - count))
                count += len(batch)
                yield await self._concluded(batch)
        finally:
            for one in asking:
                one.cancel()

    async def plan_day(self, day: str, domain: str | None = None) -> AsyncIterator[ReportDecision]:
        """Yield the decisions for sending the day now, regardless of earlier reports. No decision is stored.

        Raises ``ValueError`` if ``day`` is not a day.
        """
        day_begins(day)
        after = ""
        while domain is None:
            page = await self._database.domains(day, after, _PAGE)
            found = [one async for some in self.decide([WaitingUnit(day, name, 0) for name in page]) for one in some]
            for decision in sorted(found, key=lambda each: each.domain):
                yield decision
            if len(page) < _PAGE:
                return
            after = page[-1]
        async for (decision,) in self.decide([WaitingUnit(day, domain, 0)]):
            yield decision

    async def render_report(self, day: str, domain: str) -> dict[str, Any]:
        """Return the report as it was sent, or else as it would be sent now. Without results it has no policies.

        Raises ``ValueError`` if ``day`` is not a day.
        """
        day_begins(day)
        saved = await self._database.load_report(day, domain)
        if saved is not None and saved.body is not None:
            return decompress_report(saved.body)
        try:
            record = await self._record(domain)
        except (errors.DnsError, errors.TlsrptRecordError):
            record = None
        own = await self._database.day_rows(day, domain)
        rows = await self._with_contributions(day, own, record.rua if record else ())
        report_id = saved.report_id if saved else f"{self._unique(16)}@{self.settings.reporter.submitter}"
        return Report(day, domain, report_id).content(rows, self.settings.reporter)

    async def dkim_problem(self) -> str | None:
        """Return why receivers would reject the DKIM signature; None if they accept it or reports are not signed."""
        signer = self.settings.signer
        if signer is None:
            return None
        try:
            answer = await self._resolver.txt(signer.record_name)
        except errors.DnsError as error:
            return f"{signer.record_name}: {error}"
        problem = signer.problem(answer.records)
        return None if problem is None else f"{signer.record_name}: {problem}"

    # -- decisions ---------------------------------------------------------------------------------------------

    async def _concluded(self, found: Sequence[_Found]) -> list[ReportDecision]:
        decided: list[ReportDecision] = []
        days: dict[str, dict[str, TlsrptRecord]] = {}
        for unit, receiver in found:
            if isinstance(receiver, TlsrptRecord):
                days.setdefault(unit.day, {})[unit.domain] = receiver
            else:
                decided.append(receiver)
        for day, records in days.items():
            decided += await self._reports(day, records)
        return decided

    async def _reports(self, day: str, records: dict[str, TlsrptRecord]) -> list[ReportDecision]:
        rows = {rows.domain: rows for rows in await self._database.rows_of(day, list(records))}
        suppressed = await self.suppressions.suppressed(
            [rua.uri for record in records.values() for rua in record.rua], self._clock.wall()
        )
        mx_hosts = await self.outbox.mx_hosts(list(records))
        for domain in mx_hosts:
            own = rows.get(domain, DayRows(domain, ()))
            rows[domain] = await self._with_contributions(day, own, records[domain].rua)

        def made() -> list[ReportDecision]:
            return [
                self._report(day, rows.get(domain) or DayRows(domain, ()), record, suppressed)
                for domain, record in records.items()
            ]

        # Making and compressing hundreds of reports is slow and must not block the event loop.
        return await asyncio.to_thread(made)

    async def _receiver_of(self, unit: WaitingUnit) -> TlsrptRecord | Skip | Retry:
        day, domain = unit.day, unit.domain
        if self.settings.excludes(domain):
            return Skip(day, domain, "excluded")
        try:
            record = await self._record(domain)
        except errors.DnsError as error:
            return self._retry_or_skip(unit, error)
        except errors.TlsrptRecordError as error:
            return Skip(day, domain, f"{error.slug}: {error.detail}" if error.detail else error.slug)
        if record is None:
            return Skip(day, domain, "no-record")
        return record if record.rua else Skip(day, domain, f"no-address: {'; '.join(record.problems)}")

    def _retry_or_skip(self, unit: WaitingUnit, error: errors.DnsError) -> Skip | Retry:
        waited = sum(backoff(attempt) for attempt in range(1, unit.attempts + 1))
        if waited >= self.settings.retry_for:
            return Skip(unit.day, unit.domain, error.slug)
        next_at = self._clock.wall() + backoff(unit.attempts + 1)
        return Retry(unit.day, unit.domain, next_at, error.slug)

    def _report(self, day: str, rows: DayRows, record: TlsrptRecord, suppressed: dict[str, str]) -> ReportDecision:
        domain, now = rows.domain, self._clock.wall()
        if not rows.policies:
            return Skip(day, domain, "nothing-collected")
        if self.settings.failures_only and not has_failures(rows):
            return Skip(day, domain, "no-failures")
        report = Report(day, domain, f"{self._unique(16)}@{self.settings.reporter.submitter}")
        body = compress_report(report.content(rows, self.settings.reporter))
        saved = SavedReport(report.report_id, now, hashlib.sha256(body).hexdigest(), body)
        deliveries = tuple(
            NewDelivery(rua.uri, self._unique(10), MAIL if rua.mailbox else rua.host, suppressed.get(rua.uri, ""))
            for rua in record.rua
        )
        return ReportMade(day, domain, saved, deliveries, now, now + self.settings.retry_for, record.problems)

    # -- results -----------------------------------------------------------------------------------------------

    async def _with_contributions(self, day: str, own: DayRows, addresses: Sequence[Rua]) -> DayRows:
        """Return the rows of the domain's report, including those of other domains' mail if it is an MX host."""
        uris = {rua.uri for rua in addresses}
        others: list[DayRows] = []
        after, count = "", 0
        while count < _MAX_CONTRIBUTORS:
            page = await self.outbox.contributors(day, own.domain, after)
            if not page:
                break
            reported = await _all([self._reports_to(name, uris) for name in page])
            unreported = [name for name, is_reported in zip(page, reported, strict=True) if not is_reported]
            others += await self._database.rows_of(day, unreported)
            after, count = page[-1], count + len(page)
        return merge_rows(own, others) if others else own

    async def _reports_to(self, domain: str, uris: set[str]) -> bool:
        """Return True if the domain's own report goes to one of the addresses, or if that is unknown."""
        if self.settings.excludes(domain):
            return False
        try:
            record = await self._record(domain)
        except errors.DnsError:
            return True
        except errors.TlsrptRecordError:
            return False
        return record is not None and any(rua.uri in uris for rua in record.rua)

    async def _record(self, domain: str) -> TlsrptRecord | None:
        try:
            name = f"_smtp._tls.{policy_domain(domain)}"
        except ValueError:
            return None
        async with self._lookups:
            answer = await self._resolver.txt(name)
        return parse_tlsrpt(answer.records, most=self.settings.max_rua)


def complete_at(day: str) -> float:
    """Return when the day is complete: a minute after midnight, when all results have been collected."""
    return day_begins(day) + DAY + 60.0


async def _gathered(found: asyncio.Queue[_Found | Exception], most: int) -> list[_Found]:
    """Return the next result and those that follow shortly after it, so that they are stored together."""
    gathered: list[_Found] = []
    with suppress(TimeoutError):
        while len(gathered) < most:
            try:
                one = found.get_nowait()
            except asyncio.QueueEmpty:
                async with asyncio.timeout(_MOMENT if gathered else None):
                    one = await found.get()
            if isinstance(one, Exception):
                raise one
            gathered.append(one)
    return gathered


async def _all(calls: Sequence[Awaitable[T]]) -> list[T]:
    return list(await asyncio.gather(*calls))
