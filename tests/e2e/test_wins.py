"""A win is a win: luck with test items, frozen seeds and failing programs, as whole campaigns by the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import quick

Texts = list[tuple[str, str, str]]  # file, what stands there, what stands there afterwards

LONGER: Texts = [("fitting.py", "STEPS = 300", "STEPS = 1500")]
FASTER: Texts = [("fitting.py", "LR = 0.1", "LR = 0.5")]
FROZEN: Texts = [
    (
        "fitting.py",
        "    parameters = model.make_parameters(random)\n",
        "    random = np.random.default_rng(7)  # one order of batches for all\n"
        "    parameters = model.make_parameters(random)\n",
    )
]


def campaign(
    folder: Path, edits: list[Texts], start: Texts | None = None, **evaluation: int
) -> tuple[dict[str, str], str]:
    """Run one campaign of scripted edits, each of the start's program, one at a time; environment and output."""
    recipe = quick.make(folder / "recipes")
    for path, old, new in start or []:
        file = recipe / "source" / path
        assert file.read_text("utf-8").count(old) == 1
        file.write_text(file.read_text("utf-8").replace(old, new), "utf-8")
    spec = recipe / "environment.toml"
    for name, value in evaluation.items():
        text, found = re.subn(rf"(?m)^{name} = .*", f"{name} = {value}", spec.read_text("utf-8"))
        assert found == 1, name
        spec.write_text(text, "utf-8")
    script = [
        {
            "role": "training",
            "proposer": "scripted",
            "parent": "t0000",
            "hypothesis": f"edit {number}",
            "edits": [{"path": path, "search": old, "replace": new} for path, old, new in texts],
        }
        for number, texts in enumerate(edits, 1)
    ]
    (folder / "script.json").write_text(json.dumps(script), "utf-8")
    settings = f'proposer = "scripted"\nscript = "{folder}/script.json"\nroles = ["training"]\nslots = 1\n'
    (folder / "c.toml").write_text(f"[campaign]\n{settings}trials = {len(edits)}\n", "utf-8")
    env = quick.environ(folder / "home", folder / "recipes")
    quick.bakeoff("prepare", "quick", env=env, cwd=folder)
    done = quick.bakeoff(
        "run", "quick", "--config", "c.toml", "--run", "r", "--plain", env=env, cwd=folder, timeout=900
    )
    return env, done.stdout


def rows(folder: Path, event: str) -> pd.DataFrame:
    return pd.read_parquet(folder / "r" / "lineage").query("event == @event")


def test_frozen(tmp_path: Path) -> None:
    env, out = campaign(tmp_path, [FROZEN, LONGER])
    print(out)
    print(rows(tmp_path, "trial")[["trial", "status", "cause", "score", "deterministic"]])
    print(rows(tmp_path, "confirmation").T.to_string())
    print(rows(tmp_path, "sealed").dropna(axis=1).T.to_string())
    print(quick.bakeoff("verify", "r", env=env, cwd=tmp_path, check=False).stdout)
    assert 0
