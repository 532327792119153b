"""The questions of a split for each kind of task: where the judge starts.

Use: `questions(spec, folder)` with a folder that prepare.py wrote. Limits: the folder is the judge's own;
it is read whole.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evaluators.judge import classification_metrics, metrics
from evaluators.judge.item_scores import Items, one_run
from evaluators.judge.judge_program import wanted
from evaluators.judge.language_questions import language
from evaluators.judge.questions import Ints, Kept, Questions, load_array
from lineage.environment_spec import EnvironmentSpec
from lineage.errors import DataMissing


def _classification(spec: EnvironmentSpec, folder: Path) -> Questions:
    inputs, labels = load_array(folder / "inputs.npy"), _labels(folder / "labels.npy", spec)
    if len(inputs) != len(labels) or len(labels) == 0:
        raise DataMissing(f"{folder}: {len(inputs)} inputs but {len(labels)} labels; run prepare.py again")
    shape = (spec.task.outputs,)
    named = [name for name in wanted(spec) if name in classification_metrics.MORE]

    def more(kept: Kept) -> dict[str, Items]:
        return {name: classification_metrics.MORE[name](kept, labels) for name in named}

    def worse(numbers: Ints, one: Kept, other: Kept) -> Kept:
        wrong = other.argmax(axis=1) != labels[numbers]
        return np.where(wrong[:, None], other, one)

    return Questions(
        rows=inputs,
        shape=shape,
        batch=spec.task.batch,
        kept_shape=shape,
        reduce=lambda numbers, answer: answer.astype(np.float64),
        score=lambda kept: {
            "accuracy": metrics.accuracy(kept, labels),
            **{name: float(held.means[0]) for name, held in more(kept).items()},
        },
        worse=worse,
        items=lambda kept: {"accuracy": one_run(metrics.hits(kept, labels)), **more(kept)},
    )


def _labels(path: Path, spec: EnvironmentSpec) -> Ints:
    """Class numbers. Raises DataMissing for anything else: a fraction would be cut to a whole number."""
    given = load_array(path)
    if not np.issubdtype(given.dtype, np.integer):
        raise DataMissing(
            f"{path}: {given.dtype}, but labels of a classification are whole numbers from 0 to {spec.task.outputs - 1}; "
            'for numbers to be predicted use [task] kind = "regression" with targets.npy, else mend prepare.py'
        )
    if given.size and not 0 <= given.min() <= given.max() < spec.task.outputs:
        raise DataMissing(
            f"{path}: labels from {given.min()} to {given.max()}, but [task] outputs = {spec.task.outputs} allows 0 to "
            f"{spec.task.outputs - 1}; correct prepare.py or environment.toml"
        )
    return given.astype(np.int64)


def questions(spec: EnvironmentSpec, folder: Path) -> Questions:
    """The questions of one split. Raises DataMissing."""
    if spec.task.kind == "classification":
        return _classification(spec, folder)
    return language(spec, folder)
