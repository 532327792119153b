"""Pictures of a report page for the README: light, dark, phone, one trial.

Run: `python -m tests.browser.screenshots runs/first/reports/ID/report.html flows/report/pictures`.
Limits: needs Chromium and playwright; the pictures are what the browser draws, nothing is arranged.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.browser.conftest import ARGS, browser_path


def _desk(page: Any) -> None:
    page.mouse.move(0, 0)


def _lineage(page: Any) -> None:
    page.evaluate("document.getElementById('lineage').scrollIntoView({behavior: 'instant'})")


def _insight(page: Any) -> None:
    page.evaluate("document.getElementById('insight').scrollIntoView({behavior: 'instant'})")


def _best(page: Any) -> None:
    page.keyboard.press("b")
    page.wait_for_selector("#panel:not([hidden])")


# name, width, height, colours, what to do first
SHOTS = (
    ("report", 1280, 900, "light", _desk),
    ("report-dark", 1280, 900, "dark", _desk),
    ("lineage", 1280, 720, "light", _lineage),
    ("insight", 1280, 900, "light", _insight),
    ("trial", 1280, 900, "light", _best),
    ("phone", 390, 844, "light", _desk),
)


def shoot(report: Path, folder: Path) -> list[Path]:
    from playwright.sync_api import sync_playwright

    program = browser_path()
    if program is None:
        raise SystemExit("screenshots: no Chromium on this machine (Debian: apt-get install chromium)")
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGS)
        for name, width, height, colours, act in SHOTS:
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=colours)
            page = context.new_page()
            page.goto(report.resolve().as_uri())
            page.wait_for_selector("html[data-ready]")
            act(page)
            page.wait_for_timeout(300)
            made.append(folder / f"{name}.png")
            page.screenshot(path=made[-1])
            context.close()
        browser.close()
    return made


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python -m tests.browser.screenshots REPORT.html FOLDER")
    for path in shoot(Path(sys.argv[1]), Path(sys.argv[2])):
        print(f"{path} {path.stat().st_size:,} bytes")
