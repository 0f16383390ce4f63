"""A real headless browser: the system's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# The page under test has no deadline of its own; a busy machine is no failure.
PATIENCE = 60_000


@contextmanager
def browser() -> Iterator[Any]:
    """It; the test is skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="no Playwright is installed")
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser is installed: none of {', '.join(NAMES)}")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=PATIENCE)
        try:
            yield opened
        finally:
            opened.close()


class Page:
    """A page of a report that was opened, and what happened on it.

    Attributes:
        tab: Playwright's page.
        requests: whatever it asked for.
        errors: what it said went wrong.
    """

    def __init__(self, browser: Any, path: Path, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        context.set_default_timeout(PATIENCE)
        self.tab = context.new_page()
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.tab.on("dialog", lambda dialog: self.errors.append(dialog.message))
        self.tab.goto(path.as_uri())

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self.tab.context.close()

    def shown(self) -> list[str]:
        """The texts of the rows in the table."""
        found: list[str] = self.tab.eval_on_selector_all("#body .text", "all => all.map(one => one.textContent)")
        return found

    def column(self, label: str) -> list[float]:
        """The numbers in a column of the table; what is not known is left out."""
        cells = self.tab.eval_on_selector_all("#body td", "all => all.map(one => [one.dataset.label, one.textContent])")
        return [float(text.replace(",", "")) for name, text in cells if name == label and text != "–"]
