"""The report page without a browser: budget kept, text inert, same rows same page, served locally only."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import random
import re
import string
import subprocess
import sys
import threading
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import pytest
from synthetic_campaign import INJECTION, SPEC, campaign_rows

from flows.report.campaign_digest import digest, forecasts, headline, wilson
from flows.report.html.build import SCRIPTS, Meta, build_report, render
from flows.report.html.compress import TEXT_LADDER, diff_order, fit_diffs, fit_texts, squeeze
from flows.report.html.serve import Cached, server
from flows.report.terminal.live_view import GLYPHS
from lineage.errors import ObjectMissing
from lineage.queries import View
from lineage.records import Row, Status
from tests.bench.report_size import payload_sizes

META = Meta(run="runs/x", version="0.1", generated=datetime(2026, 1, 2, tzinfo=UTC))


def no_blob(sha: str) -> bytes:
    raise ObjectMissing(f"{sha}: not here")


def noise(rng: random.Random, n: int) -> str:
    return "".join(rng.choices(string.printable, k=n))


def unpacked(page: str, kind: str) -> list[object]:
    found = re.findall(rf'<script type="application/x-{kind}"[^>]*>([^<]*)</script>', page)
    return [json.loads(gzip.decompress(base64.b64decode(text))) for text in found]


@pytest.mark.parametrize("n", [1, 40, 1000])
def test_the_page_holds_every_trial_and_stays_small(n: int) -> None:
    rows, blobs = campaign_rows(n)
    page = render(View.from_rows(rows, "min"), SPEC, blobs.__getitem__, META)
    (table,) = unpacked(page, "table")
    assert isinstance(table, dict)
    assert table["columns"]["id"] == [r.trial for r in rows if r.event == "trial"]
    diffs = {int(k): v for block in unpacked(page, "diffs") for k, v in block.items()}  # type: ignore[union-attr]
    assert len(diffs) == n - 1, "there was room for every diff"
    assert len(page.encode()) < 2_000_000


def test_incompressible_texts_and_diffs_do_not_break_the_budget() -> None:
    rng = random.Random(1)
    texts = [(noise(rng, 1990), noise(rng, 7000), noise(rng, 4000)) for _ in range(7)]
    rows = [
        row.model_copy(
            update=dict(zip(("hypothesis", "notes", "error_excerpt"), _turned(texts[i % 7], i), strict=True))
        )
        if row.event == "trial"
        else row
        for i, row in enumerate(campaign_rows(250)[0])
    ]
    diff = noise(rng, 20_000)
    page = render(
        View.from_rows(rows, "min"), SPEC, lambda sha: (sha + diff).encode(), META, limit_bytes=450_000
    )
    assert len(page.encode()) < 450_000
    assert "left out to keep this page small" in page
    (packed,) = unpacked(page, "texts")
    assert isinstance(packed, list)
    assert all(packed[0]) and max(map(len, packed[0])) < TEXT_LADDER[0][0], "cut, and none is gone"


def _turned(texts: tuple[str, str, str], by: int) -> list[str]:
    """The same characters in another order: cheap to make, and gzip's window does not reach the last copy."""
    return [text[by * 7 % len(text) :] + text[: by * 7 % len(text)] for text in texts]


def test_the_same_rows_give_the_same_bytes() -> None:
    pages = []
    for _ in range(2):
        rows, blobs = campaign_rows(60)
        pages.append(render(View.from_rows(rows, "min"), SPEC, blobs.__getitem__, META))
    assert pages[0] == pages[1]


def test_candidate_text_never_reaches_the_markup() -> None:
    rows, blobs = campaign_rows(40)
    bad = [
        r.model_copy(update={"hypothesis": INJECTION, "role": "<b>r", "cause": None, "notes": INJECTION})
        for r in rows
    ]
    champion = next(r.trial for r in bad if r.event == "confirmation" and r.verdict == "confirmed")
    page = render(View.from_rows(bad, "min"), SPEC, blobs.__getitem__, META)
    assert champion and champion in page
    assert page.count("<script>") == 1 and page.count("</html>") == 1
    assert "<img" not in page and "<b>r" not in page and "&lt;/script&gt;" in page


def test_scripts_never_parse_text_as_markup_and_name_no_address() -> None:
    assets = files("flows.report.html.assets")
    for name in [f"{s}.js" for s in SCRIPTS] + ["style.css", "page.html.j2"]:
        text = assets.joinpath(name).read_text("utf-8")
        assert text.count("\n") <= 400, name
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "DOMParser",
        ):
            assert word not in text, f"{name} uses {word}"
        for address in re.findall(r"https?://[^\s\"')]+", text):
            assert address == "http://www.w3.org/2000/svg", f"{name} names {address}"
        assert "style=" not in text, f"{name}: the page's policy refuses style attributes"


def test_a_missing_diff_is_no_error_and_no_page_is_left_half_written(tmp_path: Path) -> None:
    rows = campaign_rows(12)[0]
    path = build_report(View.from_rows(rows, "min"), SPEC, no_blob, tmp_path / "deep" / "r.html", META)
    assert path.read_text("utf-8").endswith("</html>")
    assert [p.name for p in path.parent.iterdir()] == ["r.html"]


def test_the_champions_chain_comes_first_when_space_is_short() -> None:
    rows, blobs = campaign_rows(200)
    view = View.from_rows(rows, "min")
    trials, best = view.trials(), view.row_of_incumbent()
    assert best is not None and best.trial is not None
    order = diff_order(trials, [best.trial])
    chain = [r.trial for r in reversed(view.chain(best.trial)) if r.diff_sha256]
    assert [trials[i].trial for i, _ in order[: len(chain)]] == chain
    assert len(order) == len({i for i, _ in order}) == len(trials) - 1
    blocks, missing = fit_diffs(order, blobs.__getitem__, 12_000)
    kept = [i for of, _ in blocks for i in of]
    assert kept == [i for i, _ in order[: len(kept)]] and missing == len(order) - len(kept) > 0
    assert sum(len(text) for _, text in blocks) <= 12_000


def test_texts_shrink_step_by_step() -> None:
    rows = campaign_rows(50)[0]
    trials = View.from_rows(rows, "min").trials()
    whole, step = fit_texts(trials, 10**6)
    assert step == TEXT_LADDER[0]
    small, smaller = fit_texts(trials, len(whole) // 2)
    assert smaller < step and len(small) < len(whole)


def test_squeeze_refuses_numbers_that_json_has_not() -> None:
    with pytest.raises(ValueError, match="JSON"):
        squeeze({"score": float("nan")})


def test_sizes_are_told_part_by_part() -> None:
    rows, blobs = campaign_rows(20)
    sizes = payload_sizes(render(View.from_rows(rows, "min"), SPEC, blobs.__getitem__, META))
    assert set(sizes) == {"page", "table", "texts", "diffs"}
    assert sizes["page"] > sizes["table"] + sizes["texts"] + sizes["diffs"] > 0


def test_headlines_keep_confirmed_and_lucky_apart() -> None:
    rows = campaign_rows(120)[0]
    told = headline(SPEC, digest(View.from_rows(rows, "min"), SPEC))
    assert told.startswith("Confirmed on fresh seeds: ") and "baseline scores 3.100 s" in told
    unproven = [r for r in rows if r.event != "confirmation"]
    told = headline(SPEC, digest(View.from_rows(unproven, "min"), SPEC))
    assert told.startswith("Nothing confirmed.") and "noise sd; it may be luck" in told
    hopeless = [r for r in rows if r.event == "trial" and str(r.status) != "keep"]
    assert headline(SPEC, digest(View.from_rows(hopeless, "min"), SPEC)).startswith(
        "No trial beat the baseline"
    )


def test_a_campaign_where_higher_is_better_counts_gains_upwards() -> None:
    up = SPEC.model_copy(update={"score": SPEC.score.model_copy(update={"direction": "max"})})
    rows = [
        r.model_copy(update={"score": -r.score + 10}) if r.score is not None else r
        for r in campaign_rows(80)[0]
    ]
    d = digest(View.from_rows(rows, "max"), up)
    assert d.improved and d.incumbent is not None and d.baseline is not None
    assert (d.incumbent.score or 0) > (d.baseline.score or 0)
    assert " better" in headline(up, d)


def test_the_ledger_adds_up() -> None:
    rows = campaign_rows(90)[0]
    trials = [r for r in rows if r.event == "trial"]
    d = digest(View.from_rows(rows, "min"), SPEC)
    assert d.spent.usd == pytest.approx(sum(r.usd for r in trials))
    assert sum(g.n for g in d.roles) == len(trials) - 1
    assert sum(f.n for f in d.failures) == d.trials - d.valid
    assert sum(d.statuses.values()) == d.trials + 1 == 90
    assert 0 < d.spent.failed_cpu_s < d.spent.cpu_s


def test_forecasts_rank_correlation_knows_ties_and_order() -> None:
    def row(expected: float, measured: float) -> Row:
        return Row(event="trial", campaign="c", status="keep", expected_delta=expected, delta_parent=measured)

    same = forecasts([row(x, 2 * x) for x in (-3.0, -2.0, -1.0, -1.0)])
    assert same.rank == pytest.approx(1.0) and same.right_sign == 4
    assert forecasts([row(x, -x) for x in (1.0, 2.0, 3.0)]).rank == pytest.approx(-1.0)
    assert forecasts([row(1.0, x) for x in (1.0, 2.0, 3.0)]).rank is None
    assert forecasts([]).n == 0


def test_wilson_holds_the_rate_and_stays_in_range() -> None:
    for n in (1, 7, 200):
        for hits in range(n + 1):
            low, high = wilson(hits, n)
            assert 0 <= low <= hits / n <= high <= 1


def _ask(port: int, path: str, host: str) -> tuple[int, str]:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    link.request("GET", path, headers={"Host": host})
    answer = link.getresponse()
    text = answer.read().decode()
    link.close()
    return answer.status, text


def test_the_served_page_is_local_only_and_built_once_per_change() -> None:
    built: list[int] = []
    version = [1]

    def build() -> str:
        built.append(version[0])
        return f"<p>{version[0]}</p>"

    running = server(Cached(build, lambda: version[0]))
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    try:
        port = running.server_address[1]
        assert _ask(port, "/", f"127.0.0.1:{port}") == (200, "<p>1</p>")
        assert _ask(port, "/?x=1", f"localhost:{port}") == (200, "<p>1</p>")
        assert built == [1]
        version[0] = 2
        assert _ask(port, "/", f"127.0.0.1:{port}") == (200, "<p>2</p>")
        assert _ask(port, "/other", f"127.0.0.1:{port}")[0] == 404
        assert _ask(port, "/", "evil.example:80")[0] == 403
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


def test_every_status_has_a_shape_on_the_page_and_in_the_terminal() -> None:
    core = files("flows.report.html.assets").joinpath("core.js").read_text("utf-8")
    grouped = re.findall(r'\["(\w+)", "[\w ]+", "(\w+)", \[([^\]]*)\]\]', core)
    statuses = [word for _, _, listed in grouped for word in re.findall(r'"(\w+)"', listed)]
    assert sorted(statuses) == sorted(Status)
    assert len({shape for _, shape, _ in grouped}) == len(grouped), "no two groups share a shape"
    assert set(GLYPHS) == set(Status)
    style = files("flows.report.html.assets").joinpath("style.css").read_text("utf-8")
    assert all(f"--{key}:" in style for key, _, _ in grouped)


def test_what_a_person_sees_starts_without_the_engine() -> None:
    names = [
        "terminal.display",
        "terminal.live_view",
        "terminal.watch",
        "show",
        "summary",
        "export",
        "formatting",
        "campaign_digest",
        "html.build",
        "html.serve",
    ]
    code = "import sys, " + ", ".join(f"flows.report.{name}" for name in names)
    code += "; print([m for m in ('prefect', 'torch', 'anthropic', 'pandas', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
