"""How the status page looks: narrow and wide, light and dark, accessible; and what its files may contain."""

import json
import re
from collections.abc import Iterator, Mapping
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
LOOKS = [(400, "light"), (400, "dark"), (1024, "light"), (1280, "dark")]
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
    """A daemon without lookups."""
    with world(tmp_path_factory.mktemp("unasked"), asked=False, tlsrpt={}) as unasked:
        yield unasked


def serve(page: "Page", path: str, value: object) -> None:
    """Make the API return this value."""

    def answer(route: "Route") -> None:
        route.fulfill(body=json.dumps(value), content_type="application/json")

    page.route(f"**/api/v1/{path}*", answer)


def history(minutes: int) -> dict[str, Any]:
    """Every type of reply, in numbers that differ from minute to minute."""
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
    """Thirty days, some domains, and more reasons than have a colour."""
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
    """Fill the charts with data that a daemon has only after days."""
    serve(page, "history", history(1440))
    serve(page, "tls-results", tls_results())


# -- sizes and schemes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_page_is_readable_and_fits_the_window(browser: "Browser", served: World, width: int, scheme: str) -> None:
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
def test_daemon_without_traffic_says_what_to_do(browser: "Browser", unasked: World, width: int, scheme: str) -> None:
    with visit(browser, unasked.base, viewport={"width": width, "height": 900}, color_scheme=scheme) as found:
        page = found.open()
        shown = page.locator(".empty").all_inner_texts()
        for words in ("mtastsctl setup", "TLS reports are off", "tlsrpt.socket"):
            assert any(words in one for one in shown), words
        assert page.get_attribute("#health", "data-level") == "good"
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert page.evaluate(ACCESSIBILITY) == []
        found.screenshot(f"empty-{width}-{scheme}")
        found.check()


def test_colours_follow_the_system_until_chosen(browser: "Browser", served: World) -> None:
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


def test_focus_is_visible_everywhere(browser: "Browser", served: World) -> None:
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


def test_reduced_motion_is_respected(browser: "Browser", served: World) -> None:
    with visit(browser, served.base, reduced_motion="reduce") as found:
        page = found.open()
        page.evaluate("document.getElementById('answer').innerHTML = '<span class=spinner></span>'")
        assert page.evaluate("getComputedStyle(document.querySelector('.spinner')).animationName") == "none"


# -- charts ------------------------------------------------------------------------------------------------


def test_chart_has_a_table_and_a_sentence(browser: "Browser", served: World) -> None:
    known = history(90)
    with visit(browser, served.base) as found:
        serve(found.page, "history", known)
        page = found.open()
        page.click("figure:has(#answers-chart) summary")
        titles = page.locator("#answers-table thead th").all_inner_texts()
        assert titles[0].startswith("Until (")
        assert titles[1:] == ["secure", "dane-only", "dane", "level", "fixed", "none", "temp"]
        first = page.locator("#answers-table tbody tr >> nth=0").locator("th, td").all_inner_texts()
        assert first[1:] == [str(known["answers"][kind][-1]) for kind in titles[1:]]
        total = sum(known["lookups"][-60:])
        assert f"{total:,} lookups" in (page.get_attribute("#answers-chart svg", "aria-label") or "")
        drawn = sum(1 for kind in KINDS for count in known["answers"][kind][-60:] if count)
        assert page.locator("#answers-chart rect").count() == drawn
        page.hover("#answers-chart")
        assert re.match(r"\d\d:\d\d  ", page.text_content("#answers-read") or "")
        found.check()


def test_chart_spans_the_chosen_period(browser: "Browser", served: World) -> None:
    known = history(1440)
    with visit(browser, served.base) as found:
        serve(found.page, "history", known)
        page = found.open()
        for minutes, words in ((60, "1 h"), (360, "6 h"), (1440, "1 d")):
            page.click(f"#range [data-minutes='{minutes}']")
            assert (page.text_content("#answers-read") or "").startswith(
                f"{sum(known['lookups'][-minutes:]):,} lookups in {words} ("
            )
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


def test_state_of_reports_is_apart_from_the_charts(browser: "Browser", served: World) -> None:
    with visit(browser, served.base) as found:
        page = found.open()
        words, charts = page.locator("#tls-state").bounding_box(), page.locator("#tls").bounding_box()
        assert words is not None and charts is not None
        assert words["height"] and charts["y"] - words["y"] - words["height"] >= 8


def test_dane_without_a_validating_resolver_has_no_effect(browser: "Browser", served: World) -> None:
    zone = {"dialect": "plain", "default_level": None}
    status = {"overrides": 0, "zones": {"a": {**zone, "dane": "on"}, "b": {**zone, "dane": "off"}}}
    with visit(browser, served.base) as found:
        page = found.open()
        for validates, words in (
            (False, "on, but it has no effect without a validating resolver"),
            (True, "on, for domains with an enforced policy"),
        ):
            page.evaluate(
                "async ([file, given]) => (await import(file)).dane(given)",
                [served.file("policies.js"), status | {"dns": {"validates": validates}}],
            )
            one, other = page.locator("#dane tbody tr").all_inner_texts()
            assert words in one and "off, left to Postfix" in other


def test_problems_are_above_the_fold_on_a_phone(browser: "Browser", served: World) -> None:
    with visit(browser, served.base, viewport={"width": 400, "height": 900}) as found:
        box = found.open().locator("#failing").bounding_box()
        assert box is not None and box["y"] < 900
        found.check()


def test_pointer_on_a_chart_moves_nothing(browser: "Browser", served: World) -> None:
    with visit(browser, served.base) as found:
        serve(found.page, "history", history(90))
        page = found.open()
        place = "document.getElementById('answers-chart').getBoundingClientRect().top + scrollY"
        before = page.evaluate(place)
        page.hover("#answers-chart")
        assert re.match(r"\d\d:\d\d  ", page.text_content("#answers-read") or "")
        assert page.evaluate(place) == before
        found.check()


def test_start_of_the_daemon_is_marked_in_the_charts(browser: "Browser", served: World) -> None:
    with visit(browser, served.base) as found:
        known = history(60)
        now = served.get("/api/v1/status")["started_at"]
        known["at"] = [now + 60 * (minute - 30) for minute in range(60)]
        serve(found.page, "history", known)
        page = found.open()
        assert page.locator("#answers-chart .started").text_content() == "daemon started"
        labels = page.locator("#answers-chart text[text-anchor=middle]").all_text_contents()
        assert labels and all(re.fullmatch(r"\d\d:\d0", label) for label in labels)
        found.check()


def test_colour_of_a_failure_does_not_depend_on_its_rank(browser: "Browser", served: World) -> None:
    with visit(browser, served.base) as found:
        page = found.open()
        slugs = "async ([file, names]) => { const words = await import(file); return names.map(words.reasonSlug); }"
        names = ["certificate-expired", "starttls-not-supported", "unknown"]
        given = [served.file("words.js"), names]
        forward = page.evaluate(slugs, given)
        assert forward == list(reversed(page.evaluate(slugs, [given[0], names[::-1]])))
        assert len(set(forward)) == 3
        found.check()


# -- health ------------------------------------------------------------------------------------------------

STATUS: dict[str, Any] = {
    "now": NOON,
    "checks": [{"name": "store", "ok": True, "detail": ""}],
    "cache": {"modes": {"enforce": 2}, "enforce_at_risk": 0},
    "deferred": {"total": 0, "domains": []},
    "reload": {"ok": True, "problems": []},
    "tlsrpt": {"collecting": True, "sending": True, "reports": {"waits_since": NOON - 3600}},
}


def deferred(total: int, *names: str) -> dict[str, Any]:
    """Return a status with deferred domains."""
    words = "its policy permits none of its MX hosts"
    one = {"reason": "policy-permits-no-mx-host", "sentence": words, "since": NOON - 60, "last_seen": NOON}
    return {"deferred": {"total": total, "domains": [one | {"domain": f"{name}.example"} for name in names]}}


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
            "4 of 100 lookups in the last hour deferred mail. No mail is deferred now.",
        ),
        (
            {},
            {"lookups": [100], "answers": {"temp": [6]}},
            [],
            "bad",
            "6 of 100 lookups in the last hour deferred mail. No mail is deferred now.",
        ),
        (
            {"checks": [{"name": "store", "ok": False, "detail": "gone"}]},
            WORKS,
            [],
            "bad",
            "The store fails: gone.",
        ),
        (
            {"reload": {"ok": False, "problems": ["line 3"]}},
            WORKS,
            [],
            "warn",
            "configuration was rejected: line 3.",
        ),
        ({"cache": {"modes": {}, "enforce_at_risk": 1}}, WORKS, [], "warn", "1 enforced policy expires within a day"),
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
        (deferred(1, "a"), WORKS, [], "bad", "Mail to a.example is deferred: its policy permits none of its MX hosts."),
        (deferred(30, *"abcde"), WORKS, [], "bad", "Mail to a.example, b.example, c.example and 27 more is deferred"),
    ],
)
def test_health_has_the_level_of_the_worst_problem(
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


def test_files_may_load_files_of_the_page_only(served: World) -> None:
    for name in ["/", *(served.file(file.name) for file in STATIC.iterdir() if file.name != "index.html")]:
        answer = served.api.get(name)
        assert answer.status == 200, name
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == (
            "no-store" if name == "/" else "private, max-age=31536000, immutable"
        )


def test_cached_files_are_not_requested_again(browser: "Browser", served: World) -> None:
    with visit(browser, served.base) as found:
        page = found.open()
        page.reload()
        page.wait_for_selector("#tls .panel")
        came = page.evaluate("performance.getEntriesByType('resource').map(file => [file.name, file.transferSize])")
        files = {path: size for path, size in came if "/static/" in path}
        assert len(files) > 10
        assert not any(files.values()), files


@pytest.mark.parametrize("file", sorted(STATIC.iterdir()), ids=lambda file: file.name)
def test_files_name_no_other_host_and_make_no_markup_of_text(file: Path) -> None:
    text = file.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//[a-z]+\.[a-z]", text)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function", text
    )
    if file.suffix == ".html":
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", text)


def test_sentences_are_those_of_the_program() -> None:
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
def test_invalid_number_of_days_is_rejected(served: World, days: str) -> None:
    answer = served.api.get(f"/api/v1/tls-results?days={days}")
    assert (answer.status, answer.json["title"]) == (400, "bad-parameter")
