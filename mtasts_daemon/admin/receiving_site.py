"""The receiving process's own HTTP server, which only the daemon reaches, by a Unix socket.

The daemon passes requests of its admin listeners on: the paths of ``admin.check``, ``admin.received`` and
``admin.publish``. Paths under ``/receiving`` are between the two processes only.

``GET /receiving/state``        ``receiving_state.ReceivingState``; with ``after=N`` once configuration N is in force
``GET /receiving/log``          ``{lines: [...]}`` as ``/api/v1/log``
``POST /receiving/log-level``   takes ``{level}``
"""

from dataclasses import asdict

from aiohttp import web

from .. import log
from ..notify.alert import Severity
from ..tlsrpt.receive.intake import IntakeCounters
from .check import check_routes
from .http import AdminSite, json_answer
from .parameters import json_body, number
from .publish import publish_routes
from .received import received_routes
from .receiving_parts import ReceivingParts
from .receiving_state import ReceivingState, WatchedCounts

__all__ = ["make_receiving_site"]

_CONNECTIONS = 256
"""More than the two admin listeners have together: one closed at the limit would be a request of theirs."""


async def make_receiving_site(parts: ReceivingParts) -> AdminSite:
    """Return the site, which accepts connections."""
    site = AdminSite(parts.counters, writable=True, connections=_CONNECTIONS)
    own = _Own(parts)
    site.app.add_routes(
        [
            web.get("/receiving/state", own.state),
            web.get("/receiving/log", own.log),
            web.post("/receiving/log-level", own.log_level),
            *check_routes(parts),
            *received_routes(parts),
            *publish_routes(parts),
        ]
    )
    await site.open()
    return site


class _Own:
    def __init__(self, parts: ReceivingParts) -> None:
        self._parts = parts

    async def state(self, request: web.Request) -> web.Response:
        await self._parts.configured(number(request, "after", 0, 1 << 62, least=0))
        return json_answer(request, _state(self._parts).as_json())

    async def log(self, request: web.Request) -> web.Response:
        return json_answer(request, {"lines": log.recent.lines()})

    async def log_level(self, request: web.Request) -> web.Response:
        log.set_level((await json_body(request))["level"])
        return json_answer(request, {})


def _state(parts: ReceivingParts) -> ReceivingState:
    watched = [
        WatchedCounts(
            state.domain,
            {severity.value: state.result.count(severity) for severity in Severity},
            state.result.evidence.at,
        )
        for state in parts.watch.states.values()
        if state.result is not None
    ]
    expiries = [one.not_after for one in parts.public.certificates]
    imap = parts.receive.imap
    return ReceivingState(
        failures=dict(parts.failures()),
        unhandled=parts.counters.unhandled,
        log_counts=dict(log.recent.counts),
        checks=parts.checks.checks,
        watched=watched,
        receiving=parts.receive.receiving,
        intake=_intake(parts.receive.counters),
        alerts=dict(parts.receive.alert_counts),
        imap_last_success=None if imap is None else imap.last_success,
        public=asdict(parts.public.counters),
        certificate_expiry=min(expiries) if expiries else None,
        publish=asdict(parts.publish.counts),
    )


def _intake(found: IntakeCounters) -> dict[str, object]:
    names = ("received", "stored", "rejected", "deviations", "duplicates", "revisions", "foreign", "last_at")
    values = {name: getattr(found, name) for name in names}
    return {name: dict(value) if isinstance(value, dict) else value for name, value in values.items()}
