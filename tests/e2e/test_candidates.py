"""One campaign in which every candidate misbehaves in its own way: each gets its status, the campaign goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import psutil
import pytest
import quick

from lineage.records import Edit, Proposal

NAN = "return {'weight': np.full((64, 10), np.nan, np.float32), 'bias': np.zeros(10, np.float32)}"
CLAIM = "print('accuracy: 1.0', flush=True); np.save('/tmp/score.npy', np.ones(1))"
# title: (what `fit` does first when it sees real data, statuses and causes that are right)
BAD = {
    "claims a score": (CLAIM, {("discard", None), ("keep", None)}),
    "loops for ever": ("while True: pass", {("train_budget_overrun", "cpu_cap")}),
    "sleeps for ever": ("import time; time.sleep(10_000)", {("train_budget_overrun", "wall_cap")}),
    "forks without end": (
        "import multiprocessing\n        while True: multiprocessing.get_context('fork').Process(target=print).start()",
        {("crash", "crash"), ("train_budget_overrun", "cpu_cap"), ("train_budget_overrun", "wall_cap")},
    ),
    "allocates without end": (
        "held = []\n        while True: held.append(np.ones(2**22))",
        {("crash", "oom")},
    ),
    "leaves no artifact": ("raise SystemExit(0)", {("crash", "no_artifact")}),
    "answers NaN": (NAN, {("crash", "nan")}),
    "raises": ("raise ValueError('no such luck')", {("crash", "crash")}),
    "does not parse": (")(", {("preflight_crash", "syntax")}),
    "edits another surface": ("", {("rejected", "outside_surface")}),
    "edits what is not there": ("", {("rejected", "bad_edit")}),
    "changes nothing": ("", {("rejected", "bad_edit"), ("rejected", "duplicate")}),
}
HONEST = "honest"


def proposal(title: str) -> Proposal:
    """A search/replace edit of the template; misbehaves on real data only, whose corner pixels are empty."""
    edits = {
        HONEST: Edit(path="fitting.py", search="STEPS = 300", replace="STEPS = 340"),
        "edits another surface": Edit(path="model.py", search="PIXEL_MAX = 16.0", replace="PIXEL_MAX = 15.0"),
        "edits what is not there": Edit(path="fitting.py", search="NO SUCH LINE", replace="x = 1"),
        "changes nothing": Edit(path="fitting.py", search="LR = 0.1 ", replace="LR = 0.1  "),
    }
    line = "    parameters = model.make_parameters(random)\n"
    bad = f"    if not images[:, 0, 0].any():\n        {BAD[title][0]}\n{line}" if title in BAD else ""
    edit = edits.get(title) or Edit(path="fitting.py", search=line, replace=bad)
    return Proposal(role="training", proposer="", parent="t0000", hypothesis=title, edits=(edit,))


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("candidates")
    path = quick.make(folder / "recipes") / "environment.toml"
    text = path.read_text("utf-8")
    for old, new in (
        ("train_cpu_s = 10", "train_cpu_s = 2"),
        ("train_wall_s = 60", "train_wall_s = 25"),
        ("memory_mb = 1024", "memory_mb = 400"),
    ):
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text, "utf-8")
    titles = [*BAD, HONEST]
    script = folder / "script.json"
    script.write_text(json.dumps([proposal(title).model_dump() for title in titles]), "utf-8")
    config = folder / "campaign.toml"
    config.write_text(
        f'[campaign]\nproposer = "scripted"\nscript = "{script}"\nroles = ["training"]\nconfirm = false\n'
    )
    env = quick.environ(folder / "home", folder / "recipes")
    quick.bakeoff("prepare", "quick", env=env, cwd=folder)
    count = str(len(titles))
    quick.bakeoff(
        "run",
        "quick",
        "--run",
        "r",
        "--config",
        str(config),
        "--trials",
        count,
        "--plain",
        env=env,
        cwd=folder,
    )
    left = [
        p.info["cmdline"]
        for p in psutil.process_iter(["cmdline"])
        if str(folder) in " ".join(p.info["cmdline"] or [])
    ]
    assert left == []
    rows: pd.DataFrame = (
        pd.read_parquet(folder / "r" / "lineage").query("event == 'trial'").set_index("hypothesis")
    )
    return rows


@pytest.mark.parametrize("title", list(BAD))
def test_each_candidate_gets_its_status_and_cause(trials: pd.DataFrame, title: str) -> None:
    row = trials.loc[title]
    cause = None if pd.isna(row["cause"]) else row["cause"]
    assert (row["status"], cause) in BAD[title][1], row["numbers_json"]


def test_a_claimed_score_is_not_a_score(trials: pd.DataFrame) -> None:
    row = trials.loc["claims a score"]
    assert row["score"] < 0.95
    assert row["score"] == pytest.approx(trials.loc["the recipe as it is", "score"], abs=0.03)


def test_the_campaign_went_on_to_the_honest_one(trials: pd.DataFrame) -> None:
    assert trials.loc[HONEST, "status"] in ("keep", "discard")
    assert trials.loc[HONEST, "score"] > 0.8


def test_failures_carry_the_number_that_repairs_them(trials: pd.DataFrame) -> None:
    over = json.loads(trials.loc["loops for ever", "numbers_json"])
    assert any("cap" in key or "over" in key for key in over), over
    crash = json.loads(trials.loc["raises", "numbers_json"])
    assert "ValueError" in json.dumps(crash) + str(trials.loc["raises", "error_excerpt"])


def test_no_file_was_left_outside(trials: pd.DataFrame) -> None:
    assert not Path("/tmp/score.json").exists()
