"""A real browser for the status page, with checks for every visit.

Chromium is Debian's. If it or Playwright is missing, the tests are skipped, but not in CI.
"""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["SCREENSHOTS", "Visit", "chromium", "visit"]

SCREENSHOTS: Final = Path(__file__).parent.parent.parent / ".cache" / "screenshots"

_ARGUMENTS: Final = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
)
_PATIENCE: Final = 120_000
"""Milliseconds after which a wait fails the test."""


@contextmanager
def chromium() -> Iterator["Browser"]:
    """A browser; its event loop occupies this thread, so no other one can run."""
    path = shutil.which("chromium")
    if path is None or importlib.util.find_spec("playwright") is None:
        assert not os.environ.get("CI"), "chromium or playwright is missing"
        pytest.skip("needs chromium (apt-get install chromium) and playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS.split())
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """A page, and its recorded errors and requests."""

    page: "Page"
    base: str
    complaints: list[str] = field(default_factory=list)
    """Errors of the console, and exceptions."""
    requested: list[str] = field(default_factory=list)

    def open(self, path: str = "/") -> "Page":
        """Open the page and wait until it shows data of the daemon."""
        self.page.goto(self.base + path)
        self.page.wait_for_selector("#health:not([data-level=waiting])")
        # Drawn after all requests of the opening.
        self.page.wait_for_selector("#tls .panel")
        return self.page

    def explain(self, key: str, *, live: bool = False) -> "Page":
        """Type a domain and wait for its explanation."""
        self.page.fill("#key", key)
        self.page.set_checked("#live", live)
        self.page.press("#key", "Enter")
        self.page.wait_for_selector("#answer[aria-busy=false] .verdict")
        return self.page

    def screenshot(self, name: str) -> None:
        """Save a screenshot."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

    def check(self) -> None:
        """Check that there were no errors and no requests to other hosts."""
        assert self.complaints == [], self.complaints
        others = [url for url in self.requested if urlsplit(url).netloc != urlsplit(self.base).netloc]
        assert others == []


@contextmanager
def visit(browser: "Browser", base: str, **options: Any) -> Iterator[Visit]:
    """Open a page with a new profile; ``options`` are Playwright's, such as ``viewport`` and ``color_scheme``."""
    context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
    page = context.new_page()
    page.set_default_timeout(_PATIENCE)
    found = Visit(page, base)
    page.on("console", lambda message: found.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.on("request", lambda request: found.requested.append(request.url))
    try:
        yield found
    finally:
        context.close()
