"""The control run: the same program on training data that teach nothing must fall to chance.

Use: `control(bench, source, seed, real, out)` trains on permuted data, has the judge measure it on the public
split, and gives a check beside the measurement. An answer that survives was not learnt: it came with the source, or
from what the sandbox has lying about. What is permuted, and what chance is, by kind of task:

| task | permuted | chance, of the quantity |
|---|---|---|
| classification | the order of `train/labels.npy` | share of the commonest label: accuracy |
| regression | the order of the rows of `train/targets.npy` | the mean of the split: rmse, r2; its median: mae |
| language_model | the order of the tokens of every `train/*.npy` | entropy of single tokens of the split: bits_per_byte; 0: centered_accuracy |

It survives when it keeps more than a quarter (`SURVIVES`) of the real runs' lead over chance, and more than three
standard errors of chance, under each of `PERMUTATIONS` permutations. One is not enough: inputs of one class are
answered alike, so with three classes luck leaves two of them right under a fifth of all permutations (5 of 24 measured);
what came with the source survives all. Limits: training data in another form than these files cannot be permuted here, nor
those of a task of kind text or judge, and then `Unpermuted` says so; a source that brings less than a quarter of its lead along passes.
"""

from __future__ import annotations

import math
import secrets
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evaluators.judge import judge_client
from evaluators.judge.judge_client import Bench
from evaluators.judge.task_judges import regression_rows
from lineage.environment_spec import EnvironmentSpec
from lineage.errors import UsageError
from lineage.records import Check, Measurement, Number

SURVIVES, ERRORS = 0.25, 3.0
PERMUTATIONS = (
    5  # at most: the first under which it falls to chance decides; luck of 1/5 five times is 1 in 3,000
)
HIGHER = {"accuracy": 1, "centered_accuracy": 1, "bits_per_byte": -1, "rmse": -1, "mae": -1, "r2": 1}
FILES = {"classification": "labels.npy", "regression": "targets.npy", "language_model": "*.npy"}
ITEM_SD = 0.6  # of one centred item at chance, between two and four options


class Unpermuted(UsageError):
    """The training data of this environment are in no form that can be permuted."""


def permuted(train: Path, target: Path, spec: EnvironmentSpec) -> Path:
    """A copy of the training data that teaches nothing. Raises Unpermuted."""
    if spec.task.kind == "script":
        raise Unpermuted(
            f"not applicable: {spec.name} is a script, whose training data have no known form to permute"
        )
    wanted = FILES.get(spec.task.kind)
    if wanted is None:
        raise Unpermuted(
            f"{spec.name}: which training data are the answers of a task of kind {spec.task.kind} is not known; "
            "a control run cannot be made"
        )
    shutil.copytree(train, target)
    rng = np.random.default_rng(secrets.randbits(128))
    found = 0
    for path in sorted(target.rglob(wanted)):
        values = np.load(path, allow_pickle=False)
        if spec.task.kind == "regression" or (values.ndim == 1 and np.issubdtype(values.dtype, np.integer)):
            np.save(path, rng.permutation(values), allow_pickle=False)
            found += 1
    if not found:
        raise Unpermuted(
            f"{train}: no {wanted} of {'' if spec.task.kind == 'regression' else 'whole '}numbers; a control run of {spec.name} cannot be made"
        )
    return target


def chances(spec: EnvironmentSpec, split: Path) -> dict[str, tuple[float, float]]:
    """Quantity to (chance, its standard error) on a split."""
    if spec.task.kind == "classification":
        labels = np.load(split / "labels.npy", allow_pickle=False)
        share = float(_shares(labels).max())
        return {"accuracy": (share, error_of("accuracy", share, len(labels)))}
    if spec.task.kind == "regression":
        return _regression_chances(spec, split)
    import json

    tokens = np.load(split / "tokens.npy", allow_pickle=False)
    shares = _shares(tokens)
    bits = -float((shares * np.log2(shares)).sum()) * len(tokens)
    found = {"bits_per_byte": (bits / int(json.loads((split / "meta.json").read_bytes())["bytes"]), 0.0)}
    if (split / "items.jsonl").exists():
        count = len((split / "items.jsonl").read_bytes().splitlines())
        found["centered_accuracy"] = (0.0, error_of("centered_accuracy", 0.0, count))
    return found


def _regression_chances(spec: EnvironmentSpec, split: Path) -> dict[str, tuple[float, float]]:
    """Of one number for all rows: the mean, or for mae the median; errors as for normal targets."""
    targets = regression_rows(split, spec.task.outputs)[1]
    count = len(targets)
    sd = float(np.sqrt(((targets - targets.mean(axis=0)) ** 2).mean()))
    mae = float(np.abs(targets - np.median(targets, axis=0)).mean())
    return {
        "rmse": (sd, sd / math.sqrt(2 * count)),
        "mae": (mae, mae / math.sqrt(count)),
        "r2": (0.0, math.sqrt(2 / count)),
    }


def error_of(name: str, chance: float, items: int) -> float:
    """Standard error of a quantity at chance over so many test items; 0 for bits, which a whole text gives."""
    if name == "accuracy":
        return math.sqrt(chance * (1 - chance) / max(1, items))
    return ITEM_SD / math.sqrt(max(1, items)) if name == "centered_accuracy" else 0.0


def _shares(values: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    counts = np.unique(values, return_counts=True)[1]
    return np.asarray(counts / counts.sum())


def verdict(
    chance: Mapping[str, tuple[float, float]], real: Mapping[str, float], control: Mapping[str, float]
) -> Check:
    """Did what the real runs can do fall to chance? Every known quantity must; without one it is not shown."""
    numbers: dict[str, Number] = {}
    survived, parts = [], []
    for name, (none, error) in sorted(chance.items()):
        if name not in real or name not in control:
            continue
        lead, left = (HIGHER[name] * (found[name] - none) for found in (real, control))
        bound = max(SURVIVES * max(lead, 0.0), ERRORS * error)
        numbers |= {f"{name}": control[name], f"{name}_chance": none, f"{name}_real": real[name]}
        numbers[f"{name}_bound"] = none + HIGHER[name] * bound
        parts.append(f"{name} {control[name]:.4g} (chance {none:.4g}, real data {real[name]:.4g})")
        if left > bound:
            survived.append(name)
    if survived:
        numbers["cause"] = "illegal:not_learnt"
    detail = "trained on permuted data: " + (", ".join(parts) or "nothing to compare")
    return Check(name="control", passed=bool(parts) and not survived, numbers=numbers, detail=detail)


def control(
    bench: Bench,
    source: Path,
    seed: int,
    real: Mapping[str, float],
    out: Path,
    *,
    trial: str,
    cancel: threading.Event | None = None,
    keep: Callable[[bytes], object] | None = None,
    devices: judge_client.Devices = (),
) -> tuple[Check, Measurement | None]:
    """Train on permuted data, judge, compare. A program that fails without its data has learnt from them: it passes.

    `real` are the quantities of its ordinary runs; `out` takes the artifact, `keep` the artifact of the test items.
    Returns the check and measurement that decided. Raises Unpermuted.
    """
    for permutation in range(1, PERMUTATIONS + 1):  # a script: Unpermuted at the first
        place = out / f"permutation-{permutation}"
        place.mkdir(parents=True)
        found, measured = _once(bench, source, seed, real, place, trial, cancel, keep, devices)
        found = found.model_copy(update={"numbers": {**found.numbers, "permutations": permutation}})
        if found.passed:
            break
    return found, measured


def _once(
    bench: Bench,
    source: Path,
    seed: int,
    real: Mapping[str, float],
    out: Path,
    trial: str,
    cancel: threading.Event | None,
    keep: Callable[[bytes], object] | None,
    devices: judge_client.Devices,
) -> tuple[Check, Measurement | None]:
    data = permuted(bench.data / "train", out / "permuted", bench.spec)
    run = judge_client.train(bench, source, seed, out / "artifact", cancel, data=data, devices=devices)
    if run.cause is not None:
        detail = f"training on permuted data ended with {run.cause}"
        return Check(name="control", passed=True, numbers={"ended": run.cause}, detail=detail), None
    measured = judge_client.judge(
        bench,
        source,
        [(run, out / "artifact")],
        trial=trial,
        purpose="control",
        cancel=cancel,
        keep=keep,
        devices=devices,
    )
    if measured.score is None:
        ended = measured.per_seed[0].cause or "no score"
        return Check(
            name="control", passed=True, numbers={"ended": ended}, detail=f"it ended with {ended}"
        ), measured
    return verdict(chances(bench.spec, bench.data / "public"), real, measured.quantities), measured
