"""Published domains over HTTP. Names and moments are those of ``publish.operations``.

``GET /api/v1/publish``                  ``{domains, modes, gated, with_findings, rollouts, removals, forced, unchecked,
                                         findings: {SLUG: n}, problems, listening, certificates}``
``GET /api/v1/publish/domains``          ``{domains: [...], next}``; parameters after (a domain), limit (1 to 500),
                                         attention=1
``GET /api/v1/publish/domains/DOMAIN``   one domain with findings and history, or 404
``GET /api/v1/publish/records/DOMAIN``   ``{lines, differences, served, endpoint}``
``POST /api/v1/publish/check/DOMAIN``    checks the domain now; the answer as of ``domains/DOMAIN``
``POST /api/v1/publish/apply/DOMAIN``    takes ``{force}``, the reason to bypass the gate
``POST /api/v1/publish/rollout/DOMAIN``  takes ``{step, force}``
``POST /api/v1/publish/remove/DOMAIN``   begins a removal, or takes it further

The last four may take minutes. After one minute they answer 202 ``{running: true}``; the same request again waits for
the same work.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp import web

from ..errors import PublishError
from .http import Handler, HttpProblem, json_answer
from .parameters import json_body, path_domain
from .receiving_parts import ReceivingParts

__all__ = ["publish_routes"]

_WAIT_SECONDS = 60.0
_FORGET_SECONDS = 120.0
"""Seconds for which a finished result is kept for its client."""
_AT_ONCE = 32
_LIMIT = 100

Work = Callable[[str, dict[str, Any]], Coroutine[Any, Any, dict[str, Any]]]


def publish_routes(parts: ReceivingParts) -> list[web.RouteDef]:
    """Return the routes for published domains."""
    operations = parts.publish
    jobs = _Jobs()
    return [
        web.get("/api/v1/publish", _overview(parts)),
        web.get("/api/v1/publish/domains", _domains(parts)),
        web.get("/api/v1/publish/domains/{domain}", _one(operations.domain)),
        web.get("/api/v1/publish/records/{domain}", _one(operations.records)),
        web.post("/api/v1/publish/check/{domain}", jobs.handler("check", _check(parts))),
        web.post("/api/v1/publish/apply/{domain}", jobs.handler("apply", _apply(parts))),
        web.post("/api/v1/publish/rollout/{domain}", jobs.handler("rollout", _rollout(parts))),
        web.post("/api/v1/publish/remove/{domain}", jobs.handler("remove", _remove(parts))),
    ]


def _overview(parts: ReceivingParts) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        public = parts.public
        certificates = [
            {"names": list(one.names)[:20], "not_after": one.not_after, "file": str(one.files[0])}
            for one in public.certificates
        ]
        found = await parts.publish.overview()
        found["problems"] = [*found["problems"], *public.problems]
        return json_answer(request, {**found, "listening": list(public.addresses), "certificates": certificates})

    return answer


def _domains(parts: ReceivingParts) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        text = request.query.get("limit", str(_LIMIT))
        if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= 500):
            raise HttpProblem(400, "bad-parameter", "limit is a number from 1 to 500")
        after, attention = request.query.get("after", "")[:255], request.query.get("attention") == "1"
        return json_answer(request, await parts.publish.domains(after, int(text), attention=attention))

    return answer


def _one(find: Callable[[str], Coroutine[Any, Any, dict[str, Any]]]) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return json_answer(request, await find(path_domain(request)))
        except PublishError as error:
            raise HttpProblem(409, error.slug, error.detail) from None
        except KeyError:
            raise _UNKNOWN from None

    return answer


def _check(parts: ReceivingParts) -> Work:
    async def work(domain: str, _body: dict[str, Any]) -> dict[str, Any]:
        return await parts.publish.check(domain)

    return work


def _apply(parts: ReceivingParts) -> Work:
    async def work(domain: str, body: dict[str, Any]) -> dict[str, Any]:
        return await parts.publish.apply(domain, force=_reason(body))

    return work


def _rollout(parts: ReceivingParts) -> Work:
    async def work(domain: str, body: dict[str, Any]) -> dict[str, Any]:
        return await parts.publish.rollout(domain, step=body.get("step") is True, force=_reason(body))

    return work


def _remove(parts: ReceivingParts) -> Work:
    async def work(domain: str, _body: dict[str, Any]) -> dict[str, Any]:
        return await parts.publish.remove(domain)

    return work


class _Jobs:
    """Work that continues if its client disconnects; one of each kind and domain at a time."""

    def __init__(self) -> None:
        self._tasks: dict[tuple[str, str], asyncio.Task[dict[str, Any]]] = {}

    def handler(self, verb: str, work: Work) -> Handler:
        """Return the handler of a verb."""

        async def answer(request: web.Request) -> web.StreamResponse:
            domain, body = path_domain(request), await json_body(request, optional=True)
            key = verb, domain
            task = self._tasks.get(key)
            if task is None:
                if len(self._tasks) >= _AT_ONCE:
                    raise HttpProblem(503, "too-many-jobs", "too many domains are being changed; try again later")
                task = self._tasks[key] = asyncio.get_running_loop().create_task(
                    work(domain, body), name=f"publish {verb}"
                )
                task.add_done_callback(lambda done: self._forget_later(key, done))
            done, _ = await asyncio.wait([task], timeout=_WAIT_SECONDS)
            if not done:
                return web.json_response({"running": True}, status=202)
            if self._tasks.get(key) is task:
                del self._tasks[key]
            try:
                return json_answer(request, task.result())
            except PublishError as error:
                raise HttpProblem(409, error.slug, error.detail) from None
            except KeyError:
                raise _UNKNOWN from None

        return answer

    def _forget_later(self, key: tuple[str, str], task: "asyncio.Task[dict[str, Any]]") -> None:
        def forget() -> None:
            if self._tasks.get(key) is task:
                del self._tasks[key]
                if not task.cancelled():
                    task.exception()  # it was not requested in time

        task.get_loop().call_later(_FORGET_SECONDS, forget)


_UNKNOWN = HttpProblem(404, "domain-unknown", "the domain is not published here: add it to publish.domains and reload")


def _reason(body: dict[str, Any]) -> str:
    reason = body.get("force", "")
    if not isinstance(reason, str):
        raise PublishError("the reason is not text")
    return reason
