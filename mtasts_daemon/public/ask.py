"""``GET /ask?domain=NAME`` for Caddy's on-demand TLS: may a certificate be requested for the name?

Only trusted proxies and programs of this host may ask, not their clients: the answer shows which names are published,
and causes DNS lookups. 200 only for a published policy host that resolves to this host.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable

from aiohttp import web

from .site import PublicHandler, PublicRequest

__all__ = ["ASK_PATH", "ask_handler"]

ASK_PATH = "/ask"
_HOLD_SECONDS = 60.0
_MAX_KNOWN = 10_000


def ask_handler(may_have: Callable[[str], Awaitable[bool]], monotonic: Callable[[], float]) -> PublicHandler:
    """Return the handler; ``may_have`` says whether a name is published and resolves here, and may take a while."""
    known: OrderedDict[str, tuple[float, bool]] = OrderedDict()

    async def ask(call: PublicRequest) -> web.Response:
        forwarded = any(name in call.request.headers for name in ("X-Forwarded-For", "Forwarded", "Via"))
        if not call.from_proxy or forwarded:
            raise web.HTTPNotFound(text="not found")
        name = call.request.query.get("domain", "").lower().removesuffix(".")
        if not name or len(name) > 253 or not name.isascii():
            raise web.HTTPBadRequest(text="domain is missing or not a host name")
        at, allowed = known.get(name, (float("-inf"), False))
        if monotonic() - at > _HOLD_SECONDS:
            allowed = await may_have(name)
            known.pop(name, None)
            while len(known) >= _MAX_KNOWN:
                known.popitem(last=False)
            known[name] = monotonic(), allowed
        if not allowed:
            raise web.HTTPNotFound(text="not published here, or the name does not resolve to this host")
        return web.Response(text="ok\n")

    return ask
