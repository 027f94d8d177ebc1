"""The verdict on mail to a domain."""

import pytest

from mtasts_daemon.diagnose.policy_map import PolicyMap, policy_map
from mtasts_daemon.diagnose.verdict import MailState, MailVerdict, TlsSessions, mail_verdict
from mtasts_daemon.policy.cache_entry import CacheEntry, HeldPolicy, TxtCheck
from mtasts_daemon.policy.dane import DaneVerdict, HostStatus, HostVerdict, MxStatus
from mtasts_daemon.policy.decision import Answer, Decision, Override
from mtasts_daemon.policy.mtasts import parse_policy
from mtasts_daemon.policy.next_hop import NextHop
from tests.fakes.fetcher import policy_text

NOW = 1_000_000.0
BODY = policy_text()
POLICY = parse_policy(BODY)
ENTRY = CacheEntry("example.com", HeldPolicy("1", BODY, POLICY, NOW, NOW + 1000))
ASKED = PolicyMap("postfix", "tcp:127.0.0.1:8461", "Postfix asks with tcp:127.0.0.1:8461")
ENFORCED = Decision(Answer.SECURE, "mode-enforce", POLICY)


def host(name: str, status: HostStatus) -> HostVerdict:
    return HostVerdict(name, 25, status, "any", 60)


def dane(mx: MxStatus, *hosts: HostVerdict, reason: str = "mx") -> DaneVerdict:
    return DaneVerdict(NextHop("example.com"), mx, reason, 60, hosts)


def verdict(decision: Decision, **known: object) -> MailVerdict:
    return mail_verdict("example.com", ENTRY, decision, now=NOW, asked=ASKED, **known)  # type: ignore[arg-type]


USABLE, BARE = host("mx.example.com", HostStatus.USABLE), host("mx2.example.com", HostStatus.NONE)


@pytest.mark.parametrize(
    ("decision", "found", "state", "part"),
    [
        (ENFORCED, None, MailState.AUTHENTICATED, "requires authenticated TLS"),
        (ENFORCED, dane(MxStatus.INSECURE, USABLE), MailState.AUTHENTICATED, "requires authenticated TLS"),
        (ENFORCED, dane(MxStatus.FAILED, reason="dns-servfail"), MailState.DEFERRED, "MX lookup fails (dns-servfail)"),
        (
            ENFORCED,
            dane(MxStatus.FAILED, reason="dns-unreachable"),
            MailState.DEFERRED,
            "no resolver of this host answers",
        ),
        (ENFORCED, dane(MxStatus.INSECURE, BARE), MailState.DEFERRED, "permits none of its MX hosts"),
        (ENFORCED, dane(MxStatus.INSECURE, reason="null-mx"), MailState.DEFAULT, "accepts no mail"),
        (Decision(Answer.TEMP, "store-unreadable", text="disk"), None, MailState.DEFERRED, "is deferred: disk"),
        (
            Decision(Answer.DANE_ONLY, "dane-usable-and-none"),
            dane(MxStatus.SECURE, USABLE, BARE),
            MailState.AUTHENTICATED,
            "which 1 of 2 MX hosts offer",
        ),
        (Decision(Answer.DANE_ONLY, "dane-usable"), dane(MxStatus.SECURE, USABLE), MailState.AUTHENTICATED, "all 1 MX"),
        (
            Decision(Answer.DANE, "dane-usable-and-none"),
            dane(MxStatus.SECURE, USABLE, BARE),
            MailState.DEFAULT,
            "1 of 2 MX hosts",
        ),
        (
            Decision(Answer.DANE_ONLY, "dane-all-hosts-failed"),
            dane(MxStatus.SECURE, host("mx.example.com", HostStatus.ERROR)),
            MailState.DEFERRED,
            "lookups of all its MX hosts fail",
        ),
        (Decision(Answer.NONE, "no-policy"), None, MailState.UNKNOWN, "has expired: the next lookup"),
        (Decision(Answer.NONE, "mode-testing", POLICY), None, MailState.DEFAULT, "mode testing"),
        (Decision(Answer.NONE, "webpki-expired"), None, MailState.UNAVAILABLE, "not available (webpki-expired)"),
        (Decision(Answer.NONE, "dane-none"), None, MailState.DEFAULT, "DANE does not apply to example.com"),
        (
            Decision(Answer.FIXED, "override-reply", text="encrypt"),
            None,
            MailState.DEFAULT,
            "fixes the reply",
        ),
    ],
)
def test_verdict_names_the_state_of_mail(
    decision: Decision, found: DaneVerdict | None, state: MailState, part: str
) -> None:
    made = verdict(decision, dane=found)
    assert made.state is state
    assert part in made.sentence


def test_verdict_counts_failed_tls_sessions() -> None:
    sessions = TlsSessions(7, 20, 18, "certificate-expired", "mx1.example.com")
    made = verdict(ENFORCED, sessions=sessions)
    assert made.state is MailState.FAILING
    expected = "18 of 20 TLS sessions in the last 7 days failed: certificate-expired at mx1.example.com"
    assert made.sentence.endswith(expected)
    assert verdict(ENFORCED, sessions=TlsSessions(7, 20, 0)).state is MailState.AUTHENTICATED


def test_verdict_names_the_override_and_the_deferral() -> None:
    made = verdict(ENFORCED, override=Override("a partner"), deferred_reason="policy-permits-no-mx-host")
    assert made.state is MailState.DEFERRED
    assert made.sentence == "Mail to example.com is deferred: policy-permits-no-mx-host (override: a partner)"
    assert made.as_json() == {
        "state": "deferred",
        "sentence": made.sentence,
        "map_name": "postfix",
        "table": "tcp:127.0.0.1:8461",
        "asked": "Postfix asks with tcp:127.0.0.1:8461",
    }


def test_domain_that_was_never_looked_up_is_not_without_policy() -> None:
    decision = Decision(Answer.NONE, "no-policy")
    for entry, part in (
        (CacheEntry("example.com"), "example.com is not in the cache"),
        (CacheEntry("example.com", txt=TxtCheck(NOW, NOW + 60)), "example.com has no TLS policy"),
    ):
        assert mail_verdict("example.com", entry, decision, now=NOW, asked=ASKED).sentence.startswith(part)


SOCKET = "socketmap:unix:/run/mtasts-daemon/s"


@pytest.mark.parametrize(
    ("maps", "zone", "table"),
    [
        (
            "socketmap:inet:127.0.0.1:8461:postfix-tlsrpt",
            "postfix-tlsrpt",
            "socketmap:inet:127.0.0.1:8461:postfix-tlsrpt",
        ),
        (f"hash:/etc/postfix/x, {SOCKET}:QUERY", "query", f"{SOCKET}:QUERY"),
        (f"tcp:127.0.0.1:8461, {SOCKET}:query", "query", f"{SOCKET}:query"),
        (f"{SOCKET}:other {{tcp:[::1]:8461}}", "default", "tcp:[::1]:8461"),
        ("tcp:127.0.0.1:8461", "default", "tcp:127.0.0.1:8461"),
        (f"{SOCKET}:other", "default", f"{SOCKET}:other"),
        ("hash:/etc/postfix/tcp:x", "default", ""),
        ("", "default", ""),
    ],
)
def test_table_and_zone_are_taken_from_main_cf(maps: str, zone: str, table: str) -> None:
    found = policy_map(f"smtp_tls_policy_maps = {maps}\n", ("postfix-tlsrpt", "query"), "default")
    assert (found.zone, found.table) == (zone, table)
    assert found.is_tcp_table is table.startswith("tcp:")
    assert table in found.sentence
    assert zone in found.sentence or found.table.rpartition(":")[2].lower() == zone


def test_unreadable_main_cf_is_said() -> None:
    found = policy_map(None, ("postfix",), "postfix")
    assert (found.zone, found.table) == ("postfix", "")
    assert found.sentence == "main.cf cannot be read; shown for map name postfix"
