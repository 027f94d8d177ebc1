"""The notifier as a part of the daemon: its channels follow the configuration."""

import asyncio
from collections.abc import Mapping

from ..clock import SystemClock
from ..config import Config
from .alert import Alert
from .delivery import channels_for
from .service import NotifyService

__all__ = ["NotifyPart"]


class NotifyPart:
    """An ``AlertSink``, and a part that lookups do not depend on."""

    name = "notify"

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.service = NotifyService(SystemClock())
        self._task: asyncio.Task[None] | None = None
        self._settings: object = None

    def __call__(self, alert: Alert, /) -> None:
        """Log the alert and queue it for each channel."""
        self.service(alert)

    async def configure(self, config: Config) -> None:
        """Use the channels of the configuration. Raises ``ConfigError``."""
        settings = (config.notify, config.https.ca_file)
        if settings == self._settings:
            return
        self.service.configure(channels_for(config, self._environ))
        self._settings = settings
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self.service.run(), name="notify")

    async def stop(self) -> None:
        """Stop; alerts that wait are lost with the process, but they are in the log."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
