"""Numbers from answers: accuracy, bits per byte. All arithmetic is the judge's own, in float64.

Use: `accuracy(answers, labels)`, `token_bits(answers, targets)`, `bits_per_byte(bits, nbytes)`.
Limits: answers must be finite, checked by `finite`; a distribution is whatever softmax makes of the
answer, so it always sums to one and no claim about normalisation is believed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluators.judge.predictor_pipes import Broken, Floats

Bits = npt.NDArray[np.float64]


def finite(answer: Floats) -> Floats:
    """The answer itself. Raises Broken("nan") if any number in it is NaN or infinite."""
    good = np.isfinite(answer)
    if not good.all():
        bad = int(answer.size - np.count_nonzero(good))
        raise Broken("nan", f"{bad} of {answer.size} answered numbers are not finite", non_finite=bad)
    return answer


def accuracy(answers: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.int64]) -> float:
    """Share of rows (0 to 1) whose largest answer is at the label; the first of equals counts."""
    return float(np.count_nonzero(hits(answers, labels))) / len(labels)


def hits(answers: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which rows are right, by the rule of `accuracy`."""
    return np.asarray(answers.argmax(axis=1) == labels)


def token_bits(answers: Floats, targets: npt.NDArray[np.int64]) -> Bits:
    """Bits (-log2 p) that each target costs under softmax(answer), same shape as `targets`.

    log softmax(z)_t = z_t - max z - log sum exp(z - max z); Shannon 1948, section 6.
    """
    flat = answers.reshape(-1, answers.shape[-1]).astype(np.float64)
    flat -= flat.max(axis=1, keepdims=True)
    total = np.log(np.exp(flat).sum(axis=1))
    chosen = flat[np.arange(len(flat)), targets.reshape(-1)]
    return np.asarray((total - chosen) / math.log(2)).reshape(targets.shape)


def bits_per_byte(bits: float, nbytes: int) -> float:
    """Total bits over raw text bytes: a tokenizer cannot change the denominator (The Pile, 2021, section 3.1)."""
    return bits / nbytes
