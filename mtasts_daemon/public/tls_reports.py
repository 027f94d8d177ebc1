"""The route by which others post TLS reports, RFC 8460 section 5.4."""

from typing import TYPE_CHECKING

from ..tlsrpt.receive.https_intake import MAX_BODY, PATH, PostedReports
from ..tlsrpt.receive.service import ReceiveService
from .server import PublicServer

if TYPE_CHECKING:  # aiohttp is imported on the public thread
    from aiohttp import web

    from .site import PublicRequest

__all__ = ["mount_tls_reports"]


def mount_tls_reports(public: PublicServer, receive: ReceiveService) -> None:
    """Answer POST at ``/v1/tls-reports``; 404 while ``receive.accept_https`` is false."""
    posted = PostedReports(receive.take_body, lambda: receive.token)

    async def answer(call: "PublicRequest") -> "web.Response":
        from aiohttp import web

        if not receive.accepts_https:
            raise web.HTTPNotFound(text="no such page\n")
        found = await posted.answer(call.request.headers, call.body)
        return web.Response(status=found.status, text=found.text, headers=dict(found.headers))

    public.add_route("POST", PATH, answer, max_body=MAX_BODY)
