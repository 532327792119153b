"""What a predictor is asked about one split, and what is kept of its answers.

Use: `question_kinds.questions(spec, folder)` once per measurement; a `Sitting(questions, plan)` per predictor process gives
`requests()` as (rows, answer shape, take) and keeps the reduced answers; `questions.score(kept)` gives the
quantities. Limits: answers are reduced as they arrive, so that a million token distributions never sit
in memory; labels and targets never leave the judge's process.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluators.judge import metrics
from evaluators.judge.item_scores import Items
from evaluators.judge.predictor_pipes import Channel, Floats, batches, secret_order
from lineage.errors import DataMissing
from lineage.records import Number

Ints = npt.NDArray[np.int64]
Array = npt.NDArray[Any]
Kept = npt.NDArray[np.float64]
Request = tuple[Array, tuple[int, ...], Callable[[Floats], None]]


@dataclass(frozen=True)
class Questions:
    """`rows` to ask, `shape` of one row's answer, `reduce(row numbers, answers)` to what is kept.

    `score` gives the quantities of one run, `items` what each test item gave to those that are means over items,
    always in the order of the prepared data.
    `worse(row numbers, one, other)` merges two answers to the same rows into one that is right only where both are.
    `first` is, for token rows, the first position whose answer counts; the audit cuts behind it. `decided` (rows,
    positions) marks what is scored by its largest value alone; None where every row is.
    """

    rows: Array
    shape: tuple[int, ...]
    batch: int
    kept_shape: tuple[int, ...]
    reduce: Callable[[Ints, Floats], Kept]
    score: Callable[[Kept], dict[str, float]]
    worse: Callable[[Ints, Kept, Kept], Kept]
    items: Callable[[Kept], dict[str, Items]]
    first: Ints | None = None
    decided: npt.NDArray[np.bool_] | None = None


class Sitting:
    """One predictor process answering requests in a planned order.

    The rows of `asked` come first; row i asks about row `source[i]`, and behind `cut[i]` (-1: nowhere) it continues
    as another one.
    """

    def __init__(
        self, asked: Questions, plan: Sequence[Ints], rows: Array | None = None, source: Ints | None = None
    ) -> None:
        self.asked, self.plan = asked, plan
        self.rows = asked.rows if rows is None else rows
        self.kept = np.full((len(self.rows), *asked.kept_shape), np.nan)
        self.source: Ints = np.arange(len(asked.rows)) if source is None else source
        self.cut: Ints = np.full(len(self.rows), -1, dtype=np.int64)
        self.answered = 0

    @property
    def complete(self) -> bool:
        return self.answered == len(self.plan)

    @property
    def progress(self) -> dict[str, Number]:
        return {"answered": self.answered, "requests": len(self.plan)}

    def hold(self, channel: Channel) -> None:
        """Ask everything of one predictor process. Raises Broken."""
        for rows, shape, take in self.requests():
            take(channel.ask(rows, shape))

    def requests(self) -> Iterator[Request]:
        for numbers in self.plan:
            yield (
                self.rows[numbers],
                (len(numbers), *self.asked.shape),
                functools.partial(self._take, numbers),
            )

    def _take(self, numbers: Ints, answer: Floats) -> None:
        self.kept[numbers] = self.asked.reduce(self.source[numbers], metrics.finite(answer))
        self.answered += 1


def ordinary(asked: Questions) -> Sitting:
    """Every row once, shuffled by the kernel's random source."""
    return Sitting(asked, list(batches(len(asked.rows), asked.batch, secret_order(len(asked.rows)))))


def load_array(path: Path) -> Array:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise DataMissing(f"{path} cannot be read: {error}; run prepare.py again") from error
