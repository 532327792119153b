"""A campaign that surely has champions: each scripted trial trains longer than the one it builds on.

`make(folder)` prepares environment `quick` with one run per trial and few runs per confirmation, a script and
the flags that a `bakeoff run` needs to follow it. One run costs a tenth of a CPU second.
"""

from __future__ import annotations

import json
from pathlib import Path

import quick

from lineage.records import Edit, Proposal

# (parent, steps): two clear gains, one change without effect, one loss
CLIMB = (("t0000", 60), ("t0001", 61), ("t0001", 400), ("t0003", 30))
START = 8
TRIALS = len(CLIMB)
CONFIG = "climb.toml"


def make(folder: Path) -> dict[str, str]:
    """Returns the environment of a child that runs it; the flags are `flags(folder)`."""
    recipe = quick.make(folder / "recipes")
    toml = recipe / "environment.toml"
    toml.write_text(toml.read_text("utf-8").replace("\nruns = 2", "\nruns = 1"), "utf-8")
    fitting = recipe / "source" / "fitting.py"
    fitting.write_text(fitting.read_text("utf-8").replace("STEPS = 300 ", f"STEPS = {START} "), "utf-8")
    steps = {"t0000": START, **{f"t{at:04d}": more for at, (_, more) in enumerate(CLIMB, 1)}}
    items = [
        Proposal(
            role="",
            proposer="",
            parent=parent,
            hypothesis=f"{more} steps",
            edits=(Edit(path="fitting.py", search=f"STEPS = {steps[parent]} ", replace=f"STEPS = {more} "),),
        ).model_dump()
        for parent, more in CLIMB
    ]
    (folder / "climb.json").write_text(json.dumps(items), "utf-8")
    (folder / CONFIG).write_text(
        f'[campaign]\nproposer = "scripted"\nscript = "{folder}/climb.json"\nroles = ["training"]\nslots = 1\n',
        "utf-8",
    )
    env = quick.environ(folder / "home", folder / "recipes")
    quick.bakeoff("prepare", "quick", env=env, cwd=folder)
    return env


def command(root: str) -> list[str]:
    return ["run", "quick", "--run", root, "--trials", str(TRIALS), "--config", CONFIG, "--plain"]
