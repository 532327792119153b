"""What the predictor is asked, and what becomes of the answers: one `Traffic` per predictor process.

Use: `traffic(spec, folder)`; iterate `requests()` as (rows, answer shape, take); afterwards
`quantities()`. Limits: answers are reduced as they arrive, so that a million token distributions never
sit in memory; labels and targets never leave the judge's process.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from evaluators import metrics
from evaluators.exchange import Floats, batches, secret_order
from lineage.errors import DataMissing
from lineage.spec import EnvironmentSpec

Ints = npt.NDArray[np.int64]
Request = tuple[npt.NDArray[Any], tuple[int, ...], Callable[[Floats], None]]


class Traffic(Protocol):
    count: int
    answered: int

    @property
    def complete(self) -> bool: ...

    def requests(self) -> Iterator[Request]: ...

    def quantities(self) -> dict[str, float]: ...


class Classification:
    """Every input once, in secret order, in batches; answers are kept."""

    def __init__(self, inputs: npt.NDArray[Any], labels: Ints, outputs: int, batch: int) -> None:
        if len(inputs) != len(labels) or len(labels) == 0:
            raise DataMissing(f"{len(inputs)} inputs but {len(labels)} labels; run prepare.py again")
        self.inputs, self.labels, self.outputs, self.batch = inputs, labels, outputs, batch
        self.answers = np.full((len(inputs), outputs), np.nan, dtype=np.float32)
        self.count = -(-len(inputs) // batch)
        self.answered = 0

    @property
    def complete(self) -> bool:
        return self.answered == self.count

    def requests(self) -> Iterator[Request]:
        for rows in batches(len(self.inputs), self.batch, secret_order(len(self.inputs))):
            shape = (len(rows), self.outputs)
            yield self.inputs[rows], shape, functools.partial(self._take, rows)

    def _take(self, rows: Ints, answer: Floats) -> None:
        self.answers[rows] = metrics.finite(answer)
        self.answered += 1

    def quantities(self) -> dict[str, float]:
        return {"accuracy": metrics.accuracy(self.answers, self.labels)}


def windows(tokens: Ints, context: int) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
    """Rows of `context` tokens, their next tokens, and which of these are scored.

    Every token but the first is a scored target exactly once. The last row reaches back so that it
    is full; what it repeats is not scored again.
    """
    last = len(tokens) - 1 - context
    if last < 0:
        raise DataMissing(f"{len(tokens)} tokens are fewer than one request of {context} and its targets")
    starts = np.array([*range(0, last, context), last], dtype=np.int64)
    index = starts[:, None] + np.arange(context)
    scored = np.ones(index.shape, dtype=np.bool_)
    if len(starts) > 1:
        scored[-1] = index[-1] >= starts[-2] + context
    return tokens[index], tokens[index + 1], scored


class Language:
    """Every window of the text once, in secret order; only the bits of each target are kept.

    The first token has no context and is charged as uniform: log2(vocabulary) bits.
    """

    def __init__(self, tokens: Ints, nbytes: int, outputs: int, context: int, batch: int) -> None:
        self.rows, self.targets, self.scored = windows(tokens, context)
        self.nbytes, self.outputs, self.batch = nbytes, outputs, batch
        self.bits = np.full(self.rows.shape, np.nan)
        self.count = -(-len(self.rows) // batch)
        self.answered = 0

    @property
    def complete(self) -> bool:
        return self.answered == self.count

    def requests(self) -> Iterator[Request]:
        for rows in batches(len(self.rows), self.batch, secret_order(len(self.rows))):
            shape = (*self.rows[rows].shape, self.outputs)
            yield self.rows[rows], shape, functools.partial(self._take, rows)

    def _take(self, rows: Ints, answer: Floats) -> None:
        self.bits[rows] = metrics.token_bits(metrics.finite(answer), self.targets[rows])
        self.answered += 1

    def quantities(self) -> dict[str, float]:
        total = float(self.bits[self.scored].sum()) + float(np.log2(self.outputs))
        return {"bits_per_byte": metrics.bits_per_byte(total, self.nbytes)}


def load_array(path: Path) -> npt.NDArray[Any]:
    array = np.load(path, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise DataMissing(f"{path} is not one array; run prepare.py again")
    return array


def traffic(spec: EnvironmentSpec, folder: Path) -> Traffic:
    """The ordinary traffic of one split."""
    task = spec.task
    if task.kind == "classification":
        labels = load_array(folder / "labels.npy").astype(np.int64)
        return Classification(load_array(folder / "inputs.npy"), labels, task.outputs, task.batch)
    meta = json.loads((folder / "meta.json").read_bytes())
    tokens = load_array(folder / "tokens.npy").astype(np.int64)
    return Language(tokens, int(meta["bytes"]), task.outputs, task.context, task.batch)
