"""The public check page: strangers type a domain and see how it looks to a sender. Off by default.

=============================== ======================================================================================
``GET /check``                  the form; with ``domain=`` a redirect to the result
``GET /check/DOMAIN``           the result, or a page that loads itself again while the check runs; a link to share
``GET /check/DOMAIN?json=1``    the result as ``mtastsctl check --json`` prints it; 202 while the check runs
=============================== ======================================================================================

Handlers run on the public thread, checks on the check thread. The daemon's state is not read.
"""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from aiohttp import web

from ..diagnose.check.evidence import CheckEvidence
from ..diagnose.check.result import CheckResult, judge
from ..errors import MtaStsError
from ..policy.user_input import parse_user_domain
from ..text import sanitize
from .check_html import CONTENT_SECURITY_POLICY, form_page, message_page, result_page, waiting_page
from .check_limits import CheckLimits
from .client_address import client_network
from .site import PublicRequest

if TYPE_CHECKING:
    from ..diagnose.check.gather import CheckStep

__all__ = ["PublicCheck"]

_HOLD_SECONDS = 300.0
_MAX_RESULTS = 500
_MAX_RUNNING = 32
_WAIT_SECONDS = 3.0
_RELOAD_SECONDS = 2

GatherEvidence = Callable[..., Awaitable[CheckEvidence]]


@dataclass(slots=True)
class _RunningCheck:
    task: "asyncio.Task[CheckResult]"
    step: str = ""


class PublicCheck:
    """The handlers. ``gather`` takes a domain and ``on_step``; it may be awaited on any event loop."""

    def __init__(self, gather: GatherEvidence, limits: CheckLimits | None = None) -> None:
        self.enabled = False
        self._gather = gather
        self._limits = limits or CheckLimits()
        self._running: dict[str, _RunningCheck] = {}
        self._results: OrderedDict[str, tuple[float, CheckResult | str]] = OrderedDict()

    async def form(self, call: PublicRequest) -> web.Response:
        """Answer ``GET /check``."""
        self._check_enabled()
        text = call.request.query.get("domain", "").strip()
        if not text:
            return _html(form_page())
        try:
            domain = parse_user_domain(text)
        except ValueError as error:
            return _html(message_page("Not a domain", f"{sanitize(text)}: {error}"), 400)
        return web.Response(status=303, headers={**_HEADERS, "Location": f"/check/{quote(domain)}"})

    async def result(self, call: PublicRequest) -> web.Response:
        """Answer ``GET /check/DOMAIN``."""
        self._check_enabled()
        as_json = call.request.query.get("json") == "1"
        text = call.request.path.removeprefix("/check/")
        try:
            domain = parse_user_domain(text)
        except ValueError as error:
            return _message(as_json, 400, "Not a domain", f"{sanitize(text)}: {error}")
        now = asyncio.get_running_loop().time()
        known = self._known(domain, now)
        if known is None:
            refused = self._start(domain, call.client, now)
            if refused is not None:
                wait = max(1, int(refused) + 1)
                response = _message(as_json, 429, "Too many checks", f"Too many checks. Try again in {wait} seconds.")
                response.headers["Retry-After"] = str(wait)
                return response
            await asyncio.wait([self._running[domain].task], timeout=_WAIT_SECONDS)
            known = self._known(domain, asyncio.get_running_loop().time())
        if known is None:
            return self._waiting(domain, as_json)
        at, found = known
        if isinstance(found, str):
            return _message(as_json, 503, "Not checked", f"{domain}: {found}")
        if as_json:
            return _json(found.as_json())
        return _html(result_page(found, asyncio.get_running_loop().time() - at))

    def _check_enabled(self) -> None:
        if not self.enabled:
            raise web.HTTPNotFound(text="not found")

    def _known(self, domain: str, now: float) -> tuple[float, CheckResult | str] | None:
        known = self._results.get(domain)
        return known if known is not None and now - known[0] < _HOLD_SECONDS else None

    def _start(self, domain: str, client: str, now: float) -> float | None:
        """Start a check unless one runs; return the seconds to wait if a limit is reached."""
        if domain in self._running:
            return None
        if len(self._running) >= _MAX_RUNNING:
            return 10.0
        wait = self._limits.admit(client_network(client), now)
        if wait:
            return wait
        loop = asyncio.get_running_loop()
        running = _RunningCheck(loop.create_task(self._check(domain), name=f"check {domain}"))
        self._running[domain] = running
        running.task.add_done_callback(lambda done: self._finish(domain, done))
        return None

    async def _check(self, domain: str) -> CheckResult:
        loop = asyncio.get_running_loop()

        def on_step(step: "CheckStep") -> None:  # on the check thread
            loop.call_soon_threadsafe(self._note, domain, f"{step.name} {step.subject}: {step.found}")

        return judge(await self._gather(domain, on_step=on_step))

    def _note(self, domain: str, step: str) -> None:
        running = self._running.get(domain)
        if running is not None:
            running.step = sanitize(step)

    def _finish(self, domain: str, task: "asyncio.Task[CheckResult]") -> None:
        self._running.pop(domain, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            found: CheckResult | str = task.result()
        elif isinstance(error, TimeoutError):
            found = "the check did not finish in time"
        elif isinstance(error, MtaStsError):
            found = "too many checks are under way; try again later"
        else:
            found = "the check failed"
        self._results.pop(domain, None)
        while len(self._results) >= _MAX_RESULTS:
            self._results.popitem(last=False)
        # A failure of this host is cached briefly.
        age = 0.0 if isinstance(found, CheckResult) else _HOLD_SECONDS - 30.0
        self._results[domain] = asyncio.get_running_loop().time() - age, found

    def _waiting(self, domain: str, as_json: bool) -> web.Response:
        running = self._running.get(domain)
        step = running.step if running is not None else ""
        if as_json:
            response = _json({"domain": domain, "running": True, "step": step}, 202)
        else:
            response = _html(waiting_page(domain, step), 202)
            response.headers["Refresh"] = str(_RELOAD_SECONDS)
        response.headers["Retry-After"] = str(_RELOAD_SECONDS)
        return response


def _message(as_json: bool, status: int, title: str, text: str) -> web.Response:
    return _json({"error": text}, status) if as_json else _html(message_page(title, text), status)


def _html(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, content_type="text/html", charset="utf-8", headers=_HEADERS)


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(value), status=status, content_type="application/json", headers=_HEADERS)


_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex",
}
