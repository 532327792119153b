"""Tiny environments with honest numpy recipes, made in a second: what sandbox, judge and attack tests run on.

Use: `classification(folder)` or `language(folder)` give a `Bench`; `write(folder, files)` a source snapshot;
`run(bench, source)` trains and judges as a campaign does. The data are synthetic and made here.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.judge import judge_process as judging
from evaluators.judge.candidate_folders import read_source
from evaluators.judge.judge_client import Bench, judge_server, train
from evaluators.judge.sandbox.prove_level import Isolation, best
from evaluators.judge.source_size import source_bytes
from lineage.environment_spec import EnvironmentSpec
from lineage.records import Measurement, TrainRun

# wall clocks on a machine with many busy neighbours: BAKEOFF_TEST_PATIENCE=5 makes the caps five times as long
PATIENCE = float(os.environ.get("BAKEOFF_TEST_PATIENCE", "1"))
BUDGET = {
    "train_cpu_s": 4,
    "train_wall_s": 8 * PATIENCE,
    "predict_cpu_s": 4,
    "predict_wall_s": 8 * PATIENCE,
    "start_cpu_s": 6,
    "smoke_wall_s": 8 * PATIENCE,
    "memory_mb": 256,
    "artifact_bytes": 60_000,
    "source_bytes": 60_000,
    "tmp_mb": 16,
    "processes": 16,
}
CLASSES, WIDTH, VOCABULARY, CONTEXT = 3, 4, 16, 16

# Nearest class mean; about 0.97 right where guessing gets 0.33.
CLASSIFIER: Mapping[str, str] = {
    "train.py": """
import numpy as np

def train(data, out, seed):
    x, y = np.load(data / "images.npy"), np.load(data / "labels.npy")
    means = np.stack([x[y == k].mean(axis=0) for k in range(3)])
    np.save(out / "means.npy", means.astype(np.float32))
""",
    "predict.py": """
import numpy as np

def load(artifact):
    return np.load(artifact / "means.npy")

def predict(model, inputs):
    distance = ((inputs[:, None, :] - model[None]) ** 2).sum(axis=2)
    return (-distance).astype(np.float32)
""",
}
# A bigram table with add-one smoothing.
BIGRAM: Mapping[str, str] = {
    "train.py": """
import numpy as np

def train(data, out, seed):
    tokens = np.load(data / "tokens.npy").astype(int)
    counts = np.ones((16, 16))
    np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    table = np.log(counts / counts.sum(axis=1, keepdims=True))
    np.save(out / "table.npy", table.astype(np.float32))
""",
    "predict.py": """
import numpy as np

def load(artifact):
    return np.load(artifact / "table.npy")

def predict(model, inputs):
    return model[inputs]
""",
}


def _spec(name: str, **changes: Any) -> EnvironmentSpec:
    base: dict[str, Any] = {
        "name": name,
        "title": name,
        "description": "made by the tests",
        "budget": BUDGET,
        "evaluation": {"runs": 1, "confirm_runs": 2, "max_confirm_runs": 2, "calibrate_runs": 3},
        "surfaces": [{"name": "all", "title": "all", "units": {"train.py": ["*"], "predict.py": ["*"]}}],
        "packages": ["numpy"],
        "masked_packages": ["sklearn"],
    }
    return EnvironmentSpec.model_validate({**base, **changes})


def _prepare(
    folder: Path, arrays: Mapping[str, np.ndarray], extra: Mapping[str, bytes] | None = None
) -> None:
    rng = np.random.default_rng(5)
    for name, array in arrays.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, array, allow_pickle=False)
        if name.startswith("train/"):
            twin = folder / name.replace("train/", "fake/")
            twin.parent.mkdir(parents=True, exist_ok=True)
            np.save(twin, rng.permutation(array.ravel()).reshape(array.shape), allow_pickle=False)
    for name, data in (extra or {}).items():
        (folder / name).write_bytes(data)
    files = {
        path.relative_to(folder).as_posix(): {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in folder.rglob("*")
        if path.is_file()
    }
    (folder / "manifest.json").write_text(json.dumps({"environment": "t", "version": "1", "files": files}))


def blobs(**changes: Any) -> EnvironmentSpec:
    settings: dict[str, Any] = {
        "score": {"metric": "accuracy", "direction": "max", "unit": ""},
        "task": {"kind": "classification", "outputs": CLASSES, "batch": 50},
    }
    return _spec("blobs", **(settings | changes))


def markov(**changes: Any) -> EnvironmentSpec:
    settings: dict[str, Any] = {
        "score": {"metric": "bits_per_byte", "direction": "min", "unit": "bits/byte"},
        "task": {"kind": "language_model", "outputs": VOCABULARY, "context": CONTEXT, "batch": 32},
    }
    return _spec("markov", **(settings | changes))


def classification(folder: Path, isolation: Isolation | None = None, **changes: Any) -> Bench:
    """Three Gaussian blobs: 90 training rows, 120 public, 60 sealed."""
    rng = np.random.default_rng(1)
    centres = np.array([[0, 0, 0, 0], [2, 2, 0, 0], [0, 2, 2, 2]], dtype=float)
    arrays: dict[str, np.ndarray] = {}
    for split, count, names in (
        ("train", 90, ("images", "labels")),
        ("public", 120, ("inputs", "labels")),
        ("sealed", 60, ("inputs", "labels")),
    ):
        labels = rng.integers(0, CLASSES, count)
        rows = centres[labels] + rng.normal(0, 0.55, (count, WIDTH))
        arrays[f"{split}/{names[0]}.npy"] = rows.astype(np.float32)
        arrays[f"{split}/{names[1]}.npy"] = labels.astype(np.int64)
    _prepare(folder / "data", arrays)
    return Bench(blobs(**changes), folder / "data", isolation or best(), folder / "scratch")


@functools.cache
def _text() -> np.ndarray:
    """A second-order Markov text over 16 tokens."""
    rng = np.random.default_rng(2)
    sums = rng.dirichlet(np.full(VOCABULARY, 0.3), (VOCABULARY, VOCABULARY)).cumsum(axis=2)
    tokens = [0, 1]
    for draw in rng.random(8300):
        tokens.append(min(VOCABULARY - 1, int(np.searchsorted(sums[tokens[-2], tokens[-1]], draw))))
    return np.array(tokens, dtype=np.uint8)


def language(folder: Path, isolation: Isolation | None = None, **changes: Any) -> Bench:
    """6,000 tokens for training, 1,500 public, 800 sealed."""
    text = _text()
    parts = {"train": text[:6000], "public": text[6000:7500], "sealed": text[7500:8300]}
    _prepare(
        folder / "data",
        {f"{name}/tokens.npy": part for name, part in parts.items()},
        {
            f"{name}/meta.json": json.dumps({"bytes": len(parts[name])}).encode()
            for name in ("public", "sealed")
        },
    )
    return Bench(markov(**changes), folder / "data", isolation or best(), folder / "scratch")


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """A source snapshot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@dataclass(frozen=True)
class Outcome:
    """What a campaign would have: the training run, and the measurement if there was an artifact."""

    run: TrainRun
    measurement: Measurement | None

    @property
    def cause(self) -> str | None:
        """The first cause found: training, prediction, audit."""
        if self.run.cause is not None or self.measurement is None:
            return self.run.cause
        seeds = [seed.cause for seed in self.measurement.per_seed if seed.cause]
        audits = [str(a.numbers.get("cause", "audit")) for a in self.measurement.audits if not a.passed]
        return next(iter(seeds + audits), None)

    @property
    def score(self) -> float | None:
        return self.measurement.score if self.measurement else None


def judge_here(bench: Bench, source: Path, run: TrainRun, place: Path, folder: Path) -> Measurement:
    """The judge's own code in this process, which saves starting one per test."""
    folder.mkdir(exist_ok=True)
    lifeline, held = os.pipe()
    os.close(lifeline)
    try:
        return judging.measure(
            judging.Job(
                spec=bench.spec,
                data=bench.data,
                isolation=bench.isolation,
                devices=(),
                folder=folder,
                source=source,
                source_bytes=source_bytes(read_source(source)),
                runs=((run, place),),
                trial="t1",
                purpose="screen",
                split="public",
                lifeline=held,
                reference=bench.reference,
                start=bench.start,
                server=judge_server(bench),
            )
        )
    finally:
        os.close(held)


def run(bench: Bench, files: Mapping[str, str], folder: Path, seed: int = 987_654_321) -> Outcome:
    """Train once and judge."""
    source = write(folder / "source", files)
    trained = train(bench, source, seed, folder / "artifact")
    if trained.artifact is None:
        return Outcome(trained, None)
    return Outcome(trained, judge_here(bench, source, trained, folder / "artifact", folder / "judge"))
