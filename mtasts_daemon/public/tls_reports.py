"""The route by which others post TLS reports, RFC 8460 section 5.4."""

from collections.abc import Callable

from aiohttp import web

from ..tlsrpt.receive.https_intake import PostedReports
from .client_address import client_network
from .site import PublicHandler, PublicRequest

__all__ = ["tls_reports_handler"]


def tls_reports_handler(posted: PostedReports, accepts: Callable[[], bool]) -> PublicHandler:
    """Return the handler to mount at ``https_intake.PATH``; 404 while reports are not accepted."""

    async def answer(call: PublicRequest) -> web.Response:
        if not accepts():
            raise web.HTTPNotFound(text="no such page\n")
        found = await posted.answer(call.request.headers, call.body, str(client_network(call.client)))
        return web.Response(status=found.status, text=found.text, headers=dict(found.headers))

    return answer
