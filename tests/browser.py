"""Open the page of a report in the Chromium of this machine."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

DATA = """
selector => [...document.querySelectorAll(`${selector} tbody tr`)].map(
    row => [...row.cells].map(cell => cell.querySelector('data')?.value
        ?? cell.querySelector('time')?.dateTime ?? cell.textContent))
"""


def chromium() -> Iterator[Browser]:
    """Start a headless browser. Skip the test if this machine has none."""
    playwright = pytest.importorskip("playwright.sync_api")
    programs = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    path = next(filter(None, programs), None)
    if path is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(
    browser: Browser,
    path: Path,
    scheme: Any = "light",
    messages: list[str] | None = None,
    width: int = 1280,
) -> Page:
    """Open a page; its console messages and requests are appended to ``messages``."""
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    if messages is not None:
        page.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: messages.append(f"error: {error}"))
        page.on("request", lambda request: messages.append(request.url))
    page.goto(path.as_uri())
    return page


def data(page: Page, selector: str) -> list[list[str]]:
    """Return the cells of a table: the value, the time or the text of each."""
    rows: list[list[str]] = page.evaluate(DATA, selector)
    return rows
