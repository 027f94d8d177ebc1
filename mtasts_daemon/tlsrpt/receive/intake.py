"""One report from its arrival to its commit: unpack, authenticate, parse, store.

Nothing is acknowledged before it is committed. ``take_mail`` and ``take_body`` return the result, or raise a leaf
of ``ReceivedReportError`` (never accept it again), ``ReceivedReportDeferred`` (later) or ``StoreError`` (later).
"""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from ...errors import MtaStsError, ReceivedReportError, SignatureKeyUnavailable, StoreError
from .auth_results import passed_domains
from .authentication import Authentication, AuthMethod, SenderClaims, authenticate
from .database import Job, ReportsDatabase
from .dkim_check import LookupTxt, fetch_keys, relevant_signatures, verify_signatures
from .mail_header import MailHeader, read_header
from .model import DEFAULT_LIMITS, Deviation, IntakeLimits, ReceivedReport, ReportSource
from .parser import FileNameFacts, file_name_facts, parse_report
from .unpack import attachments, parse_mail, unpack
from .writes import Acceptance, Accepted, accept

__all__ = ["Intake", "IntakeCounters", "IntakeSettings", "ParsedReport", "read_body", "read_mail"]

T = TypeVar("T")

_SMALL = 128 * 1024
"""Bytes of a mail that is parsed and verified in a few milliseconds."""

_MAX_TRIES = 5
"""Attachments of one mail that are tried until one is a report."""


def _no_domain(_domain: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class IntakeSettings:
    """``authserv_ids`` are hosts whose Authentication-Results are trusted; quotas are reports per day.

    ``is_published`` returns True for own domains that are not in ``domains``. It is called on any thread, and raises
    ``StoreError`` if that is not known.
    """

    domains: frozenset[str]
    authserv_ids: frozenset[str] = frozenset()
    quota: int = 50_000
    quota_untrusted: int = 2_000
    limits: IntakeLimits = DEFAULT_LIMITS
    is_published: Callable[[str], bool] = _no_domain

    def is_ours(self, domain: str) -> bool:
        """Return True for an own domain or a name below one, as MX hosts are. Raises ``StoreError`` if not known."""
        labels = domain.split(".") if domain else []
        names = [".".join(labels[at:]) for at in range(len(labels))]
        if any(name in self.domains for name in names):
            return True
        unknown: StoreError | None = None
        for name in names:
            try:
                if self.is_published(name):
                    return True
            except StoreError as error:
                unknown = error
        if unknown is not None:
            raise unknown
        return False


@dataclass(slots=True)
class IntakeCounters:
    """Results of reports since the start, from any thread. Keys come from closed sets: sources, methods, slugs."""

    received: dict[str, int] = field(default_factory=dict)
    stored: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    deviations: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    revisions: int = 0
    foreign: int = 0
    last_at: float = 0.0
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def count_received(self, source: ReportSource) -> None:
        """Count a report that came in."""
        with self._turn:
            _add(self.received, source.value)

    def count_stored(self, item: Acceptance, accepted: Accepted) -> None:
        """Count a report that was committed."""
        with self._turn:
            _add(self.stored, item.authentication.method.value)
            for deviation in item.report.deviations:
                _add(self.deviations, deviation.value)
            self.duplicates += len(accepted.duplicates)
            self.revisions += len(accepted.revisions)
            self.foreign += accepted.foreign
            self.last_at = float(item.received_at)

    def count_rejected(self, error: MtaStsError) -> None:
        """Count a report that was rejected."""
        with self._turn:
            _add(self.rejected, error.slug)


def _add(counts: dict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1


@dataclass(frozen=True, slots=True)
class ParsedReport:
    """A report and the JSON text that it was read from."""

    report: ReceivedReport
    text: bytes


def read_body(data: bytes, *, now: float, name: FileNameFacts, limits: IntakeLimits) -> ParsedReport:
    """Unpack and parse a report without a mail around it. Raises a leaf of ``ReceivedReportError``."""
    text, deviations = unpack(data, limits)
    report = parse_report(text, now=now, name=name, limits=limits)
    return ParsedReport(_with(report, deviations), text)


def read_mail(message: bytes, header: MailHeader, *, now: float, limits: IntakeLimits) -> ParsedReport:
    """Find, unpack and parse the report in a mail. Raises a leaf of ``ReceivedReportError``."""
    claimed = header.report_domain()
    problem: ReceivedReportError | None = None
    for attachment in attachments(parse_mail(message, limits), limits)[:_MAX_TRIES]:
        name = file_name_facts(attachment.name)
        if not name.domain and claimed:
            name = FileNameFacts(name.submitter, claimed, name.begin, name.end, name.unique)
        try:
            found = read_body(attachment.data, now=now, name=name, limits=limits)
        except ReceivedReportError as error:
            # The error of the most likely attachment explains most.
            problem = problem or error
            continue
        return ParsedReport(_with(found.report, attachment.deviations), found.text)
    assert problem is not None
    raise problem


def _with(report: ReceivedReport, deviations: frozenset[Deviation]) -> ReceivedReport:
    if deviations <= report.deviations:
        return report
    return ReceivedReport(
        report.organization,
        report.contact,
        report.report_id,
        report.begin,
        report.end,
        report.policies,
        report.deviations | deviations,
    )


class Intake:
    """Takes reports into the database, on one event loop and its threads. Counters and database may be shared."""

    def __init__(
        self,
        database: ReportsDatabase,
        settings: IntakeSettings,
        lookup_txt: LookupTxt,
        now: Callable[[], float],
        counters: IntakeCounters | None = None,
    ) -> None:
        self.settings = settings
        self.counters = counters if counters is not None else IntakeCounters()
        self._database = database
        self._lookup_txt = lookup_txt
        self._now = now
        self._turn = asyncio.Semaphore(2)

    async def take_mail(self, message: bytes, source: ReportSource, *, final: bool = False) -> Accepted:
        """Take a report mail. ``final``: if a key cannot be looked up, accept the mail as unauthenticated."""
        self.counters.count_received(source)
        try:
            return await self._mail(message, source, final=final)
        except MtaStsError as error:
            self.counters.count_rejected(error)
            raise

    async def _mail(self, message: bytes, source: ReportSource, *, final: bool) -> Accepted:
        now, settings = self._now(), self.settings
        header = read_header(message)
        async with self._turn:
            parsed = await _computed(len(message), lambda: read_mail(message, header, now=now, limits=settings.limits))
        claims, verdict = header.claims(), Authentication(AuthMethod.NONE)
        # A report that is dropped anyway is not authenticated, so strangers cannot cause DNS queries.
        if any(settings.is_ours(policy.domain) for policy in parsed.report.policies):
            verdict = await self._authenticate(message, header, claims, now, final=final)
        item = self._acceptance(parsed, verdict, source, claims, now)
        accepted = await self._commit(item)
        self.counters.count_stored(item, accepted)
        return accepted

    async def _commit(self, item: Acceptance) -> Accepted:
        job = accept(item, self.settings.is_ours)
        accepted: Accepted = await asyncio.wrap_future(self._database.submit(job))
        return accepted

    async def _authenticate(
        self, message: bytes, header: MailHeader, claims: SenderClaims, now: float, *, final: bool
    ) -> Authentication:
        if header.ambiguous:
            return Authentication(AuthMethod.NONE, detail=header.ambiguous)
        signatures = relevant_signatures(header.values("dkim-signature"), claims, now)
        # Not in turn: a stranger's name servers may be slow, and other mails must not wait for them.
        keys = await fetch_keys(signatures, self._lookup_txt)
        async with self._turn:
            checks = await _computed(len(message), lambda: verify_signatures(message, signatures, keys))
        local = frozenset[str]()
        if self.settings.authserv_ids:
            local = passed_domains(header.values("authentication-results"), self.settings.authserv_ids)
        verdict = authenticate(claims, checks, local)
        if verdict is None:
            if not final:
                raise SignatureKeyUnavailable(checks[0].domain)
            return Authentication(AuthMethod.NONE, detail="the key of the signature could not be looked up")
        return verdict

    def _acceptance(
        self, parsed: ParsedReport, verdict: Authentication, source: ReportSource, claims: SenderClaims, now: float
    ) -> Acceptance:
        report = parsed.report
        claimed = next(iter(claims.submitters + claims.senders), "")
        submitter = verdict.identity or report.contact_domain or claimed
        if verdict.identity and report.contact_domain and not _same(report.contact_domain, verdict.identity):
            report = _with(report, frozenset({Deviation.SUBMITTER_DISAGREES}))
        return Acceptance(
            report=report,
            authentication=verdict,
            source=source,
            submitter=submitter[:253],
            text=parsed.text,
            received_at=int(now),
            quota_subject=_quota_subject(verdict),
            quota=self.settings.quota if verdict.trusted else self.settings.quota_untrusted,
        )

    async def take_body(
        self, data: bytes, source: ReportSource, verdict: Authentication, *, name: str = ""
    ) -> Accepted:
        """Take a report without a mail, such as one posted by HTTPS."""
        self.counters.count_received(source)
        settings = self.settings
        quota = settings.quota if verdict.trusted else settings.quota_untrusted
        try:
            async with self._turn:
                parsed = await _computed(_SMALL, lambda: self._read_body(data, name))
            item = self._body_item(parsed, source, verdict, quota)
            accepted = await self._commit(item)
        except MtaStsError as error:
            self.counters.count_rejected(error)
            raise
        self.counters.count_stored(item, accepted)
        return accepted

    def _read_body(self, data: bytes, name: str) -> ParsedReport:
        return read_body(data, now=self._now(), name=file_name_facts(name), limits=self.settings.limits)

    def body_job(self, data: bytes, source: ReportSource, verdict: Authentication, *, name: str = "") -> Job[Accepted]:
        """Parse on this thread and return the write, for imports of files by the operator, who has no quota."""
        parsed = self._read_body(data, name)
        item = self._body_item(parsed, source, verdict, None)
        return accept(item, self.settings.is_ours)

    def mail_job(self, message: bytes, source: ReportSource, verdict: Authentication) -> Job[Accepted]:
        """Do the same for a mail that the operator vouches for: its signatures are not verified."""
        parsed = read_mail(message, read_header(message), now=self._now(), limits=self.settings.limits)
        item = self._body_item(parsed, source, verdict, None)
        return accept(item, self.settings.is_ours)

    def _body_item(
        self, parsed: ParsedReport, source: ReportSource, verdict: Authentication, quota: int | None
    ) -> Acceptance:
        return Acceptance(
            report=parsed.report,
            authentication=verdict,
            source=source,
            submitter=(verdict.identity or parsed.report.contact_domain)[:253],
            text=parsed.text,
            received_at=int(self._now()),
            quota_subject=_quota_subject(verdict),
            quota=quota,
        )


async def _computed(size: int, compute: Callable[[], T]) -> T:
    """Compute here if it takes a few milliseconds, and otherwise on a thread, so that other mails go on."""
    return compute() if size < _SMALL else await asyncio.to_thread(compute)


def _quota_subject(verdict: Authentication) -> str:
    """Return the name of the quota: the last two labels, since anyone can sign as any number of subdomains."""
    if not verdict.trusted:
        return ""
    return ".".join(verdict.identity.split(".")[-2:]) or verdict.method.value


def _same(one: str, other: str) -> bool:
    return one == other or one.endswith(f".{other}") or other.endswith(f".{one}")
