"""The paper's released 900-trial record as a page: real hypotheses, real damage, no confirmation anywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic_campaign import SPEC

from flows.report.html.build import build_report
from lineage.environment_spec import Score
from lineage.log.log_reader import Lineage
from lineage.paper.import_released import import_released
from lineage.queries import View
from lineage.store.objects import open_store

pytestmark = pytest.mark.browser
CAMPAIGN = "c-paper-golf"
GOLF = SPEC.model_copy(
    update={
        "name": "parameter_golf",
        "title": "Parameter Golf, the paper's headline run",
        "description": "Validation bits per byte; code and compressed model within 16,000,000 bytes, training within 600 s.",
        "score": Score(metric="bits_per_byte", direction="min", unit="bpb", digits=6),
        "gates": [],
    }
)


@pytest.fixture(scope="module")
def golf(tmp_path_factory: pytest.TempPathFactory, released_runs: Path) -> View:
    store = open_store(tmp_path_factory.mktemp("paper") / "store", create=True)
    import_released(released_runs / "pg_main", store, CAMPAIGN)
    return Lineage(store, CAMPAIGN, "min").refresh()


def test_the_released_run_is_a_page_that_claims_nothing_confirmed(
    golf: View, open_page: Callable[..., Any], tmp_path: Path
) -> None:
    path = build_report(golf, GOLF, lambda _: b"", tmp_path / "golf.html")
    opened = open_page(path)
    page = opened.page
    print(
        f"released run: {golf.count()} trials, {path.stat().st_size:,} bytes, ready in {opened.seconds:.2f} s"
    )
    assert path.stat().st_size < 2_000_000
    told = page.inner_text("h1").replace("\u00a0", " ")
    assert "Nothing confirmed." in told and "0.81 % better" in told
    assert page.inner_text("#shown") == f"{golf.count() - 1} trials and the baseline"
    assert "as they were imported" in page.inner_text("#record")
    page.click("#chips [data-key=keep]")
    keeps = sum(str(row.status) == "keep" for row in golf.trials())
    assert page.inner_text("#shown").startswith(f"{keeps} of")
    page.click("#clear")
    page.fill("#q", "muon momentum warmdown")
    opened.until("document.getElementById('shown').textContent.includes(' of ')")
    page.locator("#canvas .row").first.click()
    assert "No diff was recorded" in page.inner_text("#panel-body")


def test_its_tree_shows_every_keep_and_its_whole_chain(
    golf: View, open_page: Callable[..., Any], tmp_path: Path
) -> None:
    page = open_page(build_report(golf, GOLF, lambda _: b"", tmp_path / "golf.html")).page
    leader = golf.row_of_leader()
    assert leader is not None and leader.trial is not None
    drawn = len(page.query_selector_all("#tree .node"))
    assert drawn >= sum(str(row.status) in ("keep", "baseline") for row in golf.trials())
    assert len(page.query_selector_all("#tree .node.main")) == len(golf.chain(leader.trial))
    page.locator("#tree-tools button", has_text="All trials").click()
    assert len(page.query_selector_all("#tree .node")) == golf.count()
