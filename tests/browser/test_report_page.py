"""The report page in a real browser: reads, filters, sorts, opens trials, by mouse, keyboard and on a phone.

Every page opened here must end with no console message and exactly one request: the file itself.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic_campaign import INJECTION, SPEC, campaign_rows

from flows.report.html.build import Meta, build_report, render
from flows.report.html.serve import Cached, server
from lineage.queries import View
from lineage.records import Row

pytestmark = pytest.mark.browser
N = 300


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return campaign_rows(N)[0]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows, blobs = campaign_rows(N)
    path = tmp_path_factory.mktemp("report") / "report.html"
    return build_report(
        View.from_rows(rows, "min"), SPEC, blobs.__getitem__, path, Meta(run="runs/x", version="0.1")
    )


def trials(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.event == "trial"]


def first_cells(page: Any, css: str) -> list[str]:
    return [cell.inner_text() for cell in page.query_selector_all(f"#canvas .row .cell.{css}")]


def test_the_head_tells_the_verdict_and_the_table_counts_all(
    report: Path, open_page: Callable[..., Any], rows: list[Row]
) -> None:
    page = open_page(report).page
    best = View.from_rows(rows, "min").row_of_incumbent()
    assert best is not None
    assert f"Confirmed on fresh seeds: {best.trial}" in page.inner_text("h1")
    assert page.inner_text("#shown") == f"{N - 1} trials and the baseline"
    assert len(page.query_selector_all("#canvas .row")) < 60, "rows out of sight must not be nodes"


def test_filter_by_words_outcome_and_role(
    report: Path, open_page: Callable[..., Any], rows: list[Row]
) -> None:
    opened = open_page(report)
    page = opened.page
    page.fill("#q", "MOMENTUM settles")
    wanted = [r for r in trials(rows) if "momentum" in (r.hypothesis or "").lower()]
    opened.shown(f"{len(wanted)} of")
    page.click("#chips [data-key=keep]")
    keeps = [r for r in wanted if str(r.status) == "keep"]
    assert page.inner_text("#shown").startswith(f"{len(keeps)} of")
    assert "q=MOMENTUM" in opened.hash() and "show=keep" in opened.hash()
    page.click("#clear")
    assert page.inner_text("#shown") == f"{N - 1} trials and the baseline"
    page.select_option("#role", "loss")
    assert page.inner_text("#shown").startswith(f"{sum(r.role == 'loss' for r in trials(rows))} of")
    page.fill("#q", "no such words anywhere")
    page.wait_for_selector("#none:not([hidden])")


def test_sort_by_score_both_ways_with_blanks_last(
    report: Path, open_page: Callable[..., Any], rows: list[Row]
) -> None:
    opened = open_page(report)
    page = opened.page
    scored = sorted(r.score for r in trials(rows) if r.score is not None)
    page.click("#columns [data-key=score] button")
    assert float(first_cells(page, "score")[0]) == pytest.approx(scored[0], abs=1e-3)
    assert page.get_attribute("#columns [data-key=score]", "aria-sort") == "ascending"
    page.click("#columns [data-key=score] button")
    assert float(first_cells(page, "score")[0]) == pytest.approx(scored[-1], abs=1e-3)
    page.evaluate("document.getElementById('rows').scrollTop = 1e9")
    opened.until("[...document.querySelectorAll('#canvas .cell.score')].at(-1)?.textContent === '–'")


def test_a_click_in_the_tree_opens_the_trial_with_its_chain(
    report: Path, open_page: Callable[..., Any], rows: list[Row]
) -> None:
    opened = open_page(report)
    page = opened.page
    best = View.from_rows(rows, "min").row_of_incumbent()
    assert best is not None and best.trial is not None
    page.wait_for_selector("#tree .node.main")
    node = page.locator(
        f"#tree .node[data-i='{trials(rows).index(next(r for r in trials(rows) if r.trial == best.trial))}']"
    )
    node.scroll_into_view_if_needed()
    node.click()
    assert best.trial in page.inner_text("#panel-title")
    assert "champion now" in page.inner_text("#panel-title")
    chain = View.from_rows(rows, "min").chain(best.trial)
    assert len(page.query_selector_all("#tree .edge.on")) == len(chain) - 1
    text = page.inner_text("#panel-body")
    assert (best.hypothesis or "")[:40] in text
    for word in ("propose", "evaluate", "confirmed", "noise sd", "prompt", "accuracy"):
        assert word in text.lower(), word


def test_the_tree_unfolds_and_zooms(report: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(report).page
    before = len(page.query_selector_all("#tree .node"))
    page.locator("#tree-tools button", has_text="All trials").click()
    assert len(page.query_selector_all("#tree .node")) == N
    page.locator("#tree-tools button", has_text="All trials").click()
    assert len(page.query_selector_all("#tree .node")) == before
    scale = "+document.querySelector('#tree .world').getAttribute('transform').match(/scale\\((.*)\\)/)[1]"
    one = page.evaluate(scale)
    page.click("#tree-tools [aria-label='Zoom in']")
    assert page.evaluate(scale) > one
    page.click("#tree-tools button:text('Fit')")
    page.click("#tree-tools [aria-label='Zoom in']")
    seen = "g => { const r = g.getBoundingClientRect(), p = document.getElementById('tree').getBoundingClientRect();"
    seen += " return r.width > 0 && r.left > p.left && r.right < p.right && r.top > p.top && r.bottom < p.bottom; }"
    next(more for more in page.query_selector_all("#tree .more") if more.evaluate(seen)).click()
    assert len(page.query_selector_all("#tree .node")) > before


def test_a_failed_trial_says_why_and_shows_its_diff(
    report: Path, open_page: Callable[..., Any], rows: list[Row]
) -> None:
    failed = next(r for r in trials(rows) if r.cause == "oom")
    page = open_page(report, fragment=f"#trial={failed.trial}").page
    page.wait_for_selector("#panel pre.diff")
    text = page.inner_text("#panel-body")
    assert "oom" in text and "limit mb" in text and "RuntimeError" in text and "not reached" in text
    assert page.query_selector("#panel .dl.add") and page.query_selector("#panel .dl.del")


def test_keyboard_alone_is_enough(report: Path, open_page: Callable[..., Any]) -> None:
    opened = open_page(report)
    page = opened.page
    page.keyboard.press("/")
    page.keyboard.type("schedule")
    opened.until("document.getElementById('shown').textContent.includes(' of ')")
    page.keyboard.press("Escape")
    page.locator("#canvas .row").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    second = first_cells(page, "id")[1]
    assert second in page.inner_text("#panel-title")
    assert page.evaluate("document.activeElement.id") == "panel-title"
    page.keyboard.press("j")
    assert first_cells(page, "id")[2] in page.inner_text("#panel-title")
    page.keyboard.press("Escape")
    assert page.is_hidden("#panel") and "trial=" not in opened.hash()
    page.locator("#curve svg").first.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.inner_text("#live").startswith("t0")
    page.keyboard.press("Enter")
    assert page.is_visible("#panel")
    page.locator("#tree > svg").focus()
    at = opened.hash()
    page.keyboard.press("ArrowLeft")
    assert opened.hash() != at
    page.keyboard.press("?")
    assert page.evaluate("document.getElementById('help').open")


def test_markup_in_a_hypothesis_stays_inert(
    report: Path, open_page: Callable[..., Any], rows: list[Row]
) -> None:
    bad = next(r for r in trials(rows) if INJECTION in (r.hypothesis or ""))
    opened = open_page(report, fragment=f"#trial={bad.trial}")
    page = opened.page
    assert INJECTION in page.inner_text("#panel .hypothesis")
    page.fill("#q", "onerror")
    opened.shown("1 of")
    page.hover("#canvas .row")
    assert page.title() != "owned"
    assert page.evaluate("document.images.length") == 0


def test_the_policy_stops_a_script_that_slipped_through(report: Path, chromium: Any, tmp_path: Path) -> None:
    """Were escaping to fail, the hash policy still lets no foreign script, handler or request run."""
    page_text = report.read_text("utf-8")
    slipped = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    planted = tmp_path / "planted.html"
    planted.write_text(page_text.replace("<main>", "<main>" + slipped, 1), "utf-8")
    page = chromium.new_page()
    page.goto(planted.as_uri())
    page.wait_for_selector("html[data-ready]")
    assert page.title() != "owned"
    page.close()


@pytest.mark.parametrize("width", [320, 390, 820])
def test_narrow_screens_do_not_scroll_sideways(
    report: Path, open_page: Callable[..., Any], width: int
) -> None:
    page = open_page(report, width=width, height=800, has_touch=True, is_mobile=True).page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#canvas .row").first.tap()
    assert page.is_visible("#panel")
    if width < 720:
        assert page.evaluate("document.getElementById('panel').getBoundingClientRect().width") == width
    page.click("#close")
    assert page.is_hidden("#panel")


def test_dark_and_light_follow_the_system_and_the_switch(report: Path, open_page: Callable[..., Any]) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = open_page(report, color_scheme="dark").page
    light = open_page(report, color_scheme="light").page
    assert dark.evaluate(ground) != light.evaluate(ground)
    light.click("#theme")
    light.click("#theme")
    assert light.evaluate(ground) == dark.evaluate(ground)


def test_without_javascript_the_verdict_and_champions_still_read(report: Path, chromium: Any) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert "Confirmed on fresh seeds:" in page.inner_text("h1")
    assert page.locator(".champions tbody tr").count() >= 3
    context.close()


@pytest.mark.parametrize("state", ["empty", "baseline", "failures"])
def test_a_campaign_that_has_hardly_begun(state: str, open_page: Callable[..., Any], tmp_path: Path) -> None:
    rows = campaign_rows(30)[0]
    keep = {"empty": 0, "baseline": 3, "failures": 0}[state]
    some = (
        rows[:keep]
        if state != "failures"
        else [r for r in rows if str(r.status) in ("crash", "rejected", "baseline")]
    )
    path = build_report(View.from_rows(some, "min"), SPEC, lambda _: b"", tmp_path / "r.html")
    page = open_page(path).page
    expected = {
        "empty": "Nothing has been tried yet",
        "baseline": "No trial beat",
        "failures": "No trial beat",
    }[state]
    assert expected in page.inner_text("h1")


def test_control_arms_are_told_apart(open_page: Callable[..., Any], tmp_path: Path) -> None:
    arms = ("specialists", "random")
    rows = [r.model_copy(update={"arm": arms[i % 2]}) for i, r in enumerate(campaign_rows(60)[0])]
    page = open_page(build_report(View.from_rows(rows, "min"), SPEC, lambda _: b"", tmp_path / "r.html")).page
    assert {cell.inner_text() for cell in page.query_selector_all("#arms tbody th")} == set(arms)


def test_a_served_page_renews_itself_and_keeps_its_view(chromium: Any) -> None:
    rows = campaign_rows(40)[0]
    cut = [20]

    def build() -> str:
        return render(View.from_rows(rows[: cut[0]], "min"), SPEC, lambda _: b"", Meta(reload_s=1))

    running = server(Cached(build, lambda: cut[0]))
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    try:
        page = chromium.new_page()
        page.goto(f"http://127.0.0.1:{running.server_address[1]}/#sort=-score&all=1")
        page.wait_for_selector("html[data-ready]")
        before = page.inner_text("#shown")
        cut[0] = len(rows)
        page.wait_for_selector("#shown:has-text('39 trials')", timeout=15_000)
        assert before != "40 trials"
        assert page.get_attribute("#columns [data-key=score]", "aria-sort") == "descending"
        page.close()
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


@pytest.mark.parametrize(("n", "limit_s"), [(1000, 2.0), (5000, 5.0)])
def test_large_campaigns_load_in_time(
    n: int,
    limit_s: float,
    open_page: Callable[..., Any],
    tmp_path: Path,
    record_property: Callable[..., None],
) -> None:
    """The target is 2 s and 5 s on two quiet cores; asserted at three times that, because cores are shared."""
    rows, blobs = campaign_rows(n)
    path = build_report(View.from_rows(rows, "min"), SPEC, blobs.__getitem__, tmp_path / "big.html")
    opened = open_page(path)
    print(
        f"{n} trials: {path.stat().st_size:,} bytes, ready in {opened.seconds:.2f} s (target {limit_s:.0f} s)"
    )
    record_property("seconds", opened.seconds)
    assert opened.seconds < 3 * limit_s
    assert path.stat().st_size < 2_000_000
    opened.page.fill("#q", "momentum")
    opened.until("document.getElementById('shown').textContent.includes(' of ')")


def test_the_front_of_score_against_another_quantity(
    report: Path, open_page: Callable[..., Any], rows: list[Row]
) -> None:
    """Accuracy has a gate from below, so more of it is better; the score is lower-better."""
    page = open_page(report).page
    assert page.eval_on_selector("#front-by", "by => by.value") == "accuracy"
    valid = [
        row
        for row in trials(rows)
        if row.score is not None and str(row.status) in ("baseline", "keep", "discard")
    ]
    points = [
        (json.loads(row.quantities_json)["accuracy"], row.score, row.trial)
        for row in valid
        if "accuracy" in row.quantities_json
    ]
    on_front = {
        trial
        for accuracy, score, trial in points
        if not any(
            a >= accuracy and (s or 0) <= (score or 0) and (a, s) != (accuracy, score) for a, s, _ in points
        )
    }
    said = page.get_attribute("#front svg", "aria-label")
    named = set(said.rpartition("on the front: ")[2].split(", "))
    assert named and named <= on_front
    assert {
        t for t in on_front if sum(p[:2] == q[:2] for q in points for p in points if p[2] == t) == 1
    } <= named
