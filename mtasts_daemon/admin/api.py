"""The admin API over HTTP.

The Unix socket serves all requests, the TCP listener only GET. Points in time are wall-clock seconds since the epoch,
durations are seconds, both as numbers. Errors are problem+json: ``{type, title, status, detail}`` with a stable slug as
``title``. Lists have an ``ETag``. Requests that change something need the header ``X-MTASTS-Request``.
At most two lists and four live explanations run at once; more live explanations are refused with 429.

``GET /healthz``                      ``{ok: true}``: the event loop runs
``GET /readyz``                       200, or 503: ``{ok, checks: [{name, ok, detail}]}``; the names are listeners,
                                      store, resolver, refresher, and certificates and parts that fail
``GET /metrics``                      metrics for Prometheus
``GET /api/v1/status``                ``{version, python, pid, now, started_at, ready, checks, listeners, log_level,
                                      lookups: {total, hits, answers: {KIND: n}, waiting, connections, malformed,
                                      lookups_per_second, hit_rate}, cache: {modes: {enforce, testing, none}, failing,
                                      expiring, enforce_at_risk, in_memory, ready_replies, file}, deferred:
                                      {total, domains: [{domain, reason, sentence, since, last_seen}, the first 20]},
                                      refresher: {heartbeat_age, under_way, due, due_since, refreshes, failures:
                                      {SLUG: n}, last_success}, tlsrpt: {collecting, events: {received, rejected:
                                      {SLUG: n}, last_at}, sending, reports: {waiting, due, delivered, refused, failed,
                                      suppressed, waits_since} or null}, dns: {validates}, zones: {NAME:
                                      {dialect, default_level, dane}}, overrides, reload: {at, ok, problems}}``.
                                      The two rates are null if they are not known; KIND is secure, dane, dane-only,
                                      level, fixed, none or temp. ``modes`` counts valid policies, up to 10 s ago;
                                      ``expiring`` means within a day. ``reports`` are counted once a minute, finished
                                      ones over seven days; ``waits_since`` is the end of the earliest day with a
                                      waiting report. ``deferred`` are domains whose mail is deferred now, the latest
                                      first
``GET /api/v1/entries``               ``{entries: [{domain, mode, record_id, fetched_at, valid_until, due_at,
                                      first_used, last_used, txt_problem, failure_problem, failure_detail,
                                      failure_count, failure_at, failure_retry_at}], next, total}``; parameters: mode,
                                      q (part of the domain), failing=1, expiring=24h, live=1, sort (domain, mode,
                                      expires, due, used, fetched, failures; descending with - in front), limit (1 to
                                      500), cursor (``next`` of the previous page; null on the last page).
                                      ``total`` is set on the first page only
``GET /api/v1/entries/DOMAIN``        ``{domain, first_used, last_used, due_at, stored, in_memory, txt: {at,
                                      holds_until, record_id, problem, detail} or null, failure: {record_id, at,
                                      retry_at, count, problem, detail} or null, held: {record_id, mode, mx: [],
                                      max_age, fetched_at, valid_until, live, lines: []} or null}``, or 404
``GET /api/v1/explain/KEY``           ``{key, policy_domain, steps: [{title, rule, found, good}], decisions: {NAME:
                                      SLUG}, replies: {NAME: TEXT}, verdict: {state, sentence, map_name, table,
                                      asked}, deferred_since}``; ``table`` is that of main.cf, ``asked`` a sentence on
                                      it; ``live=1`` queries DNS and the policy host; with ``stream=1`` JSON lines:
                                      ``{step: {...}}`` for each step, then ``{result: {...}}`` or
                                      ``{error: {status, slug, detail}}``. KEY may be an e-mail address or URL
``GET /api/v1/history``               ``{at: [], seconds: [], lookups: [], hits: [], answers: {KIND: []}}``, one item
                                      per minute, the oldest first; parameter minutes (1 to 1440)
``GET /api/v1/tls-results``           TLS results by day; see ``admin.tls_results``
``GET /api/v1/check/DOMAIN``          how a domain looks to a sender, as JSON lines; ``admin.check`` has it, and
                                      ``/api/v1/watched``
``GET /api/v1/received``              TLS reports about the own domains; ``received`` has it
``/api/v1/publish``...                published domains; ``admin.publish`` documents them
``GET /api/v1/log``                   ``{lines: [{at, level, event, fields: {}}]}``: the last log lines, newest first
``GET /api/v1/overrides``             ``{overrides: {DOMAIN: {skip or treat_as or reply, reason, origin}}}``
``GET /api/v1/config``                ``{config: {...}, origins: {KEY: TEXT}}``: the configuration in force
``GET /api/v1/export``                ``{entries: [{domain, record_id, body, fetched_at, valid_until, first_used,
                                      last_used}], next}``; parameters after (a domain), limit
``POST /api/v1/import``               takes ``{entries: [...]}`` as exported; ``{kept, older, refused: [{domain,
                                      reason}]}``
``POST /api/v1/refresh/DOMAIN``       queries DNS and the policy host now; returns the entry as above; with
                                      ``stream=1`` JSON lines, as for explain
``POST /api/v1/purge/DOMAIN``, ``DELETE /api/v1/entries/DOMAIN``   ``{purged: true}``, or 404
``POST /api/v1/reload``               ``{ok, at, problems: []}``, with status 409 if the configuration was rejected
``POST /api/v1/log-level``            takes ``{level}``, gives ``{level}``; until the next reload
"""

import asyncio
import base64
import binascii
import json
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any

from aiohttp import web

from .. import log
from ..config.problems import BadValue
from ..config.values import Duration
from ..diagnose.explanation import Step
from ..errors import StoreError
from ..policy.user_input import parse_user_key
from ..store.listing import SORTS, Cursor, Query
from .entries import export_entries, import_entries
from .http import AdminSite, HttpProblem, json_answer, json_text_answer
from .metrics import Exposition
from .page import add_page
from .parameters import flag, json_body, number, path_domain
from .receiving_client import receiving_routes
from .service import AdminService
from .status import status
from .tls_results import tls_routes

__all__ = ["make_site"]

_LIVE_AT_ONCE = 4
_LISTS_AT_ONCE = 2


async def make_site(control: AdminService, *, writable: bool) -> AdminSite:
    """Return a site for the daemon behind ``control`` that accepts connections."""
    site = AdminSite(control.parts.counters, writable=writable)
    add_page(site.app)
    site.app.add_routes(_Api(control).routes())
    site.app.add_routes(tls_routes(control))
    site.app.add_routes(receiving_routes(control.parts.receiving))
    await site.open()
    return site


class _Api:
    def __init__(self, control: AdminService) -> None:
        self._control = control
        self._metrics = Exposition(control)
        self._live = asyncio.Semaphore(_LIVE_AT_ONCE)
        self._lists = asyncio.Semaphore(_LISTS_AT_ONCE)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of every listener. AdminSite rejects writes on read-only listeners."""
        return [
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self.metrics),
            web.get("/api/v1/status", self.status),
            web.get("/api/v1/entries", self.entries),
            web.get("/api/v1/entries/{domain}", self.entry),
            web.delete("/api/v1/entries/{domain}", self.purge),
            web.get("/api/v1/explain/{key}", self.explain),
            web.get("/api/v1/history", self.history),
            web.get("/api/v1/log", self.log),
            web.get("/api/v1/overrides", self.overrides),
            web.get("/api/v1/config", self.config),
            web.get("/api/v1/export", self.export),
            web.post("/api/v1/import", self.import_),
            web.post("/api/v1/refresh/{domain}", self.refresh),
            web.post("/api/v1/purge/{domain}", self.purge),
            web.post("/api/v1/reload", self.reload),
            web.post("/api/v1/log-level", self.log_level),
        ]

    # -- reading -------------------------------------------------------------------------------------------

    async def healthz(self, request: web.Request) -> web.Response:
        return json_answer(request, {"ok": True})

    async def readyz(self, request: web.Request) -> web.Response:
        checks = await self._control.checks()
        ok = all(check.ok for check in checks)
        answer = json_answer(request, {"ok": ok, "checks": [asdict(check) for check in checks]})
        if not ok:
            answer.set_status(503)
        return answer

    async def metrics(self, request: web.Request) -> web.Response:
        state = await self._control.parts.receiving.state()
        body, content_type = self._metrics.text(request.headers.get("Accept", ""), state)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def status(self, request: web.Request) -> web.Response:
        return json_answer(request, await status(self._control))

    async def entries(self, request: web.Request) -> web.Response:
        query = _query(request, self._control.parts.clock.wall())
        async with self._lists:
            found = await self._control.entries(query)
        around = json.dumps({"next": _cursor_text(found.after), "total": found.total})
        return json_text_answer(request, f'{{"entries":[{",".join(found.entries)}],{around[1:]}')

    async def entry(self, request: web.Request) -> web.Response:
        return json_answer(request, _found(await self._control.entry(path_domain(request))))

    async def explain(self, request: web.Request) -> web.StreamResponse:
        live, stream = flag(request, "live"), flag(request, "stream")
        try:
            key = parse_user_key(request.match_info["key"])
        except ValueError as error:
            raise HttpProblem(400, "domain-invalid", f"not a domain: {error}") from None
        if not live:
            return json_answer(request, await self._control.explain(key, live=False))
        if self._live.locked():
            raise HttpProblem(429, "too-many-requests", "other live explanations are in progress", {"Retry-After": "5"})
        async with self._live:
            if not stream:
                return json_answer(request, await self._control.explain(key, live=True))
            return await _in_lines(request, lambda on_step: self._control.explain(key, live=True, on_step=on_step))

    async def history(self, request: web.Request) -> web.Response:
        return json_answer(request, self._control.parts.history.series(number(request, "minutes", 1440, 1440)))

    async def log(self, request: web.Request) -> web.Response:
        return json_answer(request, {"lines": await self._control.log_lines()})

    async def overrides(self, request: web.Request) -> web.Response:
        return json_answer(request, {"overrides": self._control.overrides()})

    async def config(self, request: web.Request) -> web.Response:
        return json_answer(request, self._control.config())

    async def export(self, request: web.Request) -> web.Response:
        limit = number(request, "limit", 200, 500)
        async with self._lists:
            return json_answer(request, await export_entries(self._control, request.query.get("after", ""), limit))

    # -- commands ------------------------------------------------------------------------------------------

    async def import_(self, request: web.Request) -> web.Response:
        return json_answer(request, await import_entries(self._control, await json_body(request)))

    async def refresh(self, request: web.Request) -> web.StreamResponse:
        domain, stream = path_domain(request), flag(request, "stream")
        if stream:
            return await _in_lines(request, lambda on_step: self._control.refresh(domain, on_step))
        return json_answer(request, _found(await self._control.refresh(domain)))

    async def purge(self, request: web.Request) -> web.Response:
        if not await self._control.purge(path_domain(request)):
            raise _UNKNOWN
        return json_answer(request, {"purged": True})

    async def reload(self, request: web.Request) -> web.Response:
        # The reload goes on if the client disconnects.
        found = await asyncio.shield(asyncio.create_task(self._control.reload(), name="reload"))
        answer = json_answer(request, found)
        if not found["ok"]:
            answer.set_status(409)
        return answer

    async def log_level(self, request: web.Request) -> web.Response:
        level = (await json_body(request)).get("level")
        if not isinstance(level, str) or level not in log.LEVELS:
            raise HttpProblem(400, "bad-parameter", f"level must be one of {', '.join(log.LEVELS)}")
        await self._control.set_log_level(level)
        return json_answer(request, {"level": level})


# -- JSON lines -------------------------------------------------------------------------------------


async def _in_lines(
    request: web.Request, work: Callable[[Callable[[Step], None]], Coroutine[Any, Any, dict[str, Any] | None]]
) -> web.StreamResponse:
    """Send a line for each step that ``work`` reports, and then its result or error."""
    steps: asyncio.Queue[Step | None] = asyncio.Queue()
    task = asyncio.create_task(work(steps.put_nowait), name="steps")
    task.add_done_callback(lambda _done: steps.put_nowait(None))
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "X-Accel-Buffering": "no"})
    try:
        await response.prepare(request)
        while (step := await steps.get()) is not None:
            await response.write(_line({"step": asdict(step)}))
        last: dict[str, Any]
        try:
            last = {"result": _found(await task)}
        except StoreError as error:
            last = {"error": {"status": 503, "slug": error.slug, "detail": error.sentence}}
        except HttpProblem as problem:
            last = {"error": {"status": problem.status, "slug": problem.slug, "detail": problem.detail}}
        await response.write(_line(last))
        await response.write_eof()
    finally:
        task.cancel()
    return response


# -- parameters -------------------------------------------------------------------------------------


def _line(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


_UNKNOWN = HttpProblem(404, "domain-unknown", "nothing is known about this domain")


def _found(entry: dict[str, Any] | None) -> dict[str, Any]:
    if entry is None:
        raise _UNKNOWN
    return entry


def _query(request: web.Request, now: float) -> Query:
    asked = request.query
    sort = asked.get("sort", "domain")
    if sort.removeprefix("-") not in SORTS:
        raise HttpProblem(400, "bad-parameter", f"sort must be one of {', '.join(SORTS)}, optionally with - in front")
    if asked.get("mode", "none") not in ("enforce", "testing", "none"):
        raise HttpProblem(400, "bad-parameter", "mode must be enforce, testing or none")
    expiring = None
    if "expiring" in asked:
        try:
            expiring = now + Duration.parse(asked["expiring"])
        except BadValue as error:
            raise HttpProblem(400, "bad-parameter", f"expiring: {error.message}") from None
    return Query(
        mode=asked.get("mode"),
        text=asked.get("q", "").lower(),
        failing=flag(request, "failing"),
        expires_before=expiring,
        # An expired policy does not expire again.
        live_at=now if flag(request, "live") or expiring is not None else None,
        sort=sort.removeprefix("-"),
        descending=sort.startswith("-"),
        after=_cursor(asked.get("cursor")),
        limit=number(request, "limit", 100, 500),
    )


def _cursor_text(cursor: Cursor | None) -> str | None:
    return None if cursor is None else base64.urlsafe_b64encode(json.dumps(cursor).encode()).decode("ascii")


def _cursor(text: str | None) -> Cursor | None:
    if text is None:
        return None
    try:
        value, domain = json.loads(base64.urlsafe_b64decode(text.encode()))
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise HttpProblem(400, "bad-parameter", "cursor is not a cursor of this API") from None
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
    if not (number or isinstance(value, str)) or not isinstance(domain, str) or not f"{value}{domain}".isascii():
        raise HttpProblem(400, "bad-parameter", "cursor is not a cursor of this API")
    return value, domain
