"""The importing of a mail log, with the daemon's store and the daemon itself to ask for policies."""

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

from ..config import Config
from ..errors import FrameError
from ..store.policy_store import open_store_read_only
from ..tlsrpt.collect.log_file import LogFile, find_mark
from ..tlsrpt.collect.log_import import LogImport, Policies
from ..tlsrpt.database.connection import TlsrptDatabase, day_of
from .lookup_client import ask
from .output import print_error, say_json

__all__ = ["import_log", "local_now", "local_zone"]

_PATIENCE = 5.0
"""Seconds to wait for the daemon's answer."""


async def import_log(args: argparse.Namespace, config: Config, database: TlsrptDatabase) -> int:
    """Read the log from where it was left to its end, or for ever, and sum it up; the exit code."""
    path = None if args.file == "-" else Path(args.file)
    interrupted = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Between batches, so that what is kept and how far was read agree.
        asyncio.get_running_loop().add_signal_handler(number, interrupted.set)
    async with _log_import(config, database, args.smarthost) as log:
        with LogFile(path) as file:
            await _begin(args, path, file, log, database)
            for lines in file.batches(follow=args.follow):
                await log.take(lines, local_now(), file.mark())
                await asyncio.sleep(0)  # where signals are heard
                if interrupted.is_set():
                    print_error(0, "interrupted; what was read is kept")
                    break
        log.commit(local_now())
    if args.json:
        return say_json(log.counters)
    for line in _told(log.counters):
        print_error(0, line)
    return os.EX_OK


async def _begin(
    args: argparse.Namespace, path: Path | None, file: LogFile, log: LogImport, database: TlsrptDatabase
) -> None:
    """Go to where the reading is to begin."""
    mark, rotated = (None, False) if path is None or args.again else await find_mark(database, file)
    if mark is not None:
        print_error(0, f"{path}: goes on where it was left, {mark.offset:,} octets from its beginning")
        log.recall(file.begin_at(mark), local_now())
    elif rotated:
        print_error(0, f"{path}: a new file since it was last read; for what came last to the old one, import that too")
    elif args.follow and not args.again:
        file.begin_at_end()


@asynccontextmanager
async def _log_import(config: Config, database: TlsrptDatabase, smarthosts: Sequence[str]) -> AsyncIterator[LogImport]:
    """The importer of one log. Raises ``StoreError`` where the daemon's policies cannot be read."""
    since = day_of(time.time() - config.tlsrpt.retention)
    names = [host.lower().strip("[]") for host in smarthosts]
    store = await open_store_read_only(config.store.file(os.environ))
    try:
        yield LogImport(database, Policies(store.get, _Daemon(config).answer), since=since, smarthosts=names)
    finally:
        await store.close()


class _Daemon:
    """The running daemon, asked as Postfix does; once it cannot be, it is no more."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._servers = [listen for listen in config.listen if listen.protocol == "socketmap"]

    def answer(self, domain: str) -> str | None:
        """What Postfix is told about the domain; None where the daemon cannot be asked."""
        while self._servers:
            try:
                return ask(self._servers[0], self._config.default_zone, domain, _PATIENCE).text
            except (OSError, FrameError):
                del self._servers[0]
                if not self._servers:
                    print_error(
                        0, "the daemon cannot be asked whether DANE took precedence; its policies count as applied"
                    )
        return None


def local_now() -> datetime:
    """Now, in the zone in which syslog on this host writes times."""
    return datetime.now(local_zone())


def local_zone() -> tzinfo:
    """This host's time zone with its summer times, which the offset of today alone would lose."""
    try:
        if name := os.environ.get("TZ", "").lstrip(":"):
            return ZoneInfo(name)
        with Path("/etc/localtime").open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError, KeyError):
        return datetime.now().astimezone().tzinfo or UTC


_TOLD = (
    ("sessions", "TLS sessions, {failures:,} of them failed"),
    ("attempts", "attempts that came to no session"),
    ("plaintext", "deliveries without TLS, which no report tells of"),
    ("native", "sessions that Postfix reports itself, left to it"),
    ("smarthost", "sessions with a smart host, left out"),
    ("left_to_daemon", "attempts that the daemon's own lookups tell of, left to it"),
    ("too_old", "sessions of days that are no longer kept"),
    ("tlsa_unknown", "sessions under DANE, whose TLSA records are in no log"),
    ("undated", "lines without a date that can be read"),
    ("dropped", "sessions whose recipient was not told"),
    ("refused", "sessions of more domains than a day may have"),
)


def _told(counters: Counter[str]) -> Iterator[str]:
    """What was found, and what no log says."""
    yield f"{counters['lines']:,} lines"
    for name, sentence in _TOLD:
        if counters[name] or name == "sessions":
            yield f"{counters[name]:,} {sentence.format(failures=counters['failures'])}"
    if counters["failures"]:
        yield "not known, as no log has them: the sending address, and the name that the server greets with"
