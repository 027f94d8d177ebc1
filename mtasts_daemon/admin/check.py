"""Checks of domains: on demand, with progress, and the history of watched ones.

===================================== =================================================================================
``GET /api/v1/check/DOMAIN``          JSON lines: ``{"step": {name, subject, found}}`` for each step, then
                                      ``{"result": {...}}`` as ``mtastsctl check --json`` prints it, or
                                      ``{"error": {slug, detail}}``; ``mine=1`` adds advice
``GET /api/v1/watched``               ``{domains: [{domain, due_in, failure, result: {at, exit_code, errors, warnings,
                                      outcomes: []} or null}]}``
``GET /api/v1/watched/DOMAIN``        ``{domain, checks: [{at, exit_code, errors, warnings, outcomes}], problems:
                                      [{slug, subject, severity, sentence, since, last_seen, confirmed, gone_at}],
                                      timeline: [{kind, subject, value, since, last_seen}]}``
===================================== =================================================================================
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from aiohttp import web

from ..diagnose.check.result import judge
from ..errors import MtaStsError
from ..notify.alert import Severity
from .http import HttpProblem, json_answer
from .parameters import path_domain
from .receiving_parts import ReceivingParts

if TYPE_CHECKING:
    from ..diagnose.check.gather import CheckStep

__all__ = ["check_routes"]

_AT_ONCE = 4
_STEPS_EVERY = 0.1
"""Seconds between two pieces of a stream of steps."""


def check_routes(parts: ReceivingParts) -> list[web.RouteDef]:
    """Return the routes."""
    api = _CheckApi(parts)
    return [
        web.get("/api/v1/check/{domain}", api.check),
        web.get("/api/v1/watched", api.watched),
        web.get("/api/v1/watched/{domain}", api.history),
    ]


class _CheckApi:
    def __init__(self, parts: ReceivingParts) -> None:
        self._parts = parts
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def check(self, request: web.Request) -> web.StreamResponse:
        domain, mine = path_domain(request), request.query.get("mine") == "1"
        if self._slots.locked():
            raise HttpProblem(429, "too-many-requests", "other checks are under way", {"Retry-After": "5"})
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "X-Accel-Buffering": "no"})
        async with self._slots:
            await response.prepare(request)
            async for line in self._lines(domain, mine):
                await response.write(line)
            await response.write_eof()
        return response

    async def _lines(self, domain: str, mine: bool) -> AsyncIterator[bytes]:
        """Yield the steps, at most every tenth of a second, and at the end the result or an error."""
        loop = asyncio.get_running_loop()
        steps: asyncio.Queue[CheckStep | None] = asyncio.Queue()

        def on_step(step: "CheckStep") -> None:  # on the check thread
            loop.call_soon_threadsafe(steps.put_nowait, step)

        task = loop.create_task(self._parts.checks.evidence(domain, on_step=on_step), name=f"check {domain}")
        # Through the loop once more, so that the end comes after the last step.
        task.add_done_callback(lambda _done: loop.call_soon(steps.put_nowait, None))
        try:
            ended = False
            while not ended:
                taken = [await steps.get()]
                while not steps.empty():
                    taken.append(steps.get_nowait())
                ended = taken[-1] is None
                if lines := b"".join(_step_line(step) for step in taken if step is not None):
                    yield lines
                # The daemon passes each piece on, next to lookups: a few pieces, not one for each step.
                await asyncio.wait([task], timeout=_STEPS_EVERY)
            evidence = await task
            # On a thread: a hostile domain has hundreds of findings, and other requests wait for this loop.
            yield await asyncio.to_thread(lambda: _json_line({"result": judge(evidence, mine=mine).as_json()}))
        except TimeoutError:
            yield _json_line({"error": {"slug": "check-timeout", "detail": "the check did not finish in time"}})
        except MtaStsError as error:
            yield _json_line({"error": {"slug": error.slug, "detail": error.sentence}})
        finally:
            task.cancel()

    async def watched(self, request: web.Request) -> web.Response:
        now = self._parts.clock.monotonic()
        domains = []
        for state in self._parts.watch.states.values():
            result = state.result
            last = None
            if result is not None:
                last = {
                    "at": result.evidence.at,
                    "exit_code": result.exit_code,
                    "errors": result.count(Severity.ERROR),
                    "warnings": result.count(Severity.WARNING),
                    "outcomes": [conclusion.delivery.value for conclusion in result.conclusions],
                }
            due = round(max(state.due - now, 0.0))
            domains.append({"domain": state.domain, "due_in": due, "failure": state.failure, "result": last})
        return json_answer(request, {"domains": domains})

    async def history(self, request: web.Request) -> web.Response:
        domain = path_domain(request)
        if domain not in self._parts.watch.states:
            raise HttpProblem(404, "domain-not-watched", "this domain is not listed in check.domains")
        return json_answer(request, await self._parts.watch.history(domain))


def _step_line(step: "CheckStep") -> bytes:
    return _json_line({"step": {"name": step.name, "subject": step.subject, "found": step.found}})


def _json_line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
