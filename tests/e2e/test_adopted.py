"""From a git repository to a confirmed record in three commands: clone, adopt, run. Three kinds of repository.

Limits: real campaigns, so slow; what adopt decides and refuses is in tests/unit/test_adopt.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import char_transformer
import image_classifier
import pandas as pd
import pytest
import quick
import script_recipe
from git_lab import commit, git

from lineage.records import Edit, Proposal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def clone(folder: Path, name: str) -> Path:
    """What is in `folder` as a repository elsewhere, and a fresh clone of it."""
    origin = folder / "origin"
    commit(origin)
    git(folder, "clone", "-q", str(origin), name)
    return folder / name


def campaign(tmp_path: Path, name: str, *arguments: str) -> tuple[pd.DataFrame, str, dict[str, str]]:
    """Adopt the clone and run three trials, with commands alone; the trials, what adopt printed, the environment."""
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")
    adopted = quick.bakeoff("adopt", name, *arguments, "--yes", env=env, cwd=tmp_path)
    quick.bakeoff("run", name, "--trials", "3", "--run", "run", env=env, cwd=tmp_path, timeout=500)
    rows = pd.read_parquet(tmp_path / "run" / "lineage")
    return rows[rows["event"] == "trial"].set_index("trial"), adopted.stdout, env


def took_effect(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials whose edit became a program with a score other than the start's."""
    start = trials.loc["t0000"]
    edited = trials.drop("t0000")
    return edited[
        edited["score"].notna() & (edited["score"] != start["score"]) & edited["diff_sha256"].notna()
    ]


def test_a_character_model_with_configuration_files(tmp_path: Path) -> None:
    char_transformer.write(tmp_path / "origin")
    repository = clone(tmp_path, "chars")
    char_transformer.prepare(repository)
    train = "python train.py config/train_char.py --seed={seed} --out_dir={out}"
    trials, printed, env = campaign(
        tmp_path, "chars", "--train", train, "--metric", r"step \d+: .*val loss ([0-9.]+)", "--direction", "min",
        "--edit", "config/*.py", "--edit", "model.py",
    )  # fmt: skip
    assert "config/train_char.py:learning_rate = 0.001" in printed and "sd " in printed
    assert set(trials["trust"]) == {"reported"} and trials.loc["t0000", "status"] == "baseline"
    assert 1.5 < trials.loc["t0000", "score"] < 5
    assert len(took_effect(trials)) >= 1, trials[["status", "cause", "score"]]
    shown = " ".join(quick.call("show", "run", env=env, cwd=tmp_path).stdout.split())  # lines are wrapped
    assert "Trust: reported, the recipe's own program says what its score is." in shown
    assert "not applicable to a script" in shown
    assert git(repository, "status", "--porcelain") == ""


def test_images_in_folders_with_argparse_and_a_table(tmp_path: Path) -> None:
    image_classifier.write(tmp_path / "origin")
    clone(tmp_path, "digits")
    train = "python main.py --data data --output-dir {out} --seed {seed}"
    trials, printed, env = campaign(
        tmp_path, "digits", "--train", train, "--metric", "log.csv:val_acc", "--direction", "max"
    )
    assert "main.py:--lr = 0.05" in printed and "main.py:--seed" not in printed
    assert len(took_effect(trials)) >= 1, trials[["status", "cause", "score"]]
    assert 0.1 < trials.loc["t0000", "score"] < 1
    diff = quick.call("diff", "run", str(took_effect(trials).index[0]), env=env, cwd=tmp_path).stdout
    assert "default=" in diff and diff.startswith("--- a/main.py")


def test_a_protected_evaluator_with_data_of_its_own(tmp_path: Path) -> None:
    for name, text in script_recipe.files().items():
        (tmp_path / "origin" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "origin" / name).write_text(text)
    clone(tmp_path, "line")
    trials, printed, env = campaign(
        tmp_path, "line", "--train", "python train.py --seed={seed} --out={out}", "--evaluate",
        "python evaluate.py {out}", "--eval-data", "data/heldout.csv", "--metric", "held-out loss ([0-9.]+)",
    )  # fmt: skip
    assert "trust      evaluated: a protected program prints the score in a sandbox of its own" in printed
    assert set(trials["trust"]) == {"evaluated"} and len(took_effect(trials)) >= 1
    verified = quick.call("verify", "run", env=env, cwd=tmp_path)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    shown = json.loads(quick.call("show", "run", "--json", env=env, cwd=tmp_path).stdout)
    assert shown["trust"] == "evaluated" and shown["champions_not_sealed"] == []
    again = quick.call(
        "run", "line", "--trials", "1", "--run", "other", "--trust", "judged", env=env, cwd=tmp_path
    )
    assert (
        again.returncode == 2
        and "its scores are evaluated" in again.stderr
        and not (tmp_path / "other").exists()
    )


def test_a_confirmed_script_is_scored_on_a_sealed_split(tmp_path: Path) -> None:
    """With a prepare.py: its folders are {data} and {eval_data}, and a champion is scored on data of its own."""
    script_recipe.write_sealed(tmp_path / "recipes")
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")
    edit = Edit(path="train.py", search="STEPS = 6", replace="STEPS = 60")
    step = Proposal(
        role="training", proposer="", parent="t0000", hypothesis="six steps are too few", edits=(edit,)
    )
    (tmp_path / "steps.json").write_text(json.dumps([step.model_dump()]))
    settings = f'[campaign]\nproposer = "scripted"\nscript = "{tmp_path}/steps.json"\n'
    (tmp_path / "campaign.toml").write_text(settings)
    quick.bakeoff("prepare", "line", env=env, cwd=tmp_path)
    done = quick.bakeoff(
        "run",
        "line",
        "--trials",
        "1",
        "--run",
        "run",
        "--config",
        "campaign.toml",
        env=env,
        cwd=tmp_path,
        timeout=500,
    )
    shown = json.loads(quick.call("show", "run", "--json", env=env, cwd=tmp_path).stdout)
    best = shown["incumbent"]
    assert best["trial"] == "t0001" and best["sealed_verdict"] == "generalises", done.stdout
    assert best["sealed_score"] != best["score"] and "sealed split" not in shown["not_applicable"]
    assert "on the sealed split" in shown["headline"] and "Trust: evaluated" in shown["headline"]
    certified = quick.call("certify", "run", "best", "--out", "c.json", env=env, cwd=tmp_path)
    assert certified.returncode == 0, certified.stderr
    checked = quick.call("verify", "c.json", env=env, cwd=tmp_path)
    assert checked.returncode == 0 and "not applicable to a script" in checked.stdout, checked.stdout


def test_a_start_that_ignores_its_seed_is_told_so(tmp_path: Path) -> None:
    place = script_recipe.write(tmp_path / "recipes", script_recipe.REPORTED)
    train = place / "source" / "train.py"
    train.write_text(train.read_text().replace("default_rng(options.seed)", "default_rng(7)"))
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")
    quick.bakeoff("prepare", "line", env=env, cwd=tmp_path)
    said = quick.bakeoff("calibrate", "line", env=env, cwd=tmp_path)
    assert "the seed changes nothing: {seed} is not used, or the recipe is deterministic" in said.stderr
