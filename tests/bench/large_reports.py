"""A million stored reports: the rate of intake, a domain's year on the page, and memory."""

import http.client
import json
import sqlite3
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from mtasts_daemon.tlsrpt.receive.queries import day_totals
from mtasts_daemon.tlsrpt.receive.sqlite_backend import open_sqlite
from tests.bench.checks import Servers, daemon_of, servers_of
from tests.bench.figures import Figure, median
from tests.bench.processes import await_listener, free_port, memory_of
from tests.bench.received import DOMAINS, REPORTERS, signed_mail
from tests.bench.reports import flood, key_of_reporter, receive_settings, until
from tests.tlsrpt.receive import corpus

__all__ = ["fill", "large_reports"]

_NUMBERED = f"""
    CREATE TEMP VIEW numbered AS
    WITH RECURSIVE count(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM count LIMIT {{count}})
    SELECT n, 'd' || (n % {DOMAINS}) || '.example' AS domain,
        'reporter' || (n / {DOMAINS} % {REPORTERS}) || '.example' AS reporter,
        date('now', '-' || (1 + n / {DOMAINS * REPORTERS} % 365) || ' days') AS day,
        CASE n % 10 WHEN 0 THEN 3 ELSE 0 END AS failed
    FROM count
"""
_ROWS = (
    "INSERT INTO document SELECT n + 1, randomblob(16), :now, 'lmtp', 'dkim', reporter, '', 'Reporter Inc.',"
    " 'tlsrpt@' || reporter, '', :body FROM numbered",
    "INSERT INTO report SELECT n + 1, n + 1, 1, reporter, domain, day, unixepoch(day), unixepoch(day) + 86399,"
    " day || '-' || n, randomblob(16), randomblob(16), 1, 1, 50, failed, 0, :now FROM numbered",
    "INSERT INTO detail SELECT n + 1, 0, 'sts', 'certificate-expired', failed, 'mx1.example.com', '2001:db8::1',"
    " '192.0.2.25', '', '', '' FROM numbered WHERE failed",
    "INSERT INTO share SELECT n + 1, '', '', 50, failed FROM numbered",
    "INSERT INTO share SELECT n + 1, 'certificate-expired', 'mx1.example.com', 0, failed FROM numbered WHERE failed",
    "INSERT INTO tally SELECT domain, day, reporter, '', '', count(*), sum(50), sum(failed) FROM numbered"
    " GROUP BY domain, day, reporter",
    "INSERT INTO tally SELECT domain, day, reporter, 'certificate-expired', 'mx1.example.com', count(*), 0, sum(failed)"
    " FROM numbered WHERE failed GROUP BY domain, day, reporter",
    "INSERT INTO day_total SELECT day, domain, result_type, sum(reports), sum(successful), sum(failed) FROM tally"
    " GROUP BY day, domain, result_type",
)
_YEAR = 365
_YEARS = 9


def fill(path: Path, count: int) -> None:
    """Create a reports database with ``count`` reports, spread over domains, reporters and the days of a year."""
    database = open_sqlite(str(path), time.time, print)
    with closing(sqlite3.connect(path)) as connection:
        with connection:
            connection.execute(_NUMBERED.format(count=count))
            for statement in _ROWS:
                body = zlib.compress(corpus.dumps(corpus.report()))
                connection.execute(statement, {"now": int(time.time()), "body": body} if ":now" in statement else {})
        # Otherwise the daemon reads a log as large as the file when it starts.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    days = day_totals("d0.example", "2000-01-01", "9999-12-31")
    if len(database.read(days)) != min(_YEAR, -(-count // (DOMAINS * REPORTERS))):
        raise RuntimeError("the large database lacks days")
    database.close()


def large_reports(folder: Path, count: int, seconds: float, turns: int) -> Iterator[Figure]:
    """Return the figures of a daemon with the large database, in turns with one with an empty database."""
    begun = time.monotonic()
    fill(folder / "large.sqlite", count)
    filled = time.monotonic() - begun
    key_of_reporter(folder)
    mails = [signed_mail(10**7 + number) for number in range(int(400 * seconds * turns))]
    parts = [mails[turn::turns] for turn in range(turns)]
    with servers_of(folder, 200) as servers:
        ratios, memory = [], 0
        for turn, part in enumerate(parts):
            (folder / f"empty{turn}").mkdir()
            empty, _ = _intake(folder, servers, folder / f"empty{turn}" / "received.sqlite", part, seconds)
            large, memory = _intake(folder, servers, folder / "large.sqlite", part, seconds)
            ratios.append(large / empty)
        note = f"{count} stored in {filled:.0f} s, {(folder / 'large.sqlite').stat().st_size >> 20} MiB"
        yield Figure("intake into a large database", median(ratios), "x empty", 0.8, note=note)
        yield Figure("memory of the daemon", memory, "MiB", 250, at_most=True, note="after that intake")
        yield from _pages(folder, servers)


def _intake(folder: Path, servers: Servers, path: Path, mails: list[bytes], seconds: float) -> tuple[float, int]:
    """Return reports per second by LMTP with DKIM, and the daemon's maximum resident memory in MiB."""
    socket = folder / "lmtp.sock"
    with daemon_of(folder, servers, receive_settings(socket, path)) as daemon:
        until(socket.exists)
        with flood(socket, mails) as done:
            time.sleep(seconds)
        return done[0] / seconds, memory_of(daemon.pid, "VmHWM") >> 20


def _pages(folder: Path, servers: Servers) -> Iterator[Figure]:
    """Return how long the page waits for all domains, and for one domain's year."""
    port = free_port()
    more = f"{receive_settings(folder / 'lmtp.sock', folder / 'large.sqlite')}\nadmin: {{listen: 127.0.0.1:{port}}}"
    with daemon_of(folder, servers, more):
        await_listener(port)
        years = [_taken(port, [f"/api/v1/received/d{n}.example?days={_YEAR}"]) for n in range(_YEARS)]
        lists = [
            _taken(port, [f"/api/v1/received/d{n}.example/reports?days={_YEAR}&trusted={t}&limit=50" for t in (0, 1)])
            for n in range(_YEARS)
        ]
        every = [_taken(port, [f"/api/v1/received?days={_YEAR}"]) for _ in range(_YEARS)]
    yield Figure("a domain's year on the page", median(years) * 1e3, "ms", 200, at_most=True)
    yield Figure("the lists of its reports", median(lists) * 1e3, "ms", 200, at_most=True)
    yield Figure("all domains' year on the page", median(every) * 1e3, "ms")


def _taken(port: int, paths: Sequence[str]) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    begun = time.perf_counter()
    for path in paths:
        connection.request("GET", path)
        answer = connection.getresponse()
        found = json.loads(answer.read())
        if answer.status != 200 or not (found.get("days") or found.get("domains") or "reports" in found):
            raise RuntimeError(f"{path}: {answer.status}")
    connection.close()
    return time.perf_counter() - begun
