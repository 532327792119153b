"""A run that its own curve shows to be hopeless ends early; nothing else is ended by a curve."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import quick

from lineage.records import Edit, Proposal

pytestmark = pytest.mark.slow  # a minute: curves are heard five times a second, and a curve needs 8 points
BLIND = Edit(path="model.py", search=".astype(np.float32) / PIXEL_MAX", replace=".astype(np.float32) * 0.0")
BRIGHT = Edit(path="model.py", search="PIXEL_MAX = 16.0", replace="PIXEL_MAX = 15.0")
STILL = Edit(path="fitting.py", search="LR = 0.1", replace="LR = 0.0")


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("pruning")
    place = quick.make(folder / "recipes")
    settings = place / "environment.toml"
    settings.write_text(settings.read_text("utf-8").replace("min_gain = 0.002\n", quick.PRUNING), "utf-8")
    for name, old, new in quick.REPORTING:
        path = place / "source" / name
        text = path.read_text("utf-8")
        assert text.count(old) == 1, (name, old)
        path.write_text(text.replace(old, new), "utf-8")
    env = quick.environ(folder / "home", folder / "recipes")
    quick.bakeoff("prepare", "quick", env=env, cwd=folder)
    plans = {"model": {"blind": BLIND, "bright": BRIGHT}, "training": {"still": STILL}}
    rows = [run(folder, env, role, edits) for role, edits in plans.items()]
    return pd.concat(rows).set_index("hypothesis")


def run(folder: Path, env: dict[str, str], role: str, edits: dict[str, Edit]) -> pd.DataFrame:
    """The trial rows of a campaign of one role that makes these edits of the start."""
    proposals = [
        Proposal(role=role, proposer="", parent="t0000", hypothesis=title, edits=(edit,))
        for title, edit in edits.items()
    ]
    script, config = folder / f"{role}.json", folder / f"{role}.toml"
    script.write_text(json.dumps([p.model_dump() for p in proposals]), "utf-8")
    config.write_text(f'[campaign]\nproposer = "scripted"\nscript = "{script}"\nconfirm = false\n')
    told = ("run", "quick", "--run", role, "--role", role, "--config", str(config), "--plain")
    quick.bakeoff(*told, "--trials", str(len(edits)), env=env, cwd=folder)
    assert quick.bakeoff("verify", role, env=env, cwd=folder).returncode == 0
    rows = pd.read_parquet(folder / role / "lineage")
    return rows[rows["event"] == "trial"]


def test_a_hopeless_run_ends_early_and_is_no_failure(trials: pd.DataFrame) -> None:
    assert (trials.loc["blind", "status"], trials.loc["blind", "cause"]) == ("discard", "pruned")
    assert pd.isna(trials.loc["blind", "score"])


def test_a_run_like_its_parents_goes_on_to_its_end(trials: pd.DataFrame) -> None:
    assert trials.loc["bright", "status"] in ("keep", "discard") and pd.isna(trials.loc["bright", "cause"])
    assert trials.loc["bright", "score"] > 0.8


def test_a_surface_that_can_change_what_is_reported_is_never_pruned(trials: pd.DataFrame) -> None:
    assert trials.loc["still", "cause"] != "pruned"
    assert trials.loc["still", "score"] < 0.3
