"""The questions of a split for each kind of task: where the judge starts.

Use: `questions(spec, folder)` with a folder that prepare.py wrote. Limits: the folder is the judge's own;
it is read whole.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evaluators.judge import metrics
from evaluators.judge.item_scores import one_run
from evaluators.judge.language_questions import language
from evaluators.judge.questions import Ints, Kept, Questions, load_array
from lineage.environment_spec import EnvironmentSpec
from lineage.errors import DataMissing


def _classification(spec: EnvironmentSpec, folder: Path) -> Questions:
    inputs, labels = load_array(folder / "inputs.npy"), load_array(folder / "labels.npy").astype(np.int64)
    if len(inputs) != len(labels) or len(labels) == 0:
        raise DataMissing(f"{folder}: {len(inputs)} inputs but {len(labels)} labels; run prepare.py again")
    shape = (spec.task.outputs,)

    def worse(numbers: Ints, one: Kept, other: Kept) -> Kept:
        wrong = other.argmax(axis=1) != labels[numbers]
        return np.where(wrong[:, None], other, one)

    return Questions(
        rows=inputs,
        shape=shape,
        batch=spec.task.batch,
        kept_shape=shape,
        reduce=lambda numbers, answer: answer.astype(np.float64),
        score=lambda kept: {"accuracy": metrics.accuracy(kept, labels)},
        worse=worse,
        items=lambda kept: {"accuracy": one_run(metrics.hits(kept, labels))},
    )


def questions(spec: EnvironmentSpec, folder: Path) -> Questions:
    """The questions of one split. Raises DataMissing."""
    if spec.task.kind == "classification":
        return _classification(spec, folder)
    return language(spec, folder)
