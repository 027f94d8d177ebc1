"""TLS results over HTTP, for the charts of the status page.

``GET /api/v1/tls-results``   as ``tlsrpt.database.results`` documents it; parameter days (1 to 366, default 30)
"""

from typing import Any

from aiohttp import web

from ..tlsrpt.database.results import MAX_DAYS
from .http import Handler, HttpProblem, json_answer
from .service import AdminService

__all__ = ["tls_routes"]

_DAYS = 30


def tls_routes(control: AdminService) -> list[web.RouteDef]:
    """Return the routes."""
    return [web.get("/api/v1/tls-results", _results(control))]


def _results(control: AdminService) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        text = request.query.get("days", str(_DAYS))
        if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= MAX_DAYS):
            raise HttpProblem(400, "bad-parameter", f"days is a number from 1 to {MAX_DAYS}")
        found: dict[str, Any] = await control.tls_results(int(text))
        return json_answer(request, found)

    return answer
