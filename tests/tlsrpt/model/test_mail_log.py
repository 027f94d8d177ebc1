"""Lines of Postfix's log to sessions: real logs, single lines, and hostile input."""

import random
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from mtasts_daemon.tlsrpt.model.event import Failure
from mtasts_daemon.tlsrpt.model.mail_log import MAX_LINE, LoggedSession, MailLog, moment_of

LOGS = Path(__file__).parents[2] / "data" / "maillog"
NOW = datetime(2026, 11, 24, 18, tzinfo=UTC)
MX = "mx.example.com[192.0.2.1]:25"
SENT = f"4A1B2C3D: to=<u@example.com>, relay={MX}, delay=1, delays=0/0/1/0, dsn=2.0.0, status=sent (250 ok)"


def read(*lines: str) -> tuple[list[LoggedSession], Counter[str]]:
    log = MailLog()
    return [session for line in lines for session in log.feed(line, NOW)], log.counters


def smtp(*texts: str, pid: int = 7, program: str = "smtp") -> list[str]:
    return [f"Nov 24 15:00:00 host postfix/{program}[{pid}]: {text}" for text in texts]


def deferred(reason: str, relay: str = MX) -> str:
    return (
        f"4A1B2C3D: to=<u@example.com>, relay={relay}, delay=1, delays=0/0/1/0, dsn=4.7.5, status=deferred ({reason})"
    )


def established(word: str, peer: str = MX, how: str = "established") -> str:
    return f"{word} TLS connection {how} to {peer}: TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)"


def failure(*texts: str) -> Failure:
    """Return the failure of the one session in the lines of smtp(8)."""
    (session,), _ = read(*smtp(*texts))
    assert session.failure is not None
    return session.failure


# -- what real logs come to --------------------------------------------------------------------------------

SELF_SIGNED = "validation-failure self-signed_certificate"
HANDSHAKE = "validation-failure tls-handshake-failure"
NO_TLS = "starttls-not-supported "
EXPECTED = {
    "good": ["ok"] * 6,
    "selfsigned": [SELF_SIGNED],
    "untrusted": ["validation-failure untrusted_issuer"],
    "expired": ["certificate-expired "],
    "wrongname": ["certificate-host-mismatch "],
    "notls": [NO_TLS, NO_TLS],
    "refused": [NO_TLS],
    "garbage": [HANDSHAKE],
    "second": [SELF_SIGNED, "ok"],
    "second-garbage": [HANDSHAKE, "ok"],
    "second-notls": [NO_TLS, "ok"],
    "open-good": ["ok"],
    "open-selfsigned": ["ok"],
    "open-garbage": [HANDSHAKE],
    "testing": ["ok"],
}


def summary(session: LoggedSession) -> str:
    return "ok" if session.failure is None else f"{session.failure.result_type} {session.failure.reason_code}"


@pytest.mark.parametrize("version", ["3.7", "3.10"])
@pytest.mark.parametrize("transport", ["plain", "reuse"])
def test_a_real_log_comes_to_what_was_sent(version: str, transport: str) -> None:
    sessions, counters = read(*(LOGS / f"postfix-{version}.log").read_text().splitlines())
    found: dict[str, list[str]] = {}
    for session in sessions:
        name, by, _ = session.domain.split(".")
        if by == transport:
            found.setdefault(name, []).append(summary(session))
    # With connection_reuse, two of the four messages of a burst used existing connections.
    ok = len(found["good"])
    assert ok == {"plain": 6, "reuse": 4}[transport]
    assert found == EXPECTED | {"good": ["ok"] * ok}
    assert counters["plaintext"] == 4


def test_a_failure_names_the_host_that_it_was_met_at() -> None:
    sessions, _ = read(*(LOGS / "postfix-3.7.log").read_text().splitlines())
    met = [session.failure for session in sessions if session.domain == "second.plain.example"]
    first = "mx1.second.plain.example"
    assert met == [Failure("validation-failure", "", first, "", "127.0.2.9", "", "self-signed_certificate"), None]


def test_verified_sessions_are_distinguished() -> None:
    sessions, _ = read(*(LOGS / "postfix-3.7.log").read_text().splitlines())
    verified = {session.domain.split(".")[0] for session in sessions if session.verified}
    assert verified == {"good", "second", "second-garbage", "second-notls"}


# -- one line at a time ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cause", "result"),
    [
        ("num=62:hostname mismatch", "certificate-host-mismatch "),
        ("num=64:IP address mismatch", "certificate-host-mismatch "),
        ("num=10:certificate has expired", "certificate-expired "),
        ("num=19:self-signed certificate in certificate chain", "certificate-not-trusted "),
        ("certificate has expired", "certificate-expired "),
        ("certificate not yet valid", "validation-failure certificate_not_yet_valid"),
        ("self-signed certificate", SELF_SIGNED),
        ("untrusted issuer /C=XX/O=Some CA /x", "validation-failure untrusted_issuer"),
        ("not trusted by local or TLSA policy", "certificate-not-trusted "),
        ("not designated for use as a server certificate", "validation-failure not_designated"),
        ("certificate chain longer than limit(9)", "validation-failure certificate_chain_longer_than_limit"),
    ],
)
@pytest.mark.parametrize("word", ["Untrusted", "Trusted"])
def test_the_cause_counts_and_not_the_word_that_follows_it(cause: str, result: str, word: str) -> None:
    found = failure(
        f"server certificate verification failed for {MX}: {cause}",
        established(word),
        deferred("Server certificate not verified"),
    )
    assert f"{found.result_type} {found.reason_code}" == result
    assert (found.mx_host, found.receiving_ip) == ("mx.example.com", "192.0.2.1")


def test_a_trusted_certificate_that_was_not_verified_has_another_name() -> None:
    lines = established("Trusted"), deferred("Server certificate not verified")
    assert failure(*lines).result_type == "certificate-host-mismatch"
    lines = established("Untrusted"), deferred("Server certificate not trusted")
    assert failure(*lines).result_type == "certificate-not-trusted"


def test_broken_handshake_in_two_lines_is_one_failure() -> None:
    found = failure(f"SSL_connect error to {MX}: lost connection", deferred("Cannot start TLS: handshake failure"))
    assert (found.result_type, found.reason_code) == ("validation-failure", "tls-handshake-failure")


def test_a_server_without_starttls_where_tls_is_required_is_a_failure() -> None:
    for told_so in ("was not offered by host mx.example.com[192.0.2.1]", "host mx.example.com[192.0.2.1] refused to"):
        assert failure(deferred(f"TLS is required, but {told_so} start TLS: 454")).result_type == NO_TLS.strip()


def test_recipients_of_one_delivery_share_its_session() -> None:
    others = [SENT.replace("u@", f"u{number}@") for number in range(3)]
    sessions, counters = read(*smtp(established("Verified"), SENT, *others))
    assert len(sessions) == 1
    assert counters["plaintext"] == 0


def test_a_failure_without_a_session_line_is_counted_once_for_all_recipients() -> None:
    reason = deferred("TLS is required, but was not offered by host mx.example.com[192.0.2.1]")
    sessions, _ = read(*smtp(reason, reason.replace("u@", "v@")))
    assert len(sessions) == 1


def test_a_reused_connection_is_no_session_and_no_plaintext() -> None:
    sessions, counters = read(
        *smtp(
            established("Verified", how="reused"),
            SENT,
            SENT.replace("delay=", "conn_use=2, delay=").replace("4A", "5B"),
        )
    )
    assert (sessions, counters["plaintext"]) == ([], 0)


def test_a_delivery_without_tls_is_counted_apart() -> None:
    sessions, counters = read(*smtp(SENT))
    assert (sessions, counters["plaintext"]) == ([], 1)


def test_processes_do_not_mix() -> None:
    lines = [
        *smtp(established("Verified"), pid=1),
        *smtp(SENT, pid=2),
        *smtp(SENT.replace("u@example.com", "u@b.example"), pid=1),
    ]
    sessions, _ = read(*lines)
    assert [session.domain for session in sessions] == ["b.example"]


def test_postfix_with_tlsrpt_is_not_counted_from_the_log() -> None:
    native = "TLSRPT: status=success, domain=example.com, receiving_mx=mx.example.com[192.0.2.1]"
    sessions, counters = read(
        *smtp(native, established("Verified"), SENT, established("Verified"), SENT.replace("4A", "5B"))
    )
    assert (sessions, counters["native"]) == ([], 1)


def test_lines_of_tlsproxy_are_joined_by_address() -> None:
    proxied = smtp(f"certificate verification failed for {MX}: self-signed certificate", program="tlsproxy", pid=9)
    lines = smtp(established("Untrusted"), deferred("Server certificate not verified"))
    (session,), _ = read(*proxied, *lines)
    assert summary(session) == SELF_SIGNED
    late = [line.replace("15:00:00", "15:05:00") for line in lines]
    (session,), _ = read(*proxied, *late)
    assert summary(session) == "certificate-not-trusted "


@pytest.mark.parametrize(
    ("reason", "result"),
    [
        ("TLSA lookup error for mx.example.com:25", "dnssec-invalid tlsa-lookup-error"),
        ("no TLSA records found", "dane-required no-tlsa-records"),
        ("TLSA records unusable", "tlsa-invalid all-TLSA-records-unusable"),
        ("non DNSSEC destination", "dane-required no-dnssec"),
    ],
)
def test_a_policy_lookup_that_fails_is_an_attempt_without_a_session(reason: str, result: str) -> None:
    (found,), counters = read(*smtp(f"warning: TLS policy lookup for example.com/mx.example.com: {reason}"))
    assert (found.domain, found.mx_host, summary(found)) == ("example.com", "mx.example.com", result)
    assert (found.session, found.tlsa, counters["sessions"], counters["attempts"]) == (False, True, 0, 1)


def test_our_own_mistakes_are_no_failures_of_theirs() -> None:
    line = "warning: TLS policy lookup for example.com/mx.example.com: client TLS configuration problem"
    assert read(*smtp(line))[0] == []


def test_unusable_tlsa_records_are_a_failure_though_the_mail_goes() -> None:
    (session,), _ = read(
        *smtp(
            f"warning: {MX}: all TLSA records unusable, fallback to unauthenticated TLS", established("Trusted"), SENT
        )
    )
    assert (summary(session), session.tlsa) == ("tlsa-invalid all-TLSA-records-unusable", True)


def test_an_address_of_ipv6_and_a_name_in_capitals_are_written_as_reports_want_them() -> None:
    found = failure("SSL_connect error to MX.Example.COM[2001:DB8:0::1]:25: -1", SENT)
    assert (found.mx_host, found.receiving_ip) == ("mx.example.com", "2001:db8::1")


# -- time --------------------------------------------------------------------------------------------------

PLUS_2 = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    ("stamp", "moment"),
    [
        ("2026-11-24T15:00:00.123456+01:00", datetime(2026, 11, 24, 14, 0, 0, 123456, UTC)),
        ("2026-11-24T15:00:00+0100", datetime(2026, 11, 24, 14, tzinfo=UTC)),
        ("2026-11-24T15:00:00Z", datetime(2026, 11, 24, 15, tzinfo=UTC)),
        ("2026-11-24T15:00:00", datetime(2026, 11, 24, 13, tzinfo=UTC)),
        ("Nov 24 01:30:00", datetime(2026, 11, 23, 23, 30, tzinfo=UTC)),
        ("Nov  4 15:00:00", datetime(2026, 11, 4, 13, tzinfo=UTC)),
        ("Nov 25 10:00:00", datetime(2026, 11, 25, 8, tzinfo=UTC)),
        ("Dec 31 23:00:00", datetime(2025, 12, 31, 21, tzinfo=UTC)),
        ("Feb 29 12:00:00", datetime(2024, 2, 29, 10, tzinfo=UTC)),
        ("Nov 24 15:00:60", datetime(2026, 11, 24, 13, 0, 59, tzinfo=UTC)),
    ],
)
def test_a_line_belongs_to_the_moment_it_was_written(stamp: str, moment: datetime) -> None:
    assert moment_of(stamp, NOW.astimezone(PLUS_2)) == moment


@pytest.mark.parametrize(
    "stamp",
    ["Feb 30 12:00:00", "Nox 24 15:00:00", "Nov 24 25:00:00", "2026-13-24T15:00:00", "0001-01-01T00:00:00+23:59"],
)
def test_malformed_time_is_none(stamp: str) -> None:
    assert moment_of(stamp, NOW) is None


@pytest.mark.parametrize("stamp", ["2026-11-24T15:00:00.5+00:00", "2026-11-24T15:00:00+0000", "<22>Nov 24 15:00:00"])
def test_the_formats_of_syslog_and_the_journal_are_read(stamp: str) -> None:
    lines = [line.replace("Nov 24 15:00:00", stamp) for line in smtp(established("Verified"), SENT)]
    (session,), _ = read(*lines)
    assert session.moment.hour == 15


# -- what must not hurt ------------------------------------------------------------------------------------


def test_nothing_that_a_log_holds_is_fatal_and_each_line_costs_little() -> None:
    chance = random.Random(4)
    real = (LOGS / "postfix-3.7.log").read_text().splitlines()
    log = MailLog()
    for _ in range(3000):
        line = list(chance.choice(real))
        for _ in range(chance.randint(1, 6)):
            line[chance.randrange(len(line))] = chance.choice("\0[]<>:,=() \x7fé\ud800")
        list(log.feed("".join(line), NOW))
    assert log.counters["lines"] == 3000


@pytest.mark.parametrize(
    "text",
    [
        "4A1B2C3D: to=<" + "orig_to=<" * 400,
        "4A1B2C3D: to=<u@example.com>, relay=" + ", dsn=2.0.0, status=sent (" * 150,
        "certificate verification failed for " + "a[" * 2000,
        "x" * 10 * MAX_LINE,
        "4A1B2C3D: to=<" + "@" * 500 + ">, relay=x[",
    ],
)
def test_a_hostile_line_says_nothing(text: str) -> None:
    assert read(*smtp(text))[0] == []


def test_memory_is_bounded_however_many_processes_and_sessions_wait() -> None:
    log = MailLog()
    for pid in range(5000):
        for line in smtp(established("Verified"), f"certificate verification failed for {MX}: x", pid=pid):
            list(log.feed(line, NOW))
    for number in range(5000):
        peer = f"mx.example.com[2001:db8::{number:x}]:25"
        for program in ("smtp", "tlsproxy"):
            (line,) = smtp(f"certificate verification failed for {peer}: self-signed certificate", program=program)
            list(log.feed(line, NOW))
            list(log.feed(smtp(established("Verified", peer))[0], NOW))
    assert log.counters["dropped"] >= 3000
    assert log.waiting <= 2000 * 150
    (session,) = [session for line in smtp(SENT, pid=4999) for session in log.feed(line, NOW)]
    assert session.domain == "example.com"
