"""Chromium for the page tests. Skips them, with the reason, where there is no browser."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def browser_path() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser for one file: playwright's loop runs until it stops, and asyncio.run refuses a second one."""
    path = browser_path()
    if path is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (pip install -e .[dev])"
    )
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGS)
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page, what it complained about and what it asked the network for."""

    page: Any
    seconds: float = 0.0
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def until(self, condition: str, within_s: float = 10.0) -> None:
        """Wait for a JavaScript condition by asking again: the page's policy forbids injected polling."""
        deadline = time.monotonic() + within_s
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, f"still not true after {within_s} s: {condition}"
            time.sleep(0.02)

    def shown(self, start: str) -> None:
        self.until(f"document.getElementById('shown').textContent.startsWith({start!r})")

    def hash(self) -> str:
        return str(self.page.evaluate("location.hash"))


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Opened]]:
    contexts: list[Any] = []
    opened: list[Opened] = []

    def open_(
        path: Path, *, width: int = 1280, height: int = 900, fragment: str = "", **options: Any
    ) -> Opened:
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        found = Opened(page)
        opened.append(found)
        page.on("console", lambda m: found.errors.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: found.errors.append(str(e)))
        page.on("dialog", lambda d: (found.errors.append(f"dialog {d.message}"), d.dismiss()))
        page.on("request", lambda r: found.requests.append(r.url))
        start = time.perf_counter()
        page.goto(path.as_uri() + fragment)
        page.wait_for_selector("html[data-ready]", timeout=30_000)
        found.seconds = time.perf_counter() - start
        return found

    yield open_
    for context in contexts:
        context.close()
    for found in opened:  # holds for every page of every test
        assert found.errors == []
        assert len(found.requests) == 1, f"the page asked for {found.requests[1:]}"
