"""A small real repository for tests of scripts: least squares by stochastic gradient, with an evaluator of its own.

Use: `write(folder, ...)` writes source and environment.toml; `bench(folder, ...)` gives a prepared Bench. One run costs a
tenth of a CPU second. Without `evaluate` its score is what it prints; with it a protected program scores the weights on
points that training never has.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.judge.judge_client import Bench, judge, train
from evaluators.judge.sandbox.prove_level import best
from flows.environments.repository_data import prepare_in_place
from lineage.environment_spec import EnvironmentSpec
from lineage.records import Measurement, TrainRun

TRAIN = """\
import argparse
import json
import os

import numpy as np

from model import predicted

LR = 0.05
STEPS = 40

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--out", default="out")
options = parser.parse_args()
rng = np.random.default_rng(options.seed)
table = np.loadtxt("data/points.csv", delimiter=",")
x, y = table[:, :3], table[:, 3]
weights = rng.normal(0, 0.1, 3)
for step in range(STEPS):
    rows = rng.choice(len(x), 16)
    weights -= LR * 2 * x[rows].T @ (predicted(x[rows], weights) - y[rows]) / 16
    if step % 10 == 9:
        print(f"step {step}: val loss {np.mean((predicted(x, weights) - y) ** 2):.6f}")
with open("beside.txt", "w") as handle:
    handle.write("scripts write beside themselves")
os.makedirs(options.out, exist_ok=True)
np.save(os.path.join(options.out, "weights.npy"), weights)
with open(os.path.join(options.out, "metrics.json"), "w") as handle:
    json.dump({"val": {"loss": float(np.mean((predicted(x, weights) - y) ** 2))}}, handle)
"""
MODEL = """\
def predicted(x, weights):
    return x @ weights
"""
EVALUATE = """\
import sys

import numpy as np

table = np.loadtxt("data/heldout.csv", delimiter=",")
weights = np.load(sys.argv[1] + "/weights.npy", allow_pickle=False)
assert weights.shape == (3,), weights.shape
print(f"held-out loss {np.mean((table[:, :3] @ weights - table[:, 3]) ** 2):.6f}")
"""
REPORTED = """
[[task.metrics]]
name = "loss"
pattern = 'val loss ([0-9.]+)'
"""
EVALUATED = """
evaluate = "python evaluate.py {out}"
protected = ["evaluate.py", "data/**"]
evaluation_data = ["data/heldout.csv"]

[[task.metrics]]
name = "loss"
pattern = 'held-out loss ([0-9.]+)'
"""
# with a prepare.py: {data} is train/, {eval_data} public/, or sealed/ for a confirmed champion
SEALED = """
evaluate = "python evaluate.py {out} {eval_data}/heldout.csv"
protected = ["evaluate.py"]
sealed = true

[[task.metrics]]
name = "loss"
pattern = 'held-out loss ([0-9.]+)'
"""
PREPARE = """\
import argparse
import hashlib
import json
from pathlib import Path

options = argparse.ArgumentParser()
options.add_argument("--out", type=Path)
out = options.parse_args().out
files = {}
for name, text in TEXTS.items():
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text(text)
    files[name] = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text)}
manifest = {"environment": "line", "version": "1", "source": "made up", "files": files}
(out / "manifest.json").write_text(json.dumps(manifest))
"""
SPEC = """\
schema_version = 1
name = "line"
title = "A line through points"
description = "Least squares by stochastic gradient."
packages = ["numpy"]

[score]
metric = "loss"
direction = "min"
unit = ""

[budget]
train_cpu_s = 10
train_wall_s = 60
predict_cpu_s = 10
predict_wall_s = 60
memory_mb = 512
artifact_bytes = 100_000
source_bytes = 100_000
processes = 16

[evaluation]
runs = 1
confirm_runs = 2
max_confirm_runs = 2
calibrate_runs = 3

[[surfaces]]
name = "training"
title = "the whole of training"
units = { "train.py" = ["*"], "model.py" = ["*"] }

[task]
kind = "script"
train = "python train.py --seed={seed} --out={out}"
"""


def points(count: int, seed: int) -> str:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 3))
    y = x @ np.array([1.0, -2.0, 0.5]) + rng.normal(0, 0.1, count)
    return "".join(
        ",".join(f"{value:.4f}" for value in (*row, target)) + "\n" for row, target in zip(x, y, strict=True)
    )


def files() -> dict[str, str]:
    return {
        "train.py": TRAIN,
        "model.py": MODEL,
        "evaluate.py": EVALUATE,
        "README.md": "# a line\n",
        "data/points.csv": points(200, 1),
        "data/heldout.csv": points(100, 2),
    }


def write(folder: Path, kind: str = EVALUATED, name: str = "line") -> Path:
    """An environment `name` under `folder`; returns its directory."""
    place = folder / name
    for path, text in files().items():
        target = place / "source" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")
    (place / "environment.toml").write_text(SPEC.replace('"line"', f'"{name}"') + kind, "utf-8")
    (place / "roles").mkdir()
    (place / "roles" / "training.md").write_text(
        '+++\nsurfaces = ["training"]\n+++\nMake it fit better.\n', "utf-8"
    )
    return place


def write_sealed(folder: Path) -> Path:
    """The same with a prepare.py, and a sealed split beside the public one."""
    place = write(folder, SEALED)
    text = (place / "environment.toml").read_text("utf-8")
    (place / "environment.toml").write_text(text.replace("--out={out}", "--out={out} --data={data}"), "utf-8")
    texts = {
        "train/points.csv": points(200, 1),
        "public/heldout.csv": points(100, 2),
        "sealed/heldout.csv": points(100, 3),
    }
    (place / "prepare.py").write_text(f"TEXTS = {texts!r}\n" + PREPARE, "utf-8")
    for path in (place / "source" / "data").iterdir():
        path.unlink()
    train = TRAIN.replace('"data/points.csv"', 'options.data + "/points.csv"').replace(
        "STEPS = 40", "STEPS = 6"
    )
    train = train.replace("options = parser", 'parser.add_argument("--data")\noptions = parser')
    (place / "source" / "train.py").write_text(train, "utf-8")
    scored = EVALUATE.replace('"data/heldout.csv"', "sys.argv[2]")
    (place / "source" / "evaluate.py").write_text(scored, "utf-8")
    return place


def spec(kind: str = EVALUATED, **changes: Any) -> EnvironmentSpec:
    return EnvironmentSpec.model_validate({**tomllib.loads(SPEC + kind), **changes})


def bench(folder: Path, kind: str = EVALUATED, start: bool = True) -> tuple[Bench, dict[str, str]]:
    """A bench with the data in place, and the files that are source."""
    place, found = write(folder / "recipes", kind), spec(kind)
    prepare_in_place(found.name, found.task, place / "source", folder / "data")
    source = {name: text for name, text in files().items() if not name.startswith("data/")}
    begun = {name: text.encode() for name, text in source.items()} if start else None
    return Bench(found, folder / "data", best(), folder / "scratch", start=begun), source


def run(
    bench: Bench, source: dict[str, str], folder: Path, seed: int = 987_654_321
) -> tuple[TrainRun, Measurement | None]:
    """Train once and have the judge's process measure it, as a campaign does."""
    place = folder / "source"
    for name, text in source.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    trained = train(bench, place, seed, folder / "artifact")
    if trained.artifact is None:
        return trained, None
    return trained, judge(bench, place, [(trained, folder / "artifact")], trial="t1", purpose="screen")
