from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mtasts_daemon.policy.cache_entry import CacheEntry
from mtasts_daemon.tlsrpt.collect.log_import import LogImport, SessionPolicies
from mtasts_daemon.tlsrpt.database.connection import TlsrptDatabase, open_database
from mtasts_daemon.tlsrpt.model.event import PolicyType
from mtasts_daemon.tlsrpt.model.tally import PolicyRows
from tests.fakes.clock import FakeClock
from tests.fakes.fetcher import policy_text
from tests.fakes.store import BODY, policy_entry

NOW = datetime(2026, 11, 24, 18, tzinfo=UTC)
DAY = "2026-11-24"
MX = "mx.example.com[192.0.2.1]:25"
GOOD = (
    f"Verified TLS connection established to {MX}: TLSv1.3",
    f"4A1B2C3D: to=<u@example.com>, relay={MX}, delay=1, dsn=2.0.0, status=sent (250 ok)",
)
TRUSTED = (GOOD[0].replace("Verified", "Trusted"), GOOD[1])
BAD = (
    f"certificate verification failed for {MX}: self-signed certificate",
    f"Untrusted TLS connection established to {MX}: TLSv1.3",
    f"4A1B2C3D: to=<u@example.com>, relay={MX}, delay=1, dsn=4.7.5, status=deferred (Server certificate not verified)",
)
LOOKUP = "warning: TLS policy lookup for example.com/mx.example.com: "


def smtp(*texts: str, at: str = "2026-11-24T15:00:00+00:00") -> list[str]:
    return [f"{at} host postfix/smtp[7]: {text}" for text in texts]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[TlsrptDatabase]:
    opened = open_database(tmp_path / "tlsrpt.sqlite", now=NOW.timestamp())
    yield opened
    opened.close_now()


def entry(body: bytes = BODY) -> CacheEntry:
    return policy_entry("example.com", at=NOW.timestamp() - 86400, body=body)


async def imported(
    database: TlsrptDatabase,
    *lines: str,
    store: Mapping[str, CacheEntry] | None = None,
    answer: str | None = None,
    since: str = "",
    smarthosts: tuple[str, ...] = (),
) -> LogImport:
    async def stored(domain: str) -> CacheEntry | None:
        return (store or {}).get(domain)

    log = LogImport(
        database, SessionPolicies(stored, lambda _domain: answer, FakeClock()), since=since, smarthosts=smarthosts
    )

    async def run() -> None:
        await log.take(lines, NOW)
        await log.take([], NOW)

    await run()
    return log


async def rows(database: TlsrptDatabase, day: str = DAY) -> tuple[PolicyRows, ...]:
    return (await database.day_rows(day, "example.com")).policies


# -- policies ----------------------------------------------------------------------------------------------


async def test_sessions_are_counted_under_the_domains_policy(database: TlsrptDatabase) -> None:
    await imported(database, *smtp(*GOOD, *BAD), store={"example.com": entry()})
    (row,) = await rows(database)
    assert (row.policy.type, row.policy.mx_hosts) == (PolicyType.STS, ("mx.example.com",))
    assert (row.successful, row.failed) == (1, 1)
    ((failure, count),) = row.failures
    assert (failure.reason_code, failure.receiving_ip, count) == ("self-signed_certificate", "192.0.2.1", 1)


async def test_sessions_in_testing_mode_are_counted_under_their_policy(database: TlsrptDatabase) -> None:
    await imported(database, *smtp(*TRUSTED), store={"example.com": entry(policy_text("testing"))})
    (row,) = await rows(database)
    assert "mode: testing" in row.policy.strings


@pytest.mark.parametrize("store", [{}, {"example.com": entry(b"version: STSv1\nmode: none\nmax_age: 604800\n")}])
async def test_sessions_without_a_policy_are_counted_as_such(
    database: TlsrptDatabase, store: dict[str, CacheEntry]
) -> None:
    await imported(database, *smtp(*TRUSTED), store=store)
    (row,) = await rows(database)
    assert row.policy.type is PolicyType.NO_POLICY_FOUND


async def test_a_policy_learned_later_was_not_applied(database: TlsrptDatabase) -> None:
    await imported(database, *smtp(*TRUSTED, at="2026-11-22T15:00:00Z"), store={"example.com": entry()})
    (row,) = await rows(database, "2026-11-22")
    assert row.policy.type is PolicyType.NO_POLICY_FOUND


@pytest.mark.parametrize(("store", "answer"), [({}, None), ({"example.com": entry()}, "dane-only")])
async def test_sessions_verified_by_dane_are_counted_under_tlsa(
    database: TlsrptDatabase, store: dict[str, CacheEntry], answer: str | None
) -> None:
    log = await imported(database, *smtp(*GOOD), store=store, answer=answer)
    (row,) = await rows(database)
    assert (row.policy.type, row.policy.domain, row.policy.strings) == (PolicyType.TLSA, "mx.example.com", ())
    assert log.counters["tlsa_unknown"] == 1


# -- what is counted ---------------------------------------------------------------------------------------


async def test_session_belongs_to_its_utc_day(database: TlsrptDatabase) -> None:
    await imported(database, *smtp(*TRUSTED, at="2026-11-24T00:30:00+01:00"), *smtp(*TRUSTED))
    assert [len(await rows(database, day)) for day in ("2026-11-23", DAY)] == [1, 1]


async def test_expired_days_and_smart_hosts_are_skipped(database: TlsrptDatabase) -> None:
    log = await imported(database, *smtp(*TRUSTED, at="2026-01-01T00:00:00Z"), *smtp(*TRUSTED), since="2026-10-24")
    assert (log.counters["too_old"], len(await database.days())) == (1, 1)
    log = await imported(database, *smtp(*TRUSTED), smarthosts=("mx.example.com",))
    assert log.counters["smarthost"] == 1
    assert (await rows(database))[0].successful == 1


async def test_attempt_without_session_adds_only_a_failure(database: TlsrptDatabase) -> None:
    await imported(database, *smtp(LOOKUP + "no TLSA records found"))
    (row,) = await rows(database)
    assert (row.policy.type, row.successful, row.failed) == (PolicyType.TLSA, 0, 0)
    assert [(failure.result_type, count) for failure, count in row.failures] == [("dane-required", 1)]


async def test_failures_that_the_daemon_finds_are_not_counted_twice(database: TlsrptDatabase) -> None:
    line = smtp(LOOKUP + "TLSA lookup error for mx.example.com:25")
    assert (await imported(database, *line, store={"example.com": entry()})).counters["left_to_daemon"] == 1
    assert await rows(database) == ()
    await imported(database, *line)
    assert [failure.result_type for failure, _ in (await rows(database))[0].failures] == ["dnssec-invalid"]
