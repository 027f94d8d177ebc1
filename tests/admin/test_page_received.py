"""The section "Reports about my domains" in a real browser, over a real daemon and database."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mtasts_daemon.tlsrpt.receive.authentication import Authentication, AuthMethod
from mtasts_daemon.tlsrpt.receive.intake import Intake, IntakeSettings
from mtasts_daemon.tlsrpt.receive.model import ReportSource
from mtasts_daemon.tlsrpt.receive.sqlite_backend import open_sqlite
from tests.admin.browser import Visit, chromium, visit
from tests.admin.page_world import MARKUP, World, world
from tests.tlsrpt.receive import corpus

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TRUSTED = Authentication(AuthMethod.DKIM, "reporter.example")
OTHER = Authentication(AuthMethod.DKIM, "second.example")
BAD = Authentication(AuthMethod.NONE, detail="the mail has no DKIM signature")


def of_day(ago: int, **changes: Any) -> dict[str, Any]:
    day = (datetime.now(UTC) - timedelta(days=ago)).strftime("%Y-%m-%d")
    return corpus.report(
        **{
            "date-range": {"start-datetime": f"{day}T00:00:00Z", "end-datetime": f"{day}T23:59:59Z"},
            "report-id": f"{day}-example",
        }
        | changes
    )


def clean(domain: str) -> dict[str, Any]:
    return corpus.policy(
        policy={"policy-type": "sts", "policy-domain": domain},
        summary={"total-successful-session-count": 50, "total-failure-session-count": 0},
        **{"failure-details": ...},
    )


def fill(path: Path) -> None:
    """Twenty clean days, then two days of an expired certificate; a second domain without failures."""
    database = open_sqlite(str(path), lambda: datetime.now(UTC).timestamp(), lambda problem: None)
    settings = IntakeSettings(frozenset({"example.com", "clean.example", "unproven.example"}))

    async def lookup(_name: str) -> tuple[bytes, ...]:
        return ()

    async def take() -> None:
        intake = Intake(database, settings, lookup, lambda: datetime.now(UTC).timestamp())
        for ago in range(22, 0, -1):
            policies = [clean("clean.example"), clean("example.com") if ago > 2 else corpus.policy()]
            for verdict in (TRUSTED, OTHER):
                body = corpus.dumps(of_day(ago, policies=policies))
                await intake.take_body(body, ReportSource.LMTP, verdict)
        forged = of_day(1, **{"organization-name": MARKUP, "report-id": MARKUP, "contact-info": "a@forged.example"})
        await intake.take_body(corpus.dumps(forged), ReportSource.LMTP, BAD)
        unproven = of_day(1, policies=[clean("unproven.example")])
        await intake.take_body(corpus.dumps(unproven), ReportSource.LMTP, BAD)

    asyncio.run(take())
    database.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("received")
    path = folder / "received.sqlite"
    fill(path)
    receive = {"own_domains": ["example.com", "clean.example", "unproven.example"], "database": str(path)}
    with world(folder, asked=False, receive=receive) as made:
        yield made


@pytest.fixture(scope="module")
def browser(served: World) -> "Iterator[Browser]":
    with chromium() as browser:
        yield browser


@pytest.fixture
def visitor(browser: "Browser", served: World) -> Iterator[Visit]:
    with visit(browser, served.base) as found:
        yield found
        found.check()


def table(visitor: Visit, selector: str) -> list[list[str]]:
    found: list[list[str]] = visitor.page.eval_on_selector_all(
        f"{selector} tbody tr", "rows => rows.map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    )
    return found


def until(page: "Page", condition: str) -> None:
    """Wait until the expression is true; the page's own policy forbids Playwright's way."""
    for _ in range(500):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(20)
    raise AssertionError(condition)


def opened(visitor: Visit, domain: str = "example.com") -> Visit:
    visitor.open()
    visitor.page.click(f"[data-received='{domain}']")
    visitor.page.wait_for_selector("#received-days-chart svg")
    return visitor


def test_domains_are_listed_worst_first(visitor: Visit, served: World) -> None:
    visitor.open()
    visitor.page.wait_for_selector("#received-domains tbody tr")
    rows = table(visitor, "#received-domains")
    assert [row[0] for row in rows] == ["example.com", "clean.example"]
    found = served.get("/api/v1/received")["domains"]
    assert [(row[2], row[3]) for row in rows] == [(f"{one['successful']:,}", f"{one['failed']:,}") for one in found]
    visitor.screenshot("received-overview")


def test_domain_shows_days_hosts_reporters_and_advice(visitor: Visit) -> None:
    opened(visitor)
    page = visitor.page
    assert "mx1.example.com fails with certificate-expired since" in page.inner_text("#received-advice")
    assert "Renew the certificate" in page.inner_text("#received-advice")
    assert [row[1:3] for row in table(visitor, "#received-failures")] == [["mx1.example.com", "12"]]
    assert sorted(row[0] for row in table(visitor, "#received-reporters")) == ["reporter.example", "second.example"]
    page.click("#received-days-title >> xpath=../../details/summary")
    rows = table(visitor, "#received-days-table")
    assert (len(rows), rows[0][3], rows[-1][3]) == (22, "6", "0")
    assert page.locator("#received-days-chart .fill-reason-0").count() == 2
    visitor.screenshot("received-domain")


def test_clean_domain_is_advised_to_enforce(visitor: Visit) -> None:
    opened(visitor, "clean.example")
    assert "22 clean days from 2 reporters: `enforce` is safe." in visitor.page.inner_text("#received-advice")


def test_unauthenticated_reports_stand_apart_and_run_no_markup(visitor: Visit) -> None:
    opened(visitor)
    rows = table(visitor, "#received-others")
    assert [(row[0], row[2], row[3]) for row in rows] == [
        (MARKUP.strip("<>"), "forged.example", "none the mail has no DKIM signature")
    ]
    assert visitor.page.locator("#received img").count() == 0


def test_domain_with_only_unauthenticated_reports_is_listed_apart(visitor: Visit, served: World) -> None:
    opened(visitor, "unproven.example")
    (row,) = table(visitor, "#received-unproven")
    assert row[:2] == ["unproven.example", "only unauthenticated reports: 1"]
    assert "Only unauthenticated reports about unproven.example have come in: 1." in visitor.page.inner_text(
        "#received-advice"
    )
    assert [row[2] for row in table(visitor, "#received-others")] == ["reporter.example"]
    assert visitor.page.locator("#received-days-chart rect").count() == 0
    assert served.get("/api/v1/received/unproven.example")["alerts"] == []
    visitor.screenshot("received-unproven")


def test_raw_report_is_shown_and_gets_the_focus(visitor: Visit) -> None:
    opened(visitor)
    visitor.page.click("#received-reports [data-raw] >> nth=0")
    visitor.page.wait_for_selector(".received-text")
    assert "total-failure-session-count" in visitor.page.inner_text(".received-text")
    assert visitor.page.evaluate("document.activeElement.id") == "received-raw"


def test_filters_by_reporter_type_and_time_narrow_the_figures(visitor: Visit) -> None:
    opened(visitor)
    page = visitor.page
    page.select_option("#received-reporter", "second.example")
    until(page, "document.querySelector('#received-failures tbody td:nth-child(3)').innerText === '6'")
    page.select_option("#received-type", "certificate-expired")
    until(page, "document.querySelectorAll('#received-reports tbody tr').length === 2")
    page.click("#received-range [data-days='90']")
    until(page, "document.querySelector('#received-range [data-days=\"90\"]').ariaPressed === 'true'")


def test_section_is_usable_by_keyboard_alone(visitor: Visit) -> None:
    visitor.open()
    visitor.page.wait_for_selector("[data-received='example.com']")
    visitor.page.focus("[data-received='example.com']")
    visitor.page.keyboard.press("Enter")
    visitor.page.wait_for_selector("#received-days-chart svg")
    until(visitor.page, "document.activeElement.id === 'received-detail'")
    assert visitor.page.inner_text("#received-spoken") == "Reports about example.com"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_section_fits_400_pixels(browser: "Browser", served: World, scheme: str) -> None:
    with visit(browser, served.base, viewport={"width": 400, "height": 800}, color_scheme=scheme) as found:
        opened(found)
        wide = found.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 400
        found.screenshot(f"received-400-{scheme}")
        found.check()
