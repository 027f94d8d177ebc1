"""Checks in a real browser: next to explain on the status page, and on the public page for strangers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    folder = tmp_path_factory.mktemp("page")
    more: dict[str, Any] = {
        "public": {"listen": ["http:127.0.0.1:0"], "check": True},
        "check": {"domains": ["enforced.example"]},
    }
    with world(folder, **more) as served:
        yield served


@pytest.fixture
def visitor(browser: "Browser", served: World) -> Iterator[Visit]:
    with visit(browser, served.base) as found:
        yield found
        found.check()


def check(page: "Page", domain: str) -> "Page":
    page.fill("#key", domain)
    page.click("#check-now")
    page.wait_for_selector("#check-answer[aria-busy=false] .verdict")
    return page


def result(served: World, domain: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(served.api.get(f"/api/v1/check/{domain}").body.splitlines()[-1])["result"]
    return found


def test_page_shows_the_check_as_the_api_gives_it(visitor: Visit, served: World) -> None:
    page = check(visitor.open(), "enforced.example")
    text = page.locator("#check-answer").inner_text()
    found = result(served, "enforced.example")
    assert "enforced.example: Mail cannot be delivered" in text
    assert isinstance(found["findings"], list)
    for finding in found["findings"]:
        if finding["severity"] in ("error", "warning"):
            assert finding["slug"] in text and finding["remedy"] in text
    visitor.screenshot("check")


def test_hostile_policy_is_shown_as_text(visitor: Visit) -> None:
    page = visitor.open()
    pressed: list[str] = []
    page.on("dialog", lambda dialog: pressed.append(dialog.message))
    check(page, "markup.example")
    assert "policy-line-syntax" in page.locator("#check-answer").inner_text()
    assert page.locator("main img, main script").count() == 0
    assert pressed == []
    assert "onerror" in MARKUP


def test_refused_name_is_a_sentence_on_the_page(browser: "Browser", served: World) -> None:
    with visit(browser, served.base) as found:
        page = check(found.open(), "localhost")
        assert "one label" in page.locator("#check-answer").inner_text()


def test_watched_domain_is_listed_and_checks_itself(visitor: Visit, served: World) -> None:
    served.daemon.logged("domain-checked domain=enforced.example")
    page = visitor.open()
    page.wait_for_selector("#watched:not([hidden])")
    page.click("#watched-list [data-check='enforced.example']")
    page.wait_for_selector("#check-answer[aria-busy=false] .verdict")


# -- strangers ---------------------------------------------------------------------------------------------


@pytest.fixture
def stranger(browser: "Browser", served: World) -> Iterator[Visit]:
    port = int(served.daemon.logged("public-listening")[0].rpartition("port=")[2])
    with visit(browser, f"http://127.0.0.1:{port}") as found:
        yield found


def test_stranger_types_a_domain_and_gets_a_link(stranger: Visit) -> None:
    page = stranger.page
    page.goto(f"{stranger.base}/check")
    page.fill("input[name=domain]", "Enforced.Example")
    page.press("input[name=domain]", "Enter")
    page.wait_for_url("**/check/enforced.example")
    page.wait_for_selector(".verdict")
    text = page.locator("main").inner_text()
    # The fake Internet is on loopback, which no stranger may use.
    assert "policy-address-refused" in text
    assert "No valid policy" in text
    stranger.screenshot("public-check")
    stranger.check()


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "javascript:alert(1)"])
def test_hostile_domain_is_shown_as_text(stranger: Visit, name: str) -> None:
    page, pressed = stranger.page, list[str]()
    page.on("dialog", lambda dialog: pressed.append(dialog.message))
    page.goto(f"{stranger.base}/check")
    page.fill("input[name=domain]", name)
    page.press("input[name=domain]", "Enter")
    page.wait_for_selector("[role=alert]")
    assert page.locator("main img, main script").count() == 0
    assert pressed == []


def test_public_page_works_on_a_small_screen_and_in_the_dark(browser: "Browser", served: World, tmp_path: Path) -> None:
    port = int(served.daemon.logged("public-listening")[0].rpartition("port=")[2])
    options: dict[str, Any] = {"viewport": {"width": 360, "height": 700}, "color_scheme": "dark"}
    with visit(browser, f"http://127.0.0.1:{port}", **options) as found:
        found.page.goto(f"{found.base}/check/enforced.example")
        found.page.wait_for_selector(".verdict")
        wide = found.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0
        found.screenshot("public-check-dark")
        found.check()
