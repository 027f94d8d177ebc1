"""The page's section of published policies, in a real browser."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.admin.browser import Visit, chromium, visit
from tests.admin.page_world import World, world

if TYPE_CHECKING:
    from playwright.sync_api import Browser

DOMAINS = {
    "testing.example": {"mode": "testing", "mx": ["mx.testing.example"]},
    "enforce.example": {"mode": "enforce", "mx": "auto"},
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("published"), asked=False, publish={"domains": DOMAINS}) as made:
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


def test_published_domains_have_a_row_each_with_attention_first(visitor: Visit, served: World) -> None:
    visitor.open()
    page = visitor.page
    page.wait_for_selector("#published tbody tr")
    rows = page.eval_on_selector_all(
        "#published tbody tr", "rows => rows.map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    )
    assert [row[:2] for row in rows] == [["enforce.example", "nothing served"], ["testing.example", "testing"]]
    assert rows[0][5] == "wait until the MX records can be read"
    assert rows[1][2] == served.get("/api/v1/publish/domains")["domains"][1]["id"][:8]
    # The first drift check may have ended.
    assert re.match(r"not checked yet|2 findings, ", rows[1][4])
    assert rows[1][6] == "none"
    assert "add public.listen" in page.inner_text("#published")
    assert page.inner_text("#published-summary").startswith("2 domains")
