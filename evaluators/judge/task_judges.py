"""The engine's own judge functions, of the same form as an environment's judge.py: regression and text.

Use: `judge_of(task)` gives `judge(ask, split, seed)`. Files of a split, and the quantities:

| kind | files | quantities |
|---|---|---|
| regression | inputs.npy, targets.npy (n,) or (n, outputs), any numbers | rmse, mae, r2, means over rows and outputs |
| text | inputs.json, references.json, lists of str | word_error_rate, character_error_rate: edits / length of the references; exact_match |

Every quantity is the mean of items, so that a gain can be tested over them. That of rmse = sqrt(mean e^2) is its
linearisation at the run's own value (delta method): x_i = rmse / 2 + e_i^2 / (2 rmse), whose mean is rmse exactly.
Error rates are those of NIST sclite: edits by Levenshtein's distance over the words (or characters) of the references.
Limits: words are what whitespace separates; case and punctuation count.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluators.judge.ask import Ask
from evaluators.judge.questions import load_array
from lineage.environment_spec import Task
from lineage.errors import DataMissing

Floats = npt.NDArray[np.float64]


def judge_of(task: Task) -> Callable[[Ask, Path, int], dict[str, Any]]:
    if task.kind == "regression":
        return lambda ask, split, seed: regression(ask, split, task.outputs)
    return lambda ask, split, seed: text(ask, split, task.text_bytes)


def regression(ask: Ask, split: Path, outputs: int) -> dict[str, Any]:
    inputs, targets = regression_rows(split, outputs)
    error = ask(inputs, (outputs,)).astype(np.float64) - targets
    squares = (error**2).mean(axis=1)
    rmse = float(np.sqrt(squares.mean()))
    found = {
        "rmse": rmse / 2 + squares / (2 * rmse) if rmse > 0 else squares,
        "mae": np.abs(error).mean(axis=1),
    }
    spread = ((targets - targets.mean(axis=0)) ** 2).mean(axis=0)
    if (spread > 0).all():
        found["r2"] = 1 - (error**2 / spread).mean(axis=1)
    return found


def regression_rows(split: Path, outputs: int) -> tuple[npt.NDArray[Any], Floats]:
    """Inputs and targets (n, outputs) of a split, as float64. Raises DataMissing."""
    inputs, targets = load_array(split / "inputs.npy"), load_array(split / "targets.npy")
    if targets.dtype.kind not in "biuf" or not np.isfinite(targets.astype(np.float64)).all():
        raise DataMissing(
            f"{split / 'targets.npy'}: {targets.dtype}; targets are finite numbers; run prepare.py again"
        )
    shaped = targets.astype(np.float64).reshape(len(targets), -1)
    if len(inputs) != len(targets) or shaped.shape[1] != outputs or not len(targets):
        raise DataMissing(
            f"{split}: inputs {inputs.shape} and targets {targets.shape}, need equal numbers of rows and {outputs} "
            "targets in each ([task] outputs); mend prepare.py and run it again"
        )
    return inputs, shaped


def text(ask: Ask, split: Path, most_bytes: int) -> dict[str, Any]:
    inputs, references = _texts(split / "inputs.json"), _texts(split / "references.json")
    words = np.array([len(reference.split()) for reference in references], dtype=np.float64)
    if len(inputs) != len(references) or (words == 0).any():
        raise DataMissing(
            f"{split}: {len(inputs)} inputs, {len(references)} references, of which {int((words == 0).sum())} without a word; "
            "mend prepare.py and run it again"
        )
    answers = ask.text(inputs, most_bytes)
    pairs = list(zip(references, answers, strict=True))
    wrong = np.array([edits(want.split(), got.split()) for want, got in pairs])
    letters = np.array([len(want) for want, _ in pairs], dtype=np.float64)
    typos = np.array([edits(want, got) for want, got in pairs])
    return {
        "word_error_rate": (wrong / words, words),
        "character_error_rate": (typos / letters, letters),
        "exact_match": np.array([want == got for want, got in pairs], dtype=np.float64),
    }


def edits(wanted: Sequence[Hashable], given: Sequence[Hashable]) -> int:
    """Levenshtein's distance: fewest insertions, deletions and substitutions.

    Row by row as in Wagner and Fischer 1974; what a cell takes from its left neighbour is a running minimum.

    >>> edits("kitten", "sitting")
    3
    """
    numbers = {token: number for number, token in enumerate(dict.fromkeys((*wanted, *given)))}
    one, other = (np.array([numbers[token] for token in side], dtype=np.int64) for side in (wanted, given))
    steps = np.arange(len(other) + 1)
    row = steps.copy()
    for number, token in enumerate(one, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (other != token))
        row = np.minimum.accumulate(np.concatenate([[number], best]) - steps) + steps
    return int(row[-1])


def _texts(path: Path) -> list[str]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataMissing(f"{path} cannot be read: {error}; run prepare.py again") from error
    if not isinstance(found, list) or not found or not all(isinstance(one, str) for one in found):
        raise DataMissing(f"{path}: need a JSON list of texts, at least one; run prepare.py again")
    return found
