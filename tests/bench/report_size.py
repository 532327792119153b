"""Bytes of the report page, seconds to build it and seconds until a browser can use it.

Run: `python -m tests.bench.report_size` (100, 1,000 and 5,000 trials) or with numbers of trials.
Limits: made-up rows; the browser column needs Chromium and playwright and is a dash without them.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from flows.report.html.build import Meta, build_report
from lineage.queries import View
from tests.synthetic_campaign import SPEC, campaign_rows


def load_seconds(path: Path) -> str:
    """Median of three cold contexts, from navigation to `data-ready`."""
    try:
        from playwright.sync_api import sync_playwright

        from tests.browser.conftest import ARGS, browser_path
    except ImportError:
        return "–"
    program = browser_path()
    if program is None:
        return "–"
    seconds = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGS)
        for _ in range(3):
            page = browser.new_context().new_page()
            start = time.perf_counter()
            page.goto(path.as_uri())
            page.wait_for_selector("html[data-ready]", timeout=60_000)
            seconds.append(time.perf_counter() - start)
        browser.close()
    return f"{sorted(seconds)[1]:.2f}"


def payload_sizes(text: str) -> dict[str, int]:
    """Bytes of a rendered page and of each data part in it."""
    parts = {"page": len(text.encode())}
    for chunk in text.split('<script type="application/x-')[1:]:
        name, _, rest = chunk.partition('"')
        parts[name] = parts.get(name, 0) + len(rest.partition("</script>")[0])
    return parts


def main(counts: list[int]) -> None:
    print(
        f"{'trials':>7} {'page B':>10} {'table B':>9} {'texts B':>9} {'diffs B':>9} {'build s':>8} {'load s':>7}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for n in counts:
            rows, blobs = campaign_rows(n)
            view = View.from_rows(rows, "min")
            start = time.perf_counter()
            path = build_report(view, SPEC, blobs.__getitem__, Path(folder) / f"{n}.html", Meta())
            took = time.perf_counter() - start
            size = payload_sizes(path.read_text("utf-8"))
            parts = " ".join(f"{size.get(name, 0):>9,}" for name in ("table", "texts", "diffs"))
            print(f"{n:>7,} {size['page']:>10,} {parts} {took:>8.2f} {load_seconds(path):>7}")


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [100, 1000, 5000])
