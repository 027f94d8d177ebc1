"""``mtastsctl tlsrpt import-log``: policies come from the daemon's store and from the daemon itself."""

import argparse
import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

from ..clock import SystemClock
from ..config import Config
from ..errors import FrameError
from ..store.policy_store import open_store_read_only
from ..text import utc_day
from ..tlsrpt.collect.log_file import LogFile, find_mark
from ..tlsrpt.collect.log_import import LogImport, SessionPolicies
from ..tlsrpt.database.connection import TlsrptDatabase
from .lookup_client import ask
from .output import print_error, print_json

__all__ = ["import_log", "local_now", "local_zone"]

_PATIENCE = 5.0
"""Seconds to wait for the daemon's reply."""


async def import_log(args: argparse.Namespace, config: Config, database: TlsrptDatabase) -> int:
    """Read the log from the last position to its end, or follow it. Return the exit code."""
    path = None if args.file == "-" else Path(args.file)
    interrupted = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Handled between batches, so that the stored results and the position agree.
        asyncio.get_running_loop().add_signal_handler(number, interrupted.set)
    async with _log_import(config, database, args.smarthost) as log:
        with LogFile(path) as file:
            await _begin(args, path, file, log, database)
            for lines in file.batches(follow=args.follow):
                await log.take(lines, local_now(), file.mark())
                await asyncio.sleep(0)  # lets signal handlers run
                if interrupted.is_set():
                    print_error(0, "interrupted; the results so far are kept")
                    break
        log.commit(local_now())
    if args.json:
        return print_json(log.counters)
    for line in _summary(log.counters):
        print_error(0, line)
    return os.EX_OK


async def _begin(
    args: argparse.Namespace, path: Path | None, file: LogFile, log: LogImport, database: TlsrptDatabase
) -> None:
    """Seek to the position where reading starts."""
    mark, rotated = (None, False) if path is None or args.again else await find_mark(database, file)
    if mark is not None:
        print_error(0, f"{path}: resuming at byte {mark.offset:,}")
        log.recall(file.begin_at(mark), local_now())
    elif rotated:
        print_error(0, f"{path}: a new file since the last import; import the rotated file too for its last lines")
    elif args.follow and not args.again:
        file.begin_at_end()


@asynccontextmanager
async def _log_import(config: Config, database: TlsrptDatabase, smarthosts: Sequence[str]) -> AsyncIterator[LogImport]:
    """Open the importer of one log. Raise StoreError if the daemon's policies cannot be read."""
    since = utc_day(time.time() - config.tlsrpt.retention)
    names = [host.lower().strip("[]") for host in smarthosts]
    store = await open_store_read_only(config.store.file(os.environ))
    try:
        policies = SessionPolicies(store.get, _Daemon(config).answer, SystemClock())
        yield LogImport(database, policies, since=since, smarthosts=names)
    finally:
        await store.close()


class _Daemon:
    """Lookups in the running daemon. After the first failure no more are tried."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._servers = [listen for listen in config.listen if listen.protocol == "socketmap"]

    def answer(self, domain: str) -> str | None:
        """Return the reply for the domain, or None if the daemon does not answer."""
        while self._servers:
            try:
                return ask(self._servers[0], self._config.default_zone, domain, _PATIENCE).text
            except (OSError, FrameError):
                del self._servers[0]
                if not self._servers:
                    print_error(
                        0,
                        "the daemon does not answer, so DANE is unknown; stored policies count as applied",
                    )
        return None


def local_now() -> datetime:
    """Return the time in the zone in which syslog on this host writes."""
    return datetime.now(local_zone())


def local_zone() -> tzinfo:
    """Return this host's time zone including daylight saving time, which a fixed offset would lose."""
    try:
        if name := os.environ.get("TZ", "").lstrip(":"):
            return ZoneInfo(name)
        with Path("/etc/localtime").open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError, KeyError):
        return datetime.now().astimezone().tzinfo or UTC


_SENTENCES = (
    ("sessions", "TLS sessions, {failures:,} of them failed"),
    ("attempts", "attempts without a session"),
    ("plaintext", "deliveries without TLS, which are not reported"),
    ("native", "sessions that Postfix reports itself, ignored"),
    ("smarthost", "sessions with a smart host, ignored"),
    ("left_to_daemon", "attempts that the daemon collects itself, ignored"),
    ("too_old", "sessions of days outside the retention period"),
    ("tlsa_unknown", "sessions under DANE, whose TLSA records are not logged"),
    ("undated", "lines without a readable date"),
    ("dropped", "sessions without a logged recipient"),
    ("refused", "sessions over the limit of domains per day"),
)


def _summary(counters: Counter[str]) -> Iterator[str]:
    """Yield the lines of the summary, with a note on what logs lack."""
    yield f"{counters['lines']:,} lines"
    for name, sentence in _SENTENCES:
        if counters[name] or name == "sessions":
            yield f"{counters[name]:,} {sentence.format(failures=counters['failures'])}"
    if counters["failures"]:
        yield "not logged, so missing in the report: the sending address and the name in the server's greeting"
