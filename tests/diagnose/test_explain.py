"""The steps of an answer, as explain shows them."""

from typing import Any

import pytest

from mtasts_daemon import errors
from mtasts_daemon.diagnose.explain import ObservedMail, explain
from mtasts_daemon.diagnose.explanation import Explanation
from mtasts_daemon.diagnose.policy_map import policy_map
from mtasts_daemon.diagnose.verdict import MailState
from mtasts_daemon.lookup.settings import Settings
from mtasts_daemon.policy.cache_entry import CacheEntry, FetchFailure, HeldPolicy, TxtCheck
from mtasts_daemon.policy.decision import Dialect, Override, Zone
from mtasts_daemon.policy.dns_answer import MxRecord, RRType
from mtasts_daemon.policy.mtasts import Mode, parse_policy
from mtasts_daemon.policy.precedence import DaneMode
from tests.fakes.fetcher import FakeFetcher, policy_text
from tests.fakes.resolver import FakeResolver

NOW = 1_000_000_000.0
DAY = 86400.0
ZONES = {"postfix": Zone("postfix"), "labelled": Zone("labelled", Dialect.TLSRPT, "may")}


def settings(**changes: Any) -> Settings:
    return Settings(**{"zones": ZONES, "default_zone": "postfix", **changes})


def stored(
    mode: str = "enforce", *, age: float = DAY / 2, left: float = DAY, failed: bool = False, mx: str = "mx.example.com"
) -> CacheEntry:
    body = policy_text(mode, *mx.split())
    held = HeldPolicy("id1", body, parse_policy(body), NOW - age, NOW + left)
    failure = FetchFailure("id1", NOW - 60, NOW + 3600, 3, "webpki-expired", "It has expired") if failed else None
    return CacheEntry("example.com", held, None, failure)


async def explained(key: str = "example.com", entry: CacheEntry | None = None, **changes: Any) -> Explanation:
    return await explain(key, settings(**changes), entry, NOW)


def found(explanation: Explanation, title: str) -> str:
    """Return the text of the one step with this title."""
    (step,) = (step for step in explanation.steps if step.title == title)
    return step.found


async def test_stored_policy_is_explained_with_its_times_and_replies() -> None:
    explanation = await explained(entry=stored())
    assert found(explanation, "cached policy").startswith("mode enforce, id id1, fetched 12 h ago, valid for 1 d")
    assert explanation.replies["postfix"] == "OK secure match=mx.example.com servername=hostname"
    assert explanation.replies["labelled"].startswith(
        "OK secure match=mx.example.com servername=hostname policy_type=sts "
    )
    assert explanation.decisions == {"postfix": "mode-enforce", "labelled": "mode-enforce"}


@pytest.mark.parametrize(
    ("mode", "plain", "labelled"),
    [("testing", "NOTFOUND", "OK may policy_type=sts "), ("none", "NOTFOUND", "NOTFOUND")],
)
async def test_other_modes_leave_postfix_its_level(mode: str, plain: str, labelled: str) -> None:
    explanation = await explained(entry=stored(mode))
    assert explanation.replies["postfix"] == plain
    assert explanation.replies["labelled"].startswith(labelled)
    assert "mail is delivered as without" in found(explanation, "decision")


async def test_expired_policy_is_explained_and_not_answered() -> None:
    explanation = await explained(entry=stored(left=-2 * DAY))
    (step,) = (step for step in explanation.steps if step.title == "cached policy")
    assert "expired 2 d ago" in step.found
    assert step.good is False
    assert set(explanation.replies.values()) == {"NOTFOUND"}


async def test_failed_refresh_is_explained_with_the_next_attempt() -> None:
    explanation = await explained(entry=stored(failed=True))
    assert (
        found(explanation, "last fetch") == "failed 1 min ago, attempt 3, next in 1 h: It has expired (webpki-expired)"
    )
    assert explanation.decisions["postfix"] == "mode-enforce"


async def test_failures_without_a_policy_are_explained() -> None:
    failure = FetchFailure("id1", NOW - 60, NOW + 3600, 1, "webpki-expired", "It has expired")
    explanation = await explained(entry=CacheEntry("example.com", failure=failure))
    assert (
        found(explanation, "last fetch") == "failed 1 min ago, attempt 1, next in 1 h: It has expired (webpki-expired)"
    )
    txt = TxtCheck(NOW - 5, NOW + 55, problem="dns-timeout", detail="No resolver answered in time")
    explanation = await explained(entry=CacheEntry("example.com", txt=txt))
    assert found(explanation, "last TXT lookup") == "5 s ago: No resolver answered in time (dns-timeout)"


async def test_reply_is_the_one_that_fits_the_table_of_postfix() -> None:
    entry = stored(mx=" ".join(f"mx{number}.{'x' * 60}.example.com" for number in range(60)))
    sizes = []
    for table in ("tcp:127.0.0.1:8461", "socketmap:unix:/run/s:postfix"):
        asked = policy_map(f"smtp_tls_policy_maps = {table}\n", ("postfix", "labelled"), "postfix")
        explanation = await explain("example.com", settings(), entry, NOW, observed=ObservedMail(asked))
        assert explanation.verdict is not None
        assert explanation.verdict.table == table
        assert explanation.as_text().splitlines()[1] == f"  {asked.sentence}"
        sizes.append(len(explanation.replies["postfix"]))
    assert sizes[0] < 4096 < sizes[1]


async def test_verdict_is_deferred_if_the_reply_cannot_be_made() -> None:
    override = Override("a partner", reply="may policy_type=sts policy_domain=example.com")
    explanation = await explained(entry=stored(), overrides={"example.com": override})
    assert explanation.replies["postfix"].startswith("TEMP ")
    assert explanation.verdict is not None
    assert explanation.verdict.state is MailState.DEFERRED
    assert "needs Postfix 3.10" in explanation.verdict.sentence


@pytest.mark.parametrize(
    ("override", "shown", "reply", "decision"),
    [
        (Override("why", skip=True), "answered as if it had no policy", "NOTFOUND", "an override skips this domain"),
        (Override("why", reply="encrypt"), "always answered 'encrypt'", "OK encrypt", "an override fixes the reply"),
        (
            Override("why", treat_as=Mode.TESTING),
            "its policy is treated as testing",
            "NOTFOUND",
            "by the override, the policy is in testing",
        ),
    ],
    ids=["skip", "reply", "treat_as"],
)
async def test_override_is_explained_with_its_reason(override: Override, shown: str, reply: str, decision: str) -> None:
    explanation = await explained(entry=stored(), overrides={"example.com": override})
    assert found(explanation, "override") == f"{shown}, because: why"
    assert explanation.replies["postfix"] == reply
    assert any(step.found.startswith(decision) for step in explanation.steps if step.title == "decision")


@pytest.mark.parametrize(
    ("key", "slug"),
    [
        (".example.com", "key-parent"),
        ("[192.0.2.1]:25", "key-address"),
        ("com", "key-one-label"),
        ("", "key-empty"),
        ("/run/lmtp.sock", "key-pathname"),
        ("a b.example", "key-not-hostname"),
        ("\udcff.example", "key-not-utf8"),
    ],
)
async def test_a_key_that_can_have_no_policy_says_why_and_asks_nothing(key: str, slug: str) -> None:
    resolver = FakeResolver()
    explanation = await explain(key, settings(), None, NOW, (resolver, FakeFetcher()))
    assert explanation.policy_domain is None
    assert explanation.replies == {"postfix": "NOTFOUND", "labelled": "NOTFOUND"}
    assert set(explanation.decisions.values()) == {slug}
    assert resolver.queries == []


class Live:
    """A domain that is discovered live."""

    def __init__(self) -> None:
        self.resolver = FakeResolver()
        self.fetcher = FakeFetcher()
        self.resolver.put("example.com", RRType.MX, [MxRecord(10, "mx.example.com")])
        self.resolver.put("_mta-sts.example.com", RRType.TXT, [b"v=STSv1; id=new;"])
        self.fetcher.bodies["example.com"] = policy_text()

    async def explain(
        self, entry: CacheEntry | None = None, *, validates: bool | None = None, **changes: Any
    ) -> Explanation:
        ports = (self.resolver, self.fetcher)
        return await explain("example.com", settings(**changes), entry, NOW, ports, validates)


async def test_a_live_look_shows_the_record_the_fetch_and_the_text() -> None:
    explanation = await Live().explain()
    assert found(explanation, "TXT record") == "_mta-sts.example.com: id new (TTL 300 s)"
    assert "https://mta-sts.example.com/.well-known/mta-sts.txt" in found(explanation, "policy fetch")
    assert found(explanation, "policy text") == "version: STSv1\nmode: enforce\nmx: mx.example.com\nmax_age: 604800"
    assert explanation.decisions["postfix"] == "mode-enforce"


@pytest.mark.parametrize(
    ("body", "title", "slug"),
    [
        (errors.WebPkiExpired("yesterday"), "policy fetch", "webpki-expired"),
        (errors.PolicyRedirect("302"), "policy fetch", "policy-http-redirect"),
        (b"version: STSv1\nmode: \x1b[2J\n", "policy text", "policy-line-syntax"),
        (b"\xff\xfe", "policy text", "policy-not-text"),
    ],
    ids=["tls", "redirect", "syntax", "octets"],
)
@pytest.mark.parametrize("entry", [None, stored()], ids=["nothing stored", "a policy stored"])
async def test_live_failure_is_explained_and_keeps_the_stored_policy(
    body: errors.MtaStsError | bytes, title: str, slug: str, entry: CacheEntry | None
) -> None:
    live = Live()
    live.fetcher.bodies["example.com"] = body
    explanation = await live.explain(entry)
    (step,) = (step for step in explanation.steps if step.title == title)
    assert step.good is False
    assert f"({slug})" in step.found
    assert step.rule.startswith("RFC 8461 3.")
    assert explanation.decisions["postfix"] == (slug if entry is None else "mode-enforce")
    assert all(line.isprintable() for line in explanation.as_text().split("\n"))


@pytest.mark.parametrize(
    ("records", "slug"),
    [
        ([b"v=STSv1; id=1;", b"v=STSv1; id=2;"], "sts-record-multiple"),
        ([b"v=STSv1;"], "sts-record-no-id"),
        ([b"v=spf1 -all"], "no-policy"),
        ([], "no-policy"),
    ],
)
async def test_without_one_valid_record_nothing_is_fetched(records: list[bytes], slug: str) -> None:
    live = Live()
    live.resolver.put("_mta-sts.example.com", RRType.TXT, records)
    explanation = await live.explain()
    assert explanation.decisions["postfix"] == slug
    assert live.fetcher.fetches == []


async def test_dns_failure_is_explained_with_its_slug() -> None:
    live = Live()
    live.resolver.fail("_mta-sts.example.com", RRType.TXT, errors.DnsTimeout("1.1 s"))
    explanation = await live.explain()
    assert found(explanation, "TXT record") == "_mta-sts.example.com: No resolver answered in time: 1.1 s (dns-timeout)"
    assert explanation.decisions["postfix"] == "dns-timeout"


@pytest.mark.parametrize(
    ("default", "other", "good", "outcome"),
    [
        (DaneMode.ON, DaneMode.OFF, False, "DANE is off (map names: postfix)"),
        (DaneMode.OFF, DaneMode.ON, None, "DANE is off (map names: query)"),
        (DaneMode.OFF, DaneMode.OFF, None, "no map name asks for DANE"),
    ],
)
async def test_no_dnssec_is_a_warning_only_where_the_default_zone_asks_for_dane(
    default: DaneMode, other: DaneMode, good: bool | None, outcome: str
) -> None:
    zones = {"postfix": Zone("postfix", dane=default), "query": Zone("query", dane=other)}
    explanation = await Live().explain(validates=False, zones=zones)
    (step,) = (step for step in explanation.steps if step.title == "DNSSEC")
    assert step.found.endswith(f"(dns.trust_ad): {outcome}")
    assert step.good is good
    assert set(explanation.decisions.values()) == {"mode-enforce"}


async def test_the_json_form_has_stable_names() -> None:
    value = (await explained(entry=stored())).as_json()
    assert list(value) == ["key", "verdict", "policy_domain", "steps", "decisions", "replies"]
    assert list(value["verdict"]) == ["state", "sentence", "map_name", "table", "asked"]
    assert Explanation.from_json(value) == await explained(entry=stored())
    assert list(value["steps"][0]) == ["title", "rule", "found", "good"]
