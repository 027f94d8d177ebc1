"""Receiving TLS reports as one part of the daemon. Failures here do not affect lookups.

The database, the intake and its inputs run on separate threads. The main loop starts and stops them, looks up
keys in DNS for them, and evaluates the alerts.
"""

import asyncio
import importlib
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ...clock import ClockStability
from ...config import Config
from ...config.domain_lines import read_domain_lines
from ...config.files import read_token
from ...config.secrets import read_secret, secret_path
from ...config.sections.receive import ReceiveSettings
from ...errors import ConfigError, StoreError
from ...log import log_event
from ...notify.alert import AlertSink, no_alerts
from ...policy.dns_answer import DnsAnswer
from ...ports import Clock, Resolver
from ...sockets import bind_unix
from .alert_evaluation import evaluate_alerts
from .authentication import Authentication
from .database import Job, ReportsDatabase
from .intake import Intake, IntakeCounters, IntakeSettings
from .key_cache import KeyCache
from .model import ReportSource
from .retention import Retention, expire
from .thread import ReceiveThread
from .writes import Accepted

if TYPE_CHECKING:
    from .imap import ImapAccount, ImapPoller
    from .lmtp import LmtpServer

__all__ = [
    "ReceiveService",
    "ReportsUnavailable",
    "has_own_domains",
    "intake_settings",
    "open_reports",
    "published_in_file",
]

T = TypeVar("T")

_FIRST_SECONDS, _MAINTENANCE_SECONDS = 5.0, 600.0
"""Seconds from the start to the first evaluation of alerts, and from each to the next."""
_STEADY_AFTER = 3600.0
"""Seconds for which the wall clock must have been steady before reports are removed by it."""

_LMTP = "mtasts_daemon.tlsrpt.receive.lmtp"
_IMAP = "mtasts_daemon.tlsrpt.receive.imap"

_LIVE = (
    "own_domains",
    "authserv_ids",
    "retention",
    "details_retention",
    "max_reports_per_submitter",
    "max_unauthenticated",
)
"""Settings that are taken over without a restart of the inputs."""


class ReportsUnavailable(StoreError):
    """No TLS reports are received."""

    slug = "reports-unavailable"


def has_own_domains(config: Config) -> bool:
    """Return True if the configuration has own domains, whose reports are kept. Published domains are own domains."""
    return bool(config.receive.own_domains or config.publish.domains or config.publish.domains_file)


def published_in_file(config: Config) -> Callable[[str], bool]:
    """Read ``publish.domains_file`` and return a predicate for its domains. Raises ``ConfigError``."""
    path = config.publish.domains_file
    if path is None:
        return frozenset[str]().__contains__
    try:
        return read_domain_lines(path).domains.__contains__
    except OSError as error:
        raise ConfigError(f"publish.domains_file: {path} cannot be read: {error.strerror or error}") from None


def intake_settings(config: Config, is_published: Callable[[str], bool]) -> IntakeSettings:
    """Return the settings of the intake. ``is_published``: for the domains of ``publish.domains_file``."""
    settings = config.receive
    return IntakeSettings(
        domains=frozenset(settings.own_domains) | frozenset(config.publish.domains),
        is_published=is_published,
        authserv_ids=frozenset(settings.authserv_ids),
        quota=settings.max_reports_per_submitter,
        quota_untrusted=settings.max_unauthenticated,
    )


def open_reports(config: Config, environ: Mapping[str, str], *, read_only: bool = False) -> ReportsDatabase:
    """Open the database that the configuration names. Raises ``StoreError``."""
    settings = config.receive

    def on_problem(problem: str) -> None:
        log_event("tlsrpt-received-database-problem", level=logging.WARNING, error=problem)

    if settings.postgresql is not None:
        backend = importlib.import_module("mtasts_daemon.tlsrpt.receive.postgresql_backend")
        opened: ReportsDatabase = backend.open_postgresql(settings.postgresql, read_only=read_only)
        return opened
    backend = importlib.import_module("mtasts_daemon.tlsrpt.receive.sqlite_backend")
    path = settings.file(config.store.file(environ))
    database: ReportsDatabase = backend.open_sqlite(str(path), time.time, on_problem, read_only=read_only)
    return database


@dataclass(slots=True)
class _Running:
    """The parts that were started for one configuration."""

    config: Config
    database: ReportsDatabase
    thread: ReceiveThread
    intake: Intake
    lmtp: "LmtpServer | None" = None
    imap: "ImapPoller | None" = None
    lmtp_path: str = ""


class ReceiveService:
    """Receives reports while the configuration names own domains. Made and used on the main loop."""

    name = "tls-report-receiver"

    def __init__(
        self,
        environ: Mapping[str, str],
        resolver: Callable[[], Resolver],
        clock: Clock,
        alert: AlertSink = no_alerts,
        inherited: Sequence[socket.socket] = (),
        is_published: Callable[[str], bool] = lambda _domain: False,
    ) -> None:
        """``inherited``: listening Unix sockets for LMTP that the service manager passed and keeps.

        ``is_published`` returns True for a domain that is published now. It is called on any thread.
        """
        self.counters = IntakeCounters()
        self.alert = alert
        self.alert_counts: Mapping[str, int] = {}
        """Alerts that hold, by kind, as of the last evaluation."""
        self._environ = environ
        self._resolver = resolver
        self._clock = clock
        self._inherited = inherited
        self._is_published = is_published
        self._config: Config | None = None
        self._running: _Running | None = None
        self._main = asyncio.get_running_loop()
        self._readers = ThreadPoolExecutor(2, "received-reports")
        self._token: str | None = None
        self._stability = ClockStability(clock.wall(), clock.monotonic())

    # -- the part ----------------------------------------------------------------------------------------------

    async def configure(self, config: Config) -> None:
        """Start, stop or change the inputs. Raises OSError or MtaStsError; the daemon tries again."""
        settings = config.receive
        self._token = self._read_token(settings)
        self._config = config
        wanted = has_own_domains(config) and self._has_input(settings)
        if self._running is not None and (not wanted or _restart_needed(self._running.config, config)):
            await self._stop_running()
        if not wanted:
            return
        if self._running is None:
            self._running = await self._start(config)
        self._running.intake.settings = intake_settings(config, self._is_published)

    def _has_input(self, settings: ReceiveSettings) -> bool:
        # With only domains configured, reports arrive by the command and are shown.
        return bool(settings.own_domains) or settings.has_input or bool(self._inherited)

    def _read_token(self, settings: ReceiveSettings) -> str | None:
        if settings.fleet_token_file is None:
            return None
        try:
            return read_token(secret_path(settings.fleet_token_file, self._environ))
        except ValueError as error:
            raise ConfigError(f"receive.fleet_token_file: {error}") from None

    async def _start(self, config: Config) -> _Running:
        database = await asyncio.to_thread(open_reports, config, self._environ)
        thread = ReceiveThread()
        running = None
        try:
            intake = await thread.run(self._make_intake(database, config))
            running = _Running(config, database, thread, intake)
            await self._start_lmtp(running, config.receive)
            await self._start_imap(running, config)
        except BaseException:
            if running is not None and running.lmtp is not None:
                with suppress(RuntimeError):
                    await thread.run(running.lmtp.close())
            await asyncio.to_thread(thread.stop)
            await asyncio.to_thread(database.close)
            raise
        log_event("tlsrpt-receiver-started", domains=len(running.intake.settings.domains))
        return running

    async def _make_intake(self, database: ReportsDatabase, config: Config) -> Intake:
        keys, settings = KeyCache(self._lookup_txt, self._clock.monotonic), intake_settings(config, self._is_published)
        return Intake(database, settings, keys, self._clock.wall, self.counters)

    async def _start_lmtp(self, running: _Running, settings: ReceiveSettings) -> None:
        # The name of a Unix socket is its path.
        passed = {str(sock.getsockname()): sock for sock in self._inherited}
        path = str(settings.lmtp_socket or next(iter(passed), ""))
        if not path:
            return
        lmtp = await asyncio.to_thread(_imported, _LMTP, "aiosmtpd")
        # The server closes its socket, but the inherited one must stay open.
        sock = passed[path].dup() if path in passed else _bound_lmtp(path, settings)
        server: LmtpServer = lmtp.LmtpServer(running.intake)
        await running.thread.run(server.start(sock))
        running.lmtp, running.lmtp_path = server, "" if path in passed else path
        log_event("tlsrpt-receiver-listening", address=f"lmtp:unix:{path}")

    async def _start_imap(self, running: _Running, config: Config) -> None:
        if config.receive.imap is None:
            return
        module = await asyncio.to_thread(importlib.import_module, _IMAP)
        account = self._imap_account(module.ImapAccount, config)
        poller: ImapPoller = module.ImapPoller(account, running.intake, running.database, self._clock.wall)
        running.imap = poller
        running.thread.spawn(poller.run, "imap")

    def _imap_account(self, make: Any, config: Config) -> "ImapAccount":
        settings, environ = config.receive.imap, self._environ
        assert settings is not None

        def password() -> str:
            return read_secret(settings.password_file, environ).decode("utf-8", "replace").strip()

        def context() -> ssl.SSLContext:
            return ssl.create_default_context(cafile=config.https.ca_file and str(config.https.ca_file))

        account: ImapAccount = make(
            host=settings.server.host,
            port=settings.server.port,
            user=settings.user,
            mailbox=settings.mailbox,
            password=password,
            every=settings.every,
            context=context,
        )
        return account

    async def stop(self) -> None:
        """Stop accepting, commit the received reports, and close the database."""
        await self._stop_running()
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def _stop_running(self) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        if running.lmtp is not None:
            # Before it is closed: from then on, the next process may bind the path.
            if running.lmtp_path:
                with suppress(OSError):
                    await asyncio.to_thread(_unlink, running.lmtp_path)
            with suppress(RuntimeError):
                await running.thread.run(running.lmtp.close())
        await asyncio.to_thread(running.thread.stop)
        await asyncio.to_thread(running.database.close)

    # -- for other parts ---------------------------------------------------------------------------------------

    @property
    def receiving(self) -> bool:
        """True while reports are received."""
        return self._running is not None and self._running.thread.is_alive()

    @property
    def imap(self) -> Any:
        """Counters of the IMAP poll, or None."""
        return None if self._running is None or self._running.imap is None else self._running.imap.counters

    @property
    def token(self) -> str | None:
        """The token of own daemons. From any thread."""
        return self._token

    @property
    def accepts_https(self) -> bool:
        """True if reports may be posted. From any thread."""
        config = self._config
        return self.receiving and config is not None and config.receive.accept_https

    async def read(self, job: Job[T]) -> T:
        """Read from the database. Raises ``StoreError``."""
        if self._running is None:
            raise ReportsUnavailable("reports are not received: see the section receive of the configuration")
        # Not the loop's own executor: a disk that hangs must not stop what else runs there.
        return await self._main.run_in_executor(self._readers, self._running.database.read, job)

    async def write(self, job: Job[T]) -> T:
        """Write to the database. Raises ``StoreError``."""
        if self._running is None:
            raise ReportsUnavailable("reports are not received: see the section receive of the configuration")
        result: T = await asyncio.wrap_future(self._running.database.submit(job))
        return result

    async def take_body(self, data: bytes, source: ReportSource, verdict: Authentication) -> Accepted:
        """Take a posted report. From the loop of any thread. Raises what ``Intake.take_body`` does."""
        running = self._running
        if running is None:
            raise ReportsUnavailable
        return await running.thread.run(running.intake.take_body(data, source, verdict))

    async def _lookup_txt(self, name: str) -> DnsAnswer[bytes]:
        """Look up TXT records on the main loop, for the receive thread."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._txt(name), self._main))

    async def _txt(self, name: str) -> DnsAnswer[bytes]:
        return await self._resolver().txt(name)

    # -- in the background -------------------------------------------------------------------------------------

    async def run(self, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        """Remove expired reports and evaluate the alerts, until cancelled."""
        wait = _FIRST_SECONDS
        while True:
            await sleep(wait)
            wait = _MAINTENANCE_SECONDS
            if self._running is not None and self._config is not None:
                if not self._running.thread.is_alive():
                    await self._stop_running()
                    self._running = await self._start(self._config)
                try:
                    await self.maintain()
                except StoreError as error:
                    log_event(
                        "tlsrpt-received-database-failed", level=logging.ERROR, once_a_minute="maintain", error=error
                    )

    async def maintain(self) -> None:
        """Remove expired reports and evaluate the alerts once. Raises ``StoreError``."""
        assert self._config is not None
        settings = self._config.receive
        retention = Retention(int(settings.retention), int(settings.details_retention))
        now, monotonic = self._clock.wall(), self._clock.monotonic()
        self._stability.set_by(now, monotonic)
        # With a clock that is years ahead every report looks expired.
        while self._stability.lasts(monotonic, _STEADY_AFTER) and await self.write(expire(now, retention)):
            pass
        self.alert_counts = await evaluate_alerts(self.read, self.write, self._clock.wall(), self.alert)


def _restart_needed(old: Config, new: Config) -> bool:
    """Return True if the inputs or the database changed."""
    fixed = [name for name in ReceiveSettings.model_fields if name not in _LIVE]
    return any(getattr(old.receive, name) != getattr(new.receive, name) for name in fixed) or (
        old.store.path != new.store.path or old.https.ca_file != new.https.ca_file
    )


def _imported(module: str, library: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{library} is not installed ({error}); install mtasts-daemon[receive]") from None


def _bound_lmtp(path: str, settings: ReceiveSettings) -> socket.socket:
    try:
        return bind_unix(
            path, socket.SOCK_STREAM, settings.lmtp_mode, settings.lmtp_owner or "", settings.lmtp_group or ""
        )
    except (OSError, LookupError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(getattr(error, "errno", None), f"cannot receive reports on {path}: {reason}") from None


def _unlink(path: str) -> None:
    Path(path).unlink()
