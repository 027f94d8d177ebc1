"""How the status page looks, and whom it shuts out: narrow and wide, light and dark, and what its files may hold."""

import json
import re
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mtasts_daemon.admin
from mtasts_daemon import errors
from tests.admin.browser import chromium, visit
from tests.admin.page_world import World, world

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

STATIC = Path(mtasts_daemon.admin.__file__).parent / "static"
ACCESSIBILITY = (Path(__file__).parent / "accessibility.js").read_text()
FOCUSED = """(() => {
    const node = document.activeElement;
    const { outlineStyle, outlineWidth } = getComputedStyle(node);
    return [node.tagName, node.id || node.textContent.trim(), outlineStyle, outlineWidth];
})()"""
LOOKS = list(product((400, 1600), ("light", "dark")))
MINUTE = 60
KINDS = ("secure", "dane", "dane-only", "level", "fixed", "none", "temp")
NOON = 1_750_000_020 // MINUTE * MINUTE


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, browser: "Browser") -> Iterator[World]:
    with world(tmp_path_factory.mktemp("looks")) as served:
        yield served


@pytest.fixture(scope="module")
def unasked(tmp_path_factory: pytest.TempPathFactory, browser: "Browser") -> Iterator[World]:
    """A daemon that nobody has asked for anything."""
    with world(tmp_path_factory.mktemp("unasked"), asked=False, tlsrpt={}) as unasked:
        yield unasked


def serve(page: "Page", path: str, value: object) -> None:
    """Let the API say so there, instead of what it would say."""

    def answer(route: "Route") -> None:
        route.fulfill(body=json.dumps(value), content_type="application/json")

    page.route(f"**/api/v1/{path}*", answer)


def history(minutes: int) -> dict[str, Any]:
    """Every kind of answer, in numbers that differ from minute to minute."""
    answers = {
        kind: [(at % (10 + 7 * index)) * (1 + index % 3) for at in range(minutes)] for index, kind in enumerate(KINDS)
    }
    lookups = [sum(answers[kind][at] for kind in KINDS) for at in range(minutes)]
    return {
        "at": [NOON - MINUTE * (minutes - 1 - at) for at in range(minutes)],
        "seconds": [60.0] * minutes,
        "lookups": lookups,
        "hits": [count * 9 // 10 for count in lookups],
        "answers": answers,
    }


def tls_results() -> dict[str, Any]:
    """Thirty days, some domains, and more reasons than are drawn one by one."""
    days = [f"2026-04-{day:02}" for day in range(1, 31)]
    reasons = [
        "certificate-expired",
        "starttls-not-supported",
        "certificate-host-mismatch",
        "certificate-not-trusted",
        "validation-failure",
        "sts-policy-fetch-error",
        "dane-required",
        "tlsa-invalid",
    ]
    domains: list[dict[str, Any]] = [
        {
            "domain": f"partner{number}.example",
            "sessions": [100 + day for day in range(30)],
            "failed": [(day * number) % 17 for day in range(30)],
        }
        for number in range(6, 0, -1)
    ]
    sums = {
        name: [sum(domain[name][day] for domain in domains) for day in range(30)] for name in ("sessions", "failed")
    }
    counts = [
        {"reason": reason, "counts": [max(0, (day * 3) % 11 - index) for day in range(30)]}
        for index, reason in enumerate(reasons)
    ]
    return {"collecting": True, "days": days, **sums, "domains": domains, "reasons": counts}


def fill(page: "Page") -> None:
    """Charts with something in them, which a daemon has after hours and days only."""
    serve(page, "history", history(1440))
    serve(page, "tls-results", tls_results())


# -- sizes and schemes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_everything_is_readable_and_within_the_window(
    browser: "Browser", served: World, width: int, scheme: str
) -> None:
    with visit(browser, served.base, viewport={"width": width, "height": 900}, color_scheme=scheme) as found:
        fill(found.page)
        page = found.open()
        found.explain("permits-none.example", live=True)
        page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert page.evaluate(ACCESSIBILITY) == []
        page.eval_on_selector_all("#main > section:not(.ask) details", "all => all.forEach(one => one.open = false)")
        found.screenshot(f"full-{width}-{scheme}")
        found.check()


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_a_daemon_without_traffic_says_what_to_do(browser: "Browser", unasked: World, width: int, scheme: str) -> None:
    with visit(browser, unasked.base, viewport={"width": width, "height": 900}, color_scheme=scheme) as found:
        page = found.open()
        shown = page.locator(".empty").all_inner_texts()
        for words in ("Nothing fails", "mtastsctl query", "TLS reports are off", "tlsrpt.socket"):
            assert any(words in one for one in shown), words
        assert page.get_attribute("#health", "data-level") == "good"
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert page.evaluate(ACCESSIBILITY) == []
        found.screenshot(f"empty-{width}-{scheme}")
        found.check()


def test_the_colours_are_the_systems_until_one_is_chosen_and_that_is_kept(browser: "Browser", served: World) -> None:
    def ground(page: "Page") -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    with visit(browser, served.base, color_scheme="light") as found:
        page = found.open()
        light = ground(page)
        page.emulate_media(color_scheme="dark")
        dark = ground(page)
        assert light != dark
        page.click("#theme")
        assert (page.inner_text("#theme-words"), ground(page)) == ("Colours: light", light)
        page.reload()
        assert ground(page) == light
        page.click("#theme")
        assert (page.inner_text("#theme-words"), ground(page)) == ("Colours: dark", dark)
        found.check()


def test_the_focus_can_be_seen_wherever_it_goes(browser: "Browser", served: World) -> None:
    with visit(browser, served.base) as found:
        page = found.open()
        seen: list[str] = []
        for _ in range(200):
            page.keyboard.press("Tab")
            where = page.evaluate(FOCUSED)
            if where[0] == "BODY":
                break
            assert where[2] == "solid" and where[3] == "2px", where
            seen.append(where[1])
        assert seen[0] == "Skip to the status"
        for reached in ("theme", "key", "live", "Explain", "1 hour", "unavailable.example", "log-all", "Metrics"):
            assert reached in seen
        found.check()


def test_without_movement_for_those_who_want_none(browser: "Browser", served: World) -> None:
    with visit(browser, served.base, reduced_motion="reduce") as found:
        page = found.open()
        page.evaluate("document.getElementById('answer').innerHTML = '<span class=spinner></span>'")
        assert page.evaluate("getComputedStyle(document.querySelector('.spinner')).animationName") == "none"


# -- charts ------------------------------------------------------------------------------------------------


def test_a_chart_has_its_figures_as_a_table_and_a_sentence(browser: "Browser", served: World) -> None:
    known = history(90)
    with visit(browser, served.base) as found:
        serve(found.page, "history", known)
        page = found.open()
        page.click("figure:has(#answers-chart) summary")
        titles = page.locator("#answers-table thead th").all_inner_texts()
        assert titles == ["Until", "secure", "dane-only", "dane", "level", "fixed", "none", "temp"]
        first = page.locator("#answers-table tbody tr >> nth=0").locator("th, td").all_inner_texts()
        assert first[1:] == [str(known["answers"][kind][-1]) for kind in titles[1:]]
        total = sum(known["lookups"][-60:])
        assert f"{total:,} lookups" in (page.get_attribute("#answers-chart svg", "aria-label") or "")
        drawn = sum(1 for kind in KINDS for count in known["answers"][kind][-60:] if count)
        assert page.locator("#answers-chart rect").count() == drawn
        page.hover("#answers-chart")
        assert re.match(r"\d\d:\d\d  ", page.text_content("#answers-read") or "")
        found.check()


def test_a_chart_spans_the_time_that_was_chosen(browser: "Browser", served: World) -> None:
    known = history(1440)
    with visit(browser, served.base) as found:
        serve(found.page, "history", known)
        page = found.open()
        for minutes, words in ((60, "1 h"), (360, "6 h"), (1440, "1 d")):
            page.click(f"#range [data-minutes='{minutes}']")
            assert page.text_content("#answers-read") == f"{sum(known['lookups'][-minutes:]):,} lookups in {words}"
        assert page.get_attribute("#range [data-minutes='1440']", "aria-pressed") == "true"
        found.check()


def test_tls_charts_have_every_reason_and_share(browser: "Browser", served: World) -> None:
    known = tls_results()
    with visit(browser, served.base) as found:
        serve(found.page, "tls-results", known)
        page = found.open()
        page.eval_on_selector_all("#tls details", "all => all.forEach(one => one.open = true)")
        sessions, failed = known["sessions"][-1], known["failed"][-1]
        row = page.locator("#share-table tbody tr >> nth=0").locator("th, td").all_inner_texts()
        assert row == ["30 Apr", f"{sessions:,}", str(failed), f"{round(failed / sessions * 1000) / 10:g} %"]
        reasons = page.locator("#reason-table tbody th code").all_inner_texts()
        assert reasons == [one["reason"] for one in known["reasons"]]
        assert page.locator("#reason-legend .key").all_inner_texts()[-1] == "others"
        found.check()


def test_what_becomes_of_reports_stands_apart_from_the_charts(browser: "Browser", served: World) -> None:
    with visit(browser, served.base) as found:
        page = found.open()
        words, charts = page.locator("#tls-state").bounding_box(), page.locator("#tls").bounding_box()
        assert words is not None and charts is not None
        assert words["height"] and charts["y"] - words["y"] - words["height"] >= 8


def test_dane_that_is_on_without_a_resolver_that_validates_is_said_to_be_without_effect(
    browser: "Browser", served: World
) -> None:
    zone = {"dialect": "plain", "default_level": None}
    status = {"overrides": 0, "zones": {"a": {**zone, "dane": "on"}, "b": {**zone, "dane": "off"}}}
    with visit(browser, served.base) as found:
        page = found.open()
        for validates, words in (
            (False, "on, but not without a resolver that validates"),
            (True, "on, where a policy"),
        ):
            page.evaluate(
                "async ([file, given]) => (await import(file)).dane(given)",
                [served.file("policies.js"), status | {"dns": {"validates": validates}}],
            )
            one, other = page.locator("#dane tbody tr").all_inner_texts()
            assert words in one and "off, left to Postfix" in other


# -- health ------------------------------------------------------------------------------------------------

STATUS: dict[str, Any] = {
    "now": NOON,
    "checks": [{"name": "store", "ok": True, "detail": ""}],
    "cache": {"modes": {"enforce": 2}, "enforce_at_risk": 0},
    "undeliverable": {"total": 0, "domains": []},
    "reload": {"ok": True, "problems": []},
    "tlsrpt": {"collecting": True, "sending": True, "reports": {"waits_since": NOON - 3600}},
}
PERMITS_NONE = {"level": "warning", "event": "policy-permits-no-mx-host", "fields": {"domain": "a.example"}}
WORKS: dict[str, Any] = {"lookups": [100], "answers": {"secure": [100], "temp": [0]}}


@pytest.mark.parametrize(
    ("changes", "answers", "lines", "level", "words"),
    [
        ({}, WORKS, [], "good", "No mail was deferred in the last hour, in 100 lookups. 2 policies are valid."),
        (
            {},
            {"lookups": [100], "answers": {"temp": [4]}},
            [],
            "warn",
            "4 lookups were answered so that mail is deferred",
        ),
        (
            {},
            {"lookups": [100], "answers": {"temp": [6]}},
            [],
            "bad",
            "6 lookups were answered so that mail is deferred",
        ),
        (
            {"checks": [{"name": "store", "ok": False, "detail": "gone"}]},
            WORKS,
            [],
            "bad",
            "The store does not work: gone.",
        ),
        ({"reload": {"ok": False, "problems": ["line 3"]}}, WORKS, [], "warn", "is not in force: line 3."),
        ({"cache": {"modes": {}, "enforce_at_risk": 1}}, WORKS, [], "warn", "1 enforced policy ends within a day"),
        (
            {"tlsrpt": {"sending": True, "reports": {"waits_since": NOON - 37 * 3600}}},
            WORKS,
            [],
            "warn",
            "TLS reports of a day that ended 1 d 13 h ago have not been delivered.",
        ),
        ({"tlsrpt": {"sending": False, "reports": {"waits_since": NOON - 37 * 3600}}}, WORKS, [], "good", ""),
        (
            {},
            WORKS,
            [{"at": NOON - 60, "level": "error", "event": "store-failed", "fields": {}}],
            "warn",
            "1 error was",
        ),
        ({}, WORKS, [{"at": NOON - 3600, "level": "error", "event": "store-failed", "fields": {}}], "good", ""),
        (
            {},
            WORKS,
            [
                {
                    "at": NOON,
                    "level": "warning",
                    "event": "mail-deferred",
                    "fields": {"domain": "a.example", "reason": "x"},
                }
            ],
            "warn",
            "Mail to a.example is held up: x.",
        ),
        (
            {"undeliverable": {"total": 30, "domains": [f"{name}.example" for name in "abcde"]}},
            WORKS,
            [],
            "warn",
            "Mail to a.example, b.example, c.example and 27 more is held up: the policy permits none of the MX hosts.",
        ),
        ({}, WORKS, [PERMITS_NONE | {"at": NOON - 60}], "warn", "Mail to a.example is held up"),
        # Mended since: the status, which counts once a minute, does not list it.
        ({}, WORKS, [PERMITS_NONE | {"at": NOON - 300}], "good", ""),
    ],
)
def test_health_is_the_worst_of_what_is_wrong(
    browser: "Browser",
    served: World,
    changes: Mapping[str, Any],
    answers: Mapping[str, Any],
    lines: list[Mapping[str, Any]],
    level: str,
    words: str,
) -> None:
    with visit(browser, served.base) as found:
        page = found.open()
        judged = page.evaluate(
            "async ([file, ...given]) => (await import(file)).judge(...given, new Map())",
            [served.file("health.js"), STATUS | dict(changes), answers, lines],
        )
        assert judged["level"] == level
        assert any(words in reason["text"] for reason in judged["reasons"]), judged


# -- the files ---------------------------------------------------------------------------------------------


def test_every_file_may_use_what_is_beside_it_and_nothing_else(served: World) -> None:
    for name in ["/", *(served.file(file.name) for file in STATIC.iterdir() if file.name != "index.html")]:
        answer = served.api.get(name)
        assert answer.status == 200, name
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == (
            "no-store" if name == "/" else "private, max-age=31536000, immutable"
        )


def test_what_the_browser_has_already_is_not_asked_for_again(browser: "Browser", served: World) -> None:
    with visit(browser, served.base) as found:
        page = found.open()
        page.reload()
        page.wait_for_selector("#tls .panel")
        came = page.evaluate("performance.getEntriesByType('resource').map(file => [file.name, file.transferSize])")
        files = {path: size for path, size in came if "/static/" in path}
        assert len(files) > 10
        assert not any(files.values()), files


@pytest.mark.parametrize("file", sorted(STATIC.iterdir()), ids=lambda file: file.name)
def test_no_file_names_another_host_or_makes_markup_of_text(file: Path) -> None:
    text = file.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//[a-z]+\.[a-z]", text)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function", text
    )
    if file.suffix == ".html":
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", text)


def test_the_sentences_are_the_programs_own() -> None:
    def leaves(kind: type[errors.MtaStsError]) -> Iterator[type[errors.MtaStsError]]:
        if "slug" in kind.__dict__:
            yield kind
        for below in kind.__subclasses__():
            yield from leaves(below)

    roots = (errors.DnsError, errors.StsRecordError, errors.PolicyFetchError, errors.PolicySyntaxError)
    own = {leaf.slug: leaf().sentence for root in roots for leaf in leaves(root)}
    shown = dict(re.findall(r'^  "([a-z-]+)": "(.*)",$', (STATIC / "words.js").read_text().partition("};")[0], re.M))
    assert shown == own


@pytest.mark.parametrize("days", ["0", "367", "-1", "x", "1e3", "%C2%B2"])
def test_tls_results_are_of_days_that_can_be(served: World, days: str) -> None:
    answer = served.api.get(f"/api/v1/tls-results?days={days}")
    assert (answer.status, answer.json["title"]) == (400, "bad-parameter")
