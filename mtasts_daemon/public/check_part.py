"""The check page as a part of the daemon: mounted on the public listener if ``public.check`` is true."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..config import Config
from ..diagnose.check.evidence import CheckEvidence
from ..diagnose.check.service import CheckService
from .server import PublicServer

if TYPE_CHECKING:  # its imports are for the public thread
    from ..diagnose.check.gather import CheckStep
    from .check_page import PublicCheck

__all__ = ["PublicCheckPart"]

_MAX_AGE = 300.0
_SECONDS = 20.0


class PublicCheckPart:
    """Checks of strangers cannot reach the networks of ``https.allow_addresses``."""

    name = "public-check"

    def __init__(self, server: PublicServer, shared: CheckService) -> None:
        self._server = server
        self._shared = shared
        self._own = CheckService()
        self._restricted = False
        self._page: PublicCheck | None = None

    async def configure(self, config: Config) -> None:
        """Mount the page, or stop answering."""
        self._restricted = bool(config.https.allow_addresses)
        https = config.https.model_copy(update={"allow_addresses": ()})
        await self._own.configure(config.model_copy(update={"https": https}))
        if config.public.check and self._page is None:
            from .check_page import PublicCheck

            self._page = PublicCheck(self._evidence)
            self._server.add_route("GET", "/check", self._page.form)
            self._server.add_route("GET", "/check/", self._page.result, seconds=_SECONDS)
        if self._page is not None:
            self._page.enabled = config.public.check

    async def stop(self) -> None:
        """Cancel the checks of strangers."""
        await self._own.stop()

    async def _evidence(self, domain: str, *, on_step: "Callable[[CheckStep], None]") -> CheckEvidence:
        """Check for a stranger. Without private networks, sessions are shared with the operator's checks."""
        service = self._own if self._restricted else self._shared
        return await service.evidence(domain, max_age=_MAX_AGE, on_step=on_step)
