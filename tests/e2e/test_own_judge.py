"""Environments with a judge.py of their own, by commands alone: each wrapped, three trials run, one edit takes effect."""

from __future__ import annotations

import json
from pathlib import Path

import judged_environments as je
import pandas as pd
import pytest
import quick


def campaign(folder: Path, name: str, *edits: tuple[str, str]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Prepare, run the edits and verify; the trials, and the variables of the commands."""
    env = quick.environ(folder / "home", folder / "recipes")
    je.script(folder, *edits)
    quick.bakeoff("prepare", name, env=env, cwd=folder)
    told = ("run", name, "--run", "r", "--config", "run.toml", "--plain", "--slots", "1")
    quick.bakeoff(*told, "--trials", str(len(edits)), env=env, cwd=folder, timeout=500)
    said = quick.bakeoff("verify", "r", env=env, cwd=folder)
    assert "every hash and chain holds" in said.stdout
    return pd.read_parquet(folder / "r" / "lineage").query("event == 'trial'").set_index("trial"), env


@pytest.mark.slow
def test_a_regression_with_gradient_boosting(tmp_path: Path) -> None:
    je.regression(tmp_path / "recipes")
    trials, _ = campaign(
        tmp_path, "friedman", ("TREES = 15", "TREES = 120"), ("RATE = 0.1", "RATE = 0.0001"), ("SHARE = 0.8", "SHARE = 0.9")
    )  # fmt: skip
    assert list(trials["status"].str.lower())[:2] == ["baseline", "keep"], trials["notes"].tolist()
    assert trials["score"]["t0001"] < 0.5 * trials["score"]["t0000"] < trials["score"]["t0002"]
    confirmed = pd.read_parquet(tmp_path / "r" / "lineage").query(
        "event == 'promotion' or verdict == 'confirmed'"
    )
    assert "t0001" in set(confirmed["trial"])
    details = [json.loads(text) for text in confirmed["detail_json"] if text]
    items = [chance["items"] for detail in details for chance in detail.get("items", [])]
    assert items and set(items) == {200}, "the test of items has one item a row of the split"


@pytest.mark.slow
def test_a_cartpole_policy_in_episodes(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium", reason="the simulator of this judge.py; pip install gymnasium")
    je.cartpole(tmp_path / "recipes")
    trials, _ = campaign(
        tmp_path, "cartpole", ("SPREAD = 1.0", "SPREAD = 0.0"), ("ROUNDS = 1", "ROUNDS = 8"), ("ELITE = 2", "ELITE = 3")
    )  # fmt: skip
    assert trials["score"]["t0001"] < 60 < trials["score"]["t0000"], "all-zero weights push to one side only"
    assert trials["score"]["t0002"] > trials["score"]["t0001"]


@pytest.mark.slow
@pytest.mark.parametrize("own", [True, False], ids=["judge.py", "kind text"])
def test_text_by_word_error_rate(tmp_path: Path, own: bool) -> None:
    je.text(tmp_path / "recipes", own=own)
    trials, env = campaign(
        tmp_path, "spelling", ("PAIRS = 3", "PAIRS = 60"), ("PAIRS = 3", "PAIRS = 1"), ("PAIRS = 3", "PAIRS = 0")
    )  # fmt: skip
    assert trials["score"]["t0001"] == 0 < trials["score"]["t0000"] < trials["score"]["t0003"] == 1
    again = quick.bakeoff("replay", "r", "t0001", env=env, cwd=tmp_path)
    assert "same bits" in again.stdout
    if own:
        judge = tmp_path / "recipes" / "spelling" / "judge.py"
        judge.write_text(judge.read_text() + "\n# another judge\n")
        for command in (("replay", "r", "t0001"), ("resume", "r")):
            refused = quick.bakeoff(*command, env=env, cwd=tmp_path, check=False)
            assert refused.returncode == 2 and "judge.py: was changed" in refused.stderr, refused.stderr
