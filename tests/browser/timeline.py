"""Pictures of a run's timelines in the Prefect UI, for the README.

Run: `python -m tests.browser.timeline runs/first flows/report/pictures`. Starts the run's own Prefect server and
stops it again. Limits: needs Chromium and playwright, and the Prefect home that the campaign ran with.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from flows.machine.prefect_server import embedded_server
from tests.browser.conftest import ARGS, browser_path

SETTLE_MS = 6000  # the timeline draws itself after the page has loaded


async def flow_runs() -> list[tuple[str, str]]:
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        return [(str(run.id), run.name) for run in await client.read_flow_runs(limit=200)]


def main(root: str, out: Path) -> None:
    from playwright.sync_api import sync_playwright

    with embedded_server(str(Path(root).absolute())) as url:
        runs = asyncio.run(flow_runs())
        campaign = next(key for key, name in runs if name.startswith("campaign "))
        trial = next(key for key, name in runs if " · t0001 · " in name)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=browser_path(), args=ARGS)
            page = browser.new_page(viewport={"width": 1200, "height": 620})
            for name, key in (("prefect-campaign", campaign), ("prefect-trial", trial)):
                page.goto(f"{url.removesuffix('/api')}/runs/flow-run/{key}")
                page.wait_for_timeout(SETTLE_MS)
                page.screenshot(path=str(out / f"{name}.png"))
                print(out / f"{name}.png")
            browser.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
