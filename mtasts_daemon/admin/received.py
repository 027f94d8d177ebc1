"""TLS reports about the own domains over HTTP. Days are UTC; sums are of authenticated reports only.

``GET /api/v1/received``                   ``{receiving, since, until, domains: [{domain, reports, successful, failed,
                                           failed_share, first_day, last_day}], only_unauthenticated: [{domain, reports,
                                           first_day, last_day}], alerts: [], dropped: {REASON: n}}``, the domain with
                                           the largest failed share first; parameter days (1 to 400)
``GET /api/v1/received/DOMAIN``            ``{domain, since, until, days: [{day, reports, successful, failed, types:
                                           {TYPE: n}}], reporters: [{submitter, reports, successful, failed, days,
                                           first_day, last_day}],
                                           failures: [{result_type, mx_host, failed, first_day, last_day, reporters,
                                           hint, changes: []}], advice: [{slug, good, sentence, evidence: [], hint}],
                                           alerts: [], untrusted}``; parameters days, reporter, type
``GET /api/v1/received/DOMAIN/reports``    ``{reports: [...], next}``, newest first; parameters days, reporter, type,
                                           trusted (0 or 1), cursor, limit (1 to 500)
``GET /api/v1/received-reports/ID``        one report with its ``details``
``GET /api/v1/received-reports/ID/raw``    ``{text}``: the report as it was received
``GET /api/v1/received-silences``          ``{silences: [{id, domain, kind, subject, reason, until}]}``
``POST /api/v1/received-silences``         takes ``{domain, kind, subject, reason, days}``; ``{id}``
``DELETE /api/v1/received-silences/ID``    ``{removed: true}``, or 404
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from aiohttp import web

from ..diagnose.report_context import report_context
from ..text import sanitize, utc_day
from ..tlsrpt.receive.advice import NO_CONTEXT
from ..tlsrpt.receive.alert_rules import AlertKind
from ..tlsrpt.receive.alert_store import add_silence, open_alerts, remove_silence, silences
from ..tlsrpt.receive.queries import (
    ReportFilter,
    domain_totals,
    dropped,
    only_unauthenticated,
    raw_report,
    report_details,
    stored_reports,
)
from ..tlsrpt.receive.summary import summary_job, summary_json
from ..tlsrpt.receive.totals import DomainTotals
from .http import HttpProblem, json_answer, json_text_answer
from .parameters import json_body, number, parse_domain, parse_number, path_domain, short_text
from .receiving_parts import ReceivingParts

__all__ = ["received_routes"]

_DAY = 86400
_MAX_DAYS = 400
_MAX_RAW_SHOWN = 2 << 20


def received_routes(parts: ReceivingParts) -> list[web.RouteDef]:
    """Return the routes."""
    api = _Received(parts)
    return [
        web.get("/api/v1/received", api.overview),
        web.get("/api/v1/received/{domain}", api.domain),
        web.get("/api/v1/received/{domain}/reports", api.reports),
        web.get("/api/v1/received-reports/{id}", api.report),
        web.get("/api/v1/received-reports/{id}/raw", api.raw),
        web.get("/api/v1/received-silences", api.silences),
        web.post("/api/v1/received-silences", api.silence),
        web.delete("/api/v1/received-silences/{id}", api.unsilence),
    ]


class _Received:
    def __init__(self, parts: ReceivingParts) -> None:
        self._receive = parts.receive
        self._watch = parts.watch
        self._clock = parts.clock

    async def overview(self, request: web.Request) -> web.Response:
        since, until = self._range(request)
        if not self._receive.receiving:
            return json_answer(request, {"receiving": False, "since": since, "until": until, "domains": []})
        domains = await self._receive.read(domain_totals(since, until))
        unauthenticated = await self._receive.read(only_unauthenticated(since, until))
        found = {
            "receiving": True,
            "since": since,
            "until": until,
            "only_unauthenticated": [asdict(one) for one in unauthenticated],
            "alerts": await self._receive.read(open_alerts()),
            "dropped": await self._receive.read(dropped(since)),
        }
        # On a thread: 100,000 domains take a second, and other requests wait for this loop.
        return json_text_answer(request, await asyncio.to_thread(overview_text, found, domains))

    async def domain(self, request: web.Request) -> web.Response:
        name, (since, until) = path_domain(request), self._range(request)
        reporter, result_type = short_text(request, "reporter"), short_text(request, "type")
        seen_since = self._clock.wall() - (_MAX_DAYS + 1) * _DAY
        context = await self._watch.read(partial(report_context, name, seen_since))
        job = summary_job(
            name, since, until, submitter=reporter, result_type=result_type, context=context or NO_CONTEXT
        )
        return json_answer(request, summary_json(await self._receive.read(job)))

    async def reports(self, request: web.Request) -> web.Response:
        since, until = self._range(request)
        trusted = {"": None, "0": False, "1": True}.get(short_text(request, "trusted"))
        asked = ReportFilter(
            domain=path_domain(request),
            submitter=short_text(request, "reporter"),
            result_type=short_text(request, "type"),
            since=since,
            until=until,
            trusted=trusted,
            before=number(request, "cursor", 0, 1 << 62, least=0),
            limit=number(request, "limit", 100, 500),
        )
        found = await self._receive.read(stored_reports(asked))
        more = found[-1].id if len(found) == asked.limit else None
        return json_answer(request, {"reports": [asdict(one) for one in found], "next": more})

    async def report(self, request: web.Request) -> web.Response:
        found = await self._receive.read(report_details(_id(request)))
        if found is None:
            raise _no_report()
        report, details = found
        return json_answer(request, asdict(report) | {"details": details})

    async def raw(self, request: web.Request) -> web.Response:
        text = await self._receive.read(raw_report(_id(request)))
        if text is None:
            raise _no_report()
        shown = text[:_MAX_RAW_SHOWN].decode("utf-8", "replace")
        return json_answer(request, {"text": shown, "complete": len(text) <= _MAX_RAW_SHOWN})

    async def silences(self, request: web.Request) -> web.Response:
        found = await self._receive.read(silences(self._clock.wall()))
        return json_answer(request, {"silences": [asdict(one) for one in found]})

    async def silence(self, request: web.Request) -> web.Response:
        body = await json_body(request)
        values = {name: body.get(name, "") for name in ("domain", "kind", "subject", "reason")}
        days = body.get("days", 7)
        if not all(isinstance(value, str) and len(value) <= 300 for value in values.values()):
            raise HttpProblem(400, "bad-parameter", "domain, kind, subject and reason are texts of 300 characters")
        if not values["reason"].strip():
            raise HttpProblem(400, "bad-parameter", "a silence needs a reason")
        if values["kind"] not in ("", *(kind.value for kind in AlertKind)):
            raise HttpProblem(400, "bad-parameter", f"kind is one of {', '.join(AlertKind)}")
        if type(days) is not int or not 0 < days <= 3660:
            raise HttpProblem(400, "bad-parameter", "days is a number from 1 to 3660")
        domain = parse_domain(values["domain"]) if values["domain"] else ""
        now = self._clock.wall()
        reason = sanitize(values["reason"], 300)
        job = add_silence(domain, values["kind"], values["subject"], reason, now + days * _DAY, now)
        return json_answer(request, {"id": await self._receive.write(job)})

    async def unsilence(self, request: web.Request) -> web.Response:
        if not await self._receive.write(remove_silence(_id(request))):
            raise HttpProblem(404, "silence-unknown", "there is no such silence; it may have expired")
        return json_answer(request, {"removed": True})

    def _range(self, request: web.Request) -> tuple[str, str]:
        days = number(request, "days", 30, _MAX_DAYS)
        now = self._clock.wall()
        return utc_day(now - days * _DAY), utc_day(now)


def overview_text(found: dict[str, Any], domains: Sequence[DomainTotals]) -> str:
    """Return the overview as JSON, domain by domain: one call of the encoder would hold the interpreter's lock."""
    listed = ",".join(
        json.dumps(
            {
                "domain": one.domain,
                "reports": one.reports,
                "successful": one.successful,
                "failed": one.failed,
                "first_day": one.first_day,
                "last_day": one.last_day,
                "failed_share": one.failed_share,
            },
            separators=(",", ":"),
        )
        for one in domains
    )
    return f'{json.dumps(found, separators=(",", ":"))[:-1]},"domains":[{listed}]}}'


def _no_report() -> HttpProblem:
    return HttpProblem(404, "report-unknown", "no such report; it may have expired")


def _id(request: web.Request) -> int:
    return parse_number(request.match_info["id"], "id", 1, 1 << 62)
