"""Create the deliverer from the configuration, and the lock that allows one sending process per database.

Importing this module is slow, so the daemon imports it after it has started to answer lookups.
"""

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...clock import ClockStability
from ...config import Config
from ...config.secrets import read_secret
from ...config.sections.tlsrpt import TlsrptSettings
from ...errors import ConfigError
from ...https.untrusted_loop import UntrustedLoop
from ...ports import Clock, Resolver
from ..database.connection import TlsrptDatabase
from ..database.overview import DeliveryCounters
from .deliverer import Deliverer
from .https_delivery import HttpsDelivery
from .planner import DeliverySettings, Planner
from .smtp_delivery import SmtpServer

if TYPE_CHECKING:
    from ..model.signing import Signer

__all__ = ["SendingLock", "deliverer_for", "delivery_settings"]


def delivery_settings(settings: TlsrptSettings, environ: Mapping[str, str]) -> DeliverySettings:
    """Return the settings for sending, with the secrets read from their files. Raises ``ConfigError``."""
    return DeliverySettings(
        organization=settings.organization or "",
        contact=settings.contact or "",
        sender=settings.sender or "",
        smtp=SmtpServer(
            settings.smtp.host,
            settings.smtp.port,
            starttls=settings.smtp_starttls,
            user=settings.smtp_user or "",
            password=_password(settings, environ),
        ),
        signer=_signer(settings, environ),
        spread=settings.spread,
        retry_for=settings.retry_for,
        max_rua=settings.max_rua,
        failures_only=settings.failures_only,
        copy_to=settings.copy_to,
        exclude=frozenset(settings.exclude),
        retention=settings.retention,
    )


def _password(settings: TlsrptSettings, environ: Mapping[str, str]) -> str:
    if settings.smtp_password_file is None:
        return ""
    try:
        return read_secret(settings.smtp_password_file, environ).decode().strip("\r\n")
    except UnicodeDecodeError:
        raise ConfigError("smtp_password_file is not text") from None


def _signer(settings: TlsrptSettings, environ: Mapping[str, str]) -> "Signer | None":
    dkim = settings.dkim
    if dkim is None:
        return None
    try:
        # It needs the optional dependencies of the extra "dkim".
        from ..model.signing import Signer, load_key
    except ImportError as error:
        raise ConfigError(f"tlsrpt.dkim needs optional packages (pip install 'mtasts-daemon[dkim]'): {error}") from None
    return Signer(dkim.domain, dkim.selector, load_key(read_secret(dkim.key_file, environ)))


def deliverer_for(
    config: Config,
    environ: Mapping[str, str],
    database: TlsrptDatabase,
    resolver: Resolver,
    clock: Clock,
    counters: DeliveryCounters | None = None,
    stability: ClockStability | None = None,
    untrusted_loop: UntrustedLoop | None = None,
) -> Deliverer:
    """Return a deliverer for the reports of the database.

    ``counters`` and ``stability`` are continued if given. Raises ``ConfigError``.
    """
    planner = Planner(database, resolver, clock, delivery_settings(config.tlsrpt, environ))
    https_delivery = HttpsDelivery(
        resolver,
        clock,
        total=config.tlsrpt.https_timeout,
        ca_file=config.https.ca_file,
        allowed=config.https.allow_addresses,
        proxy=config.https.proxy,
        untrusted_loop=untrusted_loop,
    )
    return Deliverer(database, planner, https_delivery, clock, counters=counters, stability=stability)


class SendingLock:
    """Lock of the process that sends the reports of a database. The kernel releases it when the process ends."""

    def __init__(self, database: Path) -> None:
        # The folder is locked: closing a descriptor of the file itself would release SQLite's locks on it.
        self._fd: int | None = os.open(database.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def take(self) -> bool:
        """Acquire the lock without waiting. Return False if another process holds it or it is closed."""
        if self._fd is None:
            return False
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Release the lock."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
