"""The status page in a real browser, with a real daemon and traffic."""

import re
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.admin.browser import Visit, chromium, visit
from tests.admin.page_world import MARKUP, World, world

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, browser: "Browser") -> Iterator[World]:
    with world(tmp_path_factory.mktemp("page")) as served:
        yield served


@pytest.fixture
def visitor(browser: "Browser", served: World) -> Iterator[Visit]:
    """A visit without errors in the console and without requests to other hosts."""
    with visit(browser, served.base) as found:
        yield found
        found.check()


def text(page: "Page", selector: str) -> str:
    return page.locator(selector).inner_text()


def rows(page: "Page", selector: str) -> list[list[str]]:
    """Return the cells of the table."""
    found: list[list[str]] = page.eval_on_selector_all(
        f"{selector} tbody tr", "rows => rows.map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    )
    return found


# -- figures -----------------------------------------------------------------------------------------------


def test_figures_are_those_of_the_api(visitor: Visit, served: World) -> None:
    page = visitor.open()
    status = served.get("/api/v1/status")
    lookups, modes = status["lookups"], status["cache"]["modes"]
    assert lookups["total"] == 175 and modes == {"enforce": 1, "testing": 1, "none": 1}
    assert f"{lookups['total']:,} since the start" in text(page, "#tiles")
    assert f"{lookups['hits']:,} since the start" in text(page, "#tiles")
    assert text(page, "#valid") == str(sum(modes.values()))
    assert text(page, "#waiting") == str(lookups["waiting"])
    shown = {kind: text(page, f"[data-kind='{kind}']") for kind in lookups["answers"]}
    assert shown == {kind: f"{count:,}" for kind, count in lookups["answers"].items()}
    for mode, count in modes.items():
        assert text(page, f"[data-kind='mode-{mode}']") == str(count)
    assert f"Process {status['pid']}" in text(page, "#foot-words")
    assert text(page, "#version") == status["version"]


def test_expiring_and_due_policies_are_in_the_order_of_the_api(visitor: Visit, served: World) -> None:
    page = visitor.open()
    for place, sort in (("#expiring", "expires"), ("#queue", "due")):
        listed = served.get(f"/api/v1/entries?live=1&sort={sort}&limit=8")["entries"]
        assert [row[0] for row in rows(page, place)] == [entry["domain"] for entry in listed] != []


def test_problems_have_a_reason_and_the_next_attempt(visitor: Visit, served: World) -> None:
    page = visitor.open()
    found = {row[0]: row[1:] for row in rows(page, "#failing")}
    assert set(found) == {"permits-none.example", "unavailable.example", "markup.example"}
    mode, why, tried, again, held = found["unavailable.example"]
    failure = served.get("/api/v1/entries/unavailable.example")["failure"]
    assert (mode, held) == ("no policy", "none")
    assert why == f"{failure['detail']} {failure['problem']}" and "503" in why
    assert tried.startswith(f"{failure['count']} attempt") and re.match(r"in \d+ min", again)
    assert "permits none of its MX hosts" in found["permits-none.example"][1]
    assert found["permits-none.example"][-1] == "in force"


def test_health_names_the_domains_whose_mail_is_deferred(visitor: Visit) -> None:
    page = visitor.open()
    assert page.get_attribute("#health", "data-level") == "bad"
    assert text(page, "#health-title") == "Mail to 1 domain is deferred"
    assert "Mail to permits-none.example is deferred" in text(page, "#health-reasons")
    assert page.title() == "(!!) mtasts-daemon: mail to 1 domain is deferred"
    assert "permits-none.example" in (page.text_content("#health-spoken") or "")


def test_tls_results_are_those_collected(visitor: Visit, served: World) -> None:
    daemon_day = datetime.now(UTC).strftime("%Y-%m-%d")
    page = visitor.open()
    results = served.get("/api/v1/tls-results?days=30")
    assert (sum(results["sessions"]), sum(results["failed"]), len(results["days"])) == (10, 3, 30)
    assert results["days"][-1] >= daemon_day
    assert "10 sessions in 30 days, 30 % failed" in text(page, "#tls-summary")
    assert text(page, "#tls-state").startswith("10 results since the start, the last ")
    assert "No reports are sent: set tlsrpt.organization" in text(page, "#tls-state")
    assert [row[:4] for row in rows(page, "#tls-domains")] == [["enforced.example", "10", "3", "30 %"]]
    assert "certificate-expired 2" in (page.get_attribute("#reason-chart svg", "aria-label") or "")


def test_log_shows_warnings_or_all_lines(visitor: Visit, served: World) -> None:
    page = visitor.open()
    warnings = [line for line in served.get("/api/v1/log")["lines"] if line["level"] in ("warning", "error")]
    assert page.locator("#log li").count() == len(warnings) > 0
    page.check("#log-all")
    assert page.locator("#log li[data-level=info]").count() > 0


# -- explain --------------------------------------------------------------------------------------------


def test_domain_is_explained_as_by_the_api(visitor: Visit, served: World) -> None:
    visitor.open()
    page = visitor.explain("enforced.example")
    found = served.get("/api/v1/explain/enforced.example")
    shown = page.locator("#answer .step-title").all_inner_texts()
    assert [title.lower() for title in shown] == [step["title"].strip().lower() for step in found["steps"]]
    assert set(page.locator("#answer .reply").all_inner_texts()) == set(found["replies"].values())
    assert "requires authenticated TLS: its policy is enforced" in text(page, "#answer .verdict")
    assert page.url.endswith("#explain=enforced.example")


def test_explanation_works_by_keyboard_alone(visitor: Visit) -> None:
    page = visitor.open()
    page.keyboard.press("/")
    page.keyboard.type("unavailable.example")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#answer .verdict")
    assert "Policy fetch" in page.locator("#answer .step-title").all_inner_texts()
    spoken = page.text_content("#answer-spoken")
    assert (
        spoken
        == "The policy of unavailable.example is not available (policy-http-status): Postfix uses its default level"
    )


def test_reason_of_a_deferral_and_remedy_come_first(visitor: Visit) -> None:
    visitor.open()
    page = visitor.explain("permits-none.example")
    assert "Mail to permits-none.example is deferred" in text(page, "#answer .verdict")
    assert page.locator("#answer .actions[open]").count() == 1
    assert "mtastsctl cache refresh permits-none.example" in text(page, "#answer .actions")
    visitor.explain("permits-none.example", live=True)
    assert "permits none of the MX hosts" in text(page, "#answer li[data-level=bad] .step-found >> nth=0")


def test_domain_in_a_list_can_be_explained(visitor: Visit) -> None:
    page = visitor.open()
    page.click("#failing [data-explain='unavailable.example']")
    page.wait_for_selector("#answer .verdict")
    assert page.input_value("#key") == "unavailable.example"
    assert "Next attempt in" in text(page, "#answer .failure")


def test_explanation_has_an_address(visitor: Visit) -> None:
    page = visitor.open("/#explain=enforced.example")
    page.wait_for_selector("#answer .verdict")
    assert page.input_value("#key") == "enforced.example"


@pytest.mark.parametrize("key", ["[192.0.2.1]", "no spaces in names", MARKUP, "%", "ä" * 200, "a/b"])
def test_any_input_is_answered(visitor: Visit, key: str) -> None:
    visitor.open()
    page = visitor.explain(key)
    assert text(page, "#answer .verdict") != ""
    # The console reports the 400 for text that is not a domain.
    visitor.complaints[:] = [line for line in visitor.complaints if "status of 400" not in line]
    assert page.locator("#answer img, #answer script").count() == 0


# -- hostile text ------------------------------------------------------------------------------------------


def test_policy_with_markup_is_shown_as_text(visitor: Visit) -> None:
    page = visitor.open()
    pressed: list[str] = []
    page.on("dialog", lambda dialog: pressed.append(dialog.message))
    assert MARKUP in text(page, "#failing")
    visitor.explain("markup.example", live=True)
    assert MARKUP in text(page, "#answer .steps")
    assert page.locator("main img, main script").count() == 0
    assert pressed == []


# -- over time ---------------------------------------------------------------------------------------------


def poll(page: "Page", times: int = 1) -> None:
    """Let the page poll again, by its own clock."""
    for _ in range(times):
        with page.expect_response("**/api/v1/status"):
            page.clock.run_for(3100)


def test_refresh_keeps_nodes_and_focus(visitor: Visit) -> None:
    visitor.page.clock.install()
    page = visitor.open()
    page.evaluate("for (const node of document.querySelectorAll('main tr, main li')) node.kept = true")
    before = page.evaluate("document.querySelectorAll('main tr, main li').length")
    page.focus("#expiring [data-explain] >> nth=2")
    focused = page.evaluate("document.activeElement.dataset.explain")
    poll(page, 6)
    assert page.evaluate("[...document.querySelectorAll('main tr, main li')].filter(one => one.kept).length") == before
    assert page.evaluate("document.activeElement.dataset.explain") == focused


def test_layout_is_stable_while_the_page_fills(visitor: Visit) -> None:
    visitor.page.clock.install()
    visitor.page.add_init_script(
        "window.shifted = 0;"
        "const watch = new PerformanceObserver(list => list.getEntries().forEach(one => window.shifted += one.value));"
        "watch.observe({ type: 'layout-shift', buffered: true })"
    )
    page = visitor.open()
    poll(page, 6)
    assert page.evaluate("window.shifted") < 0.1


def test_new_data_is_shown_without_reloading(visitor: Visit, served: World) -> None:
    visitor.page.clock.install()
    page = visitor.open()
    total = served.get("/api/v1/status")["lookups"]["total"]
    served.daemon.lookup("plain.example")
    poll(page)
    page.wait_for_function(
        "text => document.getElementById('tiles').innerText.includes(text)", arg=f"{total + 1:,} since"
    )


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, tlsrpt={}) as mortal:
        yield mortal


def test_stopped_daemon_is_noticed_and_its_return_too(browser: "Browser", mortal: World) -> None:
    with visit(browser, mortal.base) as found:
        found.page.clock.install()
        page = found.open()
        assert "TLS reports are off" in text(page, "#tls")
        mortal.daemon.signal(signal.SIGTERM)
        mortal.daemon.ended()
        page.clock.run_for(3100)
        page.wait_for_selector("#gone:has-text('The daemon does not answer')")
        assert "The figures below are from" in text(page, "#gone") and "systemctl status" in text(page, "#gone")
        assert text(page, "#fresh-words") == "Not up to date"
        assert (page.get_attribute("#health", "data-level"), page.title()[:4]) == ("bad", "(!!)")
        found.screenshot("gone")
        mortal.daemon.settings["admin"] = {"listen": f"127.0.0.1:{mortal.port}"}
        mortal.daemon.start()
        mortal.daemon.logged("admin-listening address=127", 2)
        page.clock.run_for(3100)
        page.wait_for_selector("#fresh[data-state=live]")
        assert not page.is_visible("#gone")
        assert page.get_attribute("#health", "data-level") != "bad"
        assert all("ERR_CONNECTION" in complaint or "ERR_EMPTY" in complaint for complaint in found.complaints)


def test_hanging_daemon_is_noticed(browser: "Browser", mortal: World) -> None:
    with visit(browser, mortal.base) as found:
        page = found.open()
        mortal.daemon.signal(signal.SIGSTOP)
        try:
            page.wait_for_selector("#gone:has-text('The daemon does not answer')")
            assert page.get_attribute("#health", "data-level") == "bad"
        finally:
            mortal.daemon.signal(signal.SIGCONT)
        page.wait_for_selector("#fresh[data-state=live]")


def test_hidden_tab_sends_no_requests(visitor: Visit) -> None:
    visitor.page.clock.install()
    page = visitor.open()
    page.evaluate("Object.defineProperty(document, 'hidden', { get: () => true })")
    asked = len(visitor.requested)
    page.clock.run_for(30_000)
    assert len(visitor.requested) == asked


WRITES: list[Callable[["Page"], None]] = [
    lambda page: page.click("#theme"),
    lambda page: page.click("#range button >> nth=2"),
]


@pytest.mark.parametrize("press", WRITES)
def test_page_sends_only_get_requests(visitor: Visit, press: "Callable[[Page], None]") -> None:
    methods: list[str] = []
    visitor.page.on("request", lambda request: methods.append(request.method))
    press(visitor.open())
    visitor.explain("enforced.example", live=True)
    assert set(methods) == {"GET"}
