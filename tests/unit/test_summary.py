"""The morning summary and `show`: true sentences, inert candidate text, JSON that a machine can read."""

from __future__ import annotations

import io
import json
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from synthetic_campaign import INJECTION, SPEC, campaign_rows

from flows.report import formatting
from flows.report.campaign_digest import digest, headline
from flows.report.overfitting import overfitting_text
from flows.report.show import (
    campaign_json,
    campaign_view,
    diff_view,
    environments_table,
    find_trial,
    trial_diff,
    trial_json,
    trial_view,
)
from flows.report.summary import Links, end_text, morning_summary, near_misses
from lineage.errors import ObjectMissing, UnknownName
from lineage.queries import View
from lineage.records import Row, Status
from lineage.safe_text import for_markdown

LINKS = Links(run="runs/x", report="runs/x/report.html", apply_command="bakeoff diff t0001 | patch -p1")


@pytest.fixture(scope="module")
def view() -> View:
    return View.from_rows(campaign_rows(120)[0], "min")


def shown(renderable: object, width: int = 120) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_the_summary_has_its_six_parts_and_says_what_won(view: View) -> None:
    text = morning_summary(view, SPEC, LINKS)
    assert re.findall(r"^## (.*)$", text, re.M) == [
        "What won", "What was learnt", "What kept failing", "What it cost", "What to try next", "Where things are",
    ]  # fmt: skip
    best = view.row_of_incumbent()
    assert best is not None
    assert f"**{best.trial}**" in text and "noise sd" in text and "sealed split" in text
    assert "bakeoff diff t0001 | patch -p1" in text and "all 120 trials are done" in text


def test_the_gauge_of_overfitting_has_an_interval_from_the_second_champion_on() -> None:
    def sealed(*pairs: tuple[float, float]) -> str:
        rows = [
            Row(event="sealed", campaign="c", trial=f"t{n:04d}", public_score=one, sealed_score=other)
            for n, (one, other) in enumerate(pairs)
        ]
        return overfitting_text(View.from_rows(rows, "min"), SPEC)

    assert sealed() == ""
    assert "1 champion: 0.200 s" in sealed((1.0, 1.2)) and "no interval" in sealed((1.0, 1.2))
    text = sealed((1.0, 1.1), (0.9, 1.1))
    assert "over 2 champions: 0.150 s" in text and "better on the public split" in text
    assert "95 % interval −0.485 to +0.785" in text, "t of one degree of freedom: 0.15 ± 12.706 * 0.05"
    assert text.endswith("first champion +0.100, last +0.200.")
    assert "worse on the public split" in sealed((1.2, 1.0))


def test_the_summary_of_a_luckless_campaign_promises_nothing() -> None:
    rows = [r for r in campaign_rows(60)[0] if r.event == "trial" and str(r.status) != "keep"]
    text = morning_summary(View.from_rows(rows, "min"), SPEC)
    assert "nothing confirmed" in text and "No trial beat the baseline" in text and "## What won" not in text
    assert "Confirmed on fresh seeds:" not in text
    empty = morning_summary(View.from_rows([], "min"), SPEC)
    assert "nothing tried" in empty


def test_an_unconfirmed_leader_is_told_as_such() -> None:
    rows = [r for r in campaign_rows(60)[0] if r.event != "confirmation"]
    text = morning_summary(View.from_rows(rows, "min"), SPEC)
    assert "Measured once, not confirmed" in text and re.search(
        r"Confirm t\d+: it leads by one measurement", text
    )


def test_near_misses_name_the_shortfall() -> None:
    miss = Row(
        event="trial", campaign="c", trial="t9", role="arch", status=Status.SIZE_BLOCKED, cause="oversize", score=0.1,
        numbers_json='{"over": 2040}',
    )  # fmt: skip
    far = miss.model_copy(update={"trial": "t8", "score": 9.0})
    forged = miss.model_copy(update={"trial": "t7", "status": Status.DISQUALIFIED, "cause": "tamper"})
    rows = [*campaign_rows(60)[0], miss, far, forged]
    view = View.from_rows(rows, "min")
    assert [r.trial for r in near_misses(view.trials(), SPEC, digest(view, SPEC))] == ["t9"]
    assert re.search(
        r"Repair t9 \(arch\): 0\.100 s would lead; oversize: over 2040\.", morning_summary(view, SPEC)
    )


def test_the_end_text_answers_the_four_questions(view: View) -> None:
    text = end_text(view, SPEC, LINKS, why="all done")
    assert "119 trials besides the baseline" in text
    assert (
        text.startswith("Confirmed on fresh seeds: ")
        and "Measured noise: 0.021 s (sd of 5 baseline runs)" in text
    )
    assert "report: runs/x/report.html" in text and "Ended: all done." in text


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_candidate_text_cannot_write_markdown(text: str) -> None:
    safe = for_markdown(text, 0)
    assert "\n" not in safe and "\x1b" not in safe and "://" not in safe
    assert not re.search(r"[<>]|&(?!lt;|gt;|amp;)", safe), safe
    bare = re.sub(r"\\[\\`*_{}\[\]#|~!$]", "", safe)
    assert not re.search(r"[\\`*_{}\[\]#|~!$]", bare), safe
    assert not re.search(r"@(?!\u200b)", bare)


def test_the_injection_is_dead_in_markdown() -> None:
    rows = [
        r.model_copy(update={"hypothesis": INJECTION}) if r.event == "trial" else r
        for r in campaign_rows(60)[0]
    ]
    text = morning_summary(View.from_rows(rows, "min"), SPEC)
    assert "<script>" not in text and "<img" not in text and "&lt;img" in text


@pytest.mark.parametrize("text", ["t0042", "42", "#42", " t0042 "])
def test_a_trial_is_found_however_it_is_written(view: View, text: str) -> None:
    assert find_trial(view, text).trial == "t0042"


def test_trials_by_name_and_an_unknown_one(view: View) -> None:
    best = view.row_of_incumbent()
    assert best is not None and find_trial(view, "best").trial == best.trial
    assert find_trial(view, "baseline").trial == "t0000" and find_trial(view, "last").trial == "t0119"
    with pytest.raises(UnknownName, match=r"no trial named 't0420'; did you mean 't0\d+'\?"):
        find_trial(view, "t0420")


@pytest.mark.parametrize("width", [60, 100, 180])
def test_show_fits_the_width_and_tells_the_facts(view: View, width: int) -> None:
    text = shown(campaign_view(view, SPEC), width)
    assert max(map(len, text.splitlines())) <= width
    assert "Confirmed on fresh seeds:" in text and "Roles" in text and "Failures" in text
    if width >= 100:
        assert "t0119" in text and "vs baseline" in text


def test_show_trial_opens_everything(view: View) -> None:
    blobs = campaign_rows(120)[1]
    best = find_trial(view, "best")
    text = shown(trial_view(view, SPEC, best, diff=trial_diff(best, blobs.__getitem__)))
    for word in ("seeds", "accuracy", "confirmed", "evaluate", "prompt", "@@ -", "t0000 > "):
        assert word in text, word
    refused = next(r for r in view.trials() if r.verdict == "unconfirmed")
    assert ": a gain was not shown" in shown(trial_view(view, SPEC, refused))
    failed = next(r for r in view.trials() if r.cause == "oom")
    text = shown(trial_view(view, SPEC, failed))
    assert "Log (untrusted)" in text and "RuntimeError" in text and "✗ train" in text


def test_console_markup_and_escapes_in_candidate_text_stay_text() -> None:
    rows = [
        r.model_copy(update={"hypothesis": "[red]x[/red] [/] \x1b[2J"}) if r.trial == "t0003" else r
        for r in campaign_rows(6)[0]
    ]
    view = View.from_rows(rows, "min")
    text = shown(trial_view(view, SPEC, find_trial(view, "3")))
    assert "[red]x[/red] [/]" in text and "\x1b" not in text


def test_diffs_that_are_not_there_are_explained(view: View) -> None:
    def gone(sha: str) -> bytes:
        raise ObjectMissing(f"blobs/{sha}")

    assert "recipe as shipped" in trial_diff(find_trial(view, "baseline"), gone)
    assert "is not in the store: blobs/" in trial_diff(find_trial(view, "best"), gone)
    assert "-old" in str(diff_view("@@ -1 +1 @@\n-old\n+new\n"))


def test_json_is_plain_and_complete(view: View) -> None:
    told = json.loads(json.dumps(campaign_json(view, SPEC), allow_nan=False))
    assert told["trials"] == 119 and told["improved"] is True and told["incumbent"]["gain"] > 0
    assert sum(told["statuses"].values()) == 120
    one = json.loads(json.dumps(trial_json(view, find_trial(view, "best")), allow_nan=False))
    assert one["chain"][0] == "t0000" and one["quantities"]["accuracy"] > 0.9 and one["detail"]["label"]


def test_the_table_of_environments_tells_what_to_do_next() -> None:
    row = {
        "name": "airbench_mini", "title": "t", "metric": "cpu_seconds", "direction": "min", "hardware": "cpu",
        "gates": [{"quantity": "accuracy", "at_least": 0.96}], "roles": ["a", "b"], "prepared": False,
    }  # fmt: skip
    text = shown(environments_table([row]))
    assert "accuracy ≥ 0.96" in text and "bakeoff prepare airbench_mini" in text
    assert "environment.toml" in shown(environments_table([]))


def test_a_machine_that_drifted_is_told_apart_from_a_gain() -> None:
    """The start took 4 s in the evening and 5 s beside the champion: 2 s is 50 % better, side by side 60 %."""

    def row(event: str, trial: str, **values: object) -> Row:
        return Row.model_validate({"event": event, "campaign": "c", "trial": trial, **values})

    rows = [
        row("trial", "t0000", status="baseline", score=4.0),
        row("trial", "t0001", status="keep", score=2.0, parent="t0000"),
        row(
            "confirmation", "t0001", verdict="confirmed", score=2.0, gain=3.0, p_value=0.01, incumbent="t0000"
        ),
    ]
    drifted = headline(SPEC, digest(View.from_rows(rows, "min"), SPEC))
    assert "50.00 % better, 60.00 % better side by side (p = 0.01)" in drifted
    rows[-1] = rows[-1].model_copy(update={"gain": 2.0})
    assert "side by side" not in headline(SPEC, digest(View.from_rows(rows, "min"), SPEC))


def test_the_clock_stands_still_between_a_stop_and_a_resume() -> None:
    """Ten minutes in the evening, killed; five more the next morning, ended."""

    def at(hour: int, minute: int) -> datetime:
        return datetime(2026, 3, 1 + hour // 24, hour % 24, minute, tzinfo=UTC)

    def told(operator: str, moment: datetime) -> Row:
        return Row(event="campaign", campaign="c", operator=operator, t_started=moment)

    def tried(trial: str, begin: datetime, end: datetime) -> Row:
        return Row(
            event="trial", campaign="c", trial=trial, status=Status.DISCARD, t_started=begin, t_finished=end
        )

    evening = [told("start", at(20, 0)), tried("t0001", at(20, 1), at(20, 10))]
    morning = [told("resume", at(31, 0)), tried("t0002", at(31, 1), at(31, 4)), told("end", at(31, 5))]
    assert digest(View.from_rows([*evening, *morning], "min"), SPEC).spent.wall_s == 15 * 60
    assert digest(View.from_rows(evening[1:], "min"), SPEC).spent.wall_s == 9 * 60, "an imported record"
    assert digest(View.from_rows([], "min"), SPEC).spent.wall_s is None


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("", "the sealed split reverses its gain"),
        (
            "gate_missed: accuracy misses its limit on the sealed split",
            "accuracy misses its limit on the sealed split",
        ),
    ],
)
def test_a_lost_title_has_its_reason(fault: str, why: str) -> None:
    """A champion that is better on the sealed split and misses a gate there has no reversed gain."""
    detail = {"fault": fault, "sealed_relative": [0.3, 0.2, 0.4], "public_relative": [0.3, 0.2, 0.4]}
    event = Row(
        event="sealed", campaign="c-x", trial="t0007", sealed_verdict="reversed", sealed_level=0.025,
        detail_json=json.dumps(detail),
    )  # fmt: skip
    told = formatting.contradiction(event)
    assert told.startswith(f"ALARM: t0007 was confirmed, and {why}: 30.00 % better")
    assert ("no champion" in told) == bool(fault) and ("reversed" in told) != bool(fault)
