"""Quantities of a classification beside accuracy, each as a mean over the test items: macro F1, log loss, AUROC.

Use: `MORE[name](answers, labels)` gives the items of one run; the quantity is their weighted mean. Answers are one
number a class, as for accuracy; log loss takes their softmax. What is not a mean over items by itself is linearised at
the run's own value, so that the mean is exact and its variance that of the delta method:

- macro_f1: F_c = A_c / B_c with A = 2 [hit], B = [answered c] + [is c]; x_i = mean over c of F_c + n (a_ic - F_c b_ic) / B_c.
  A class that is neither answered nor there counts 0, as in scikit-learn.
- auroc: one class against the rest, mean over the classes that are there (two classes: the second one). V_i is the
  share of the other side that item i is ranked right against, ties half (DeLong, DeLong and Clarke-Pearson 1988);
  x_i = AUC + 2 (V_i - AUC) with half of the weight on either side, which gives their variance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from evaluators.judge.item_scores import Items, one_run

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def macro_f1(answers: Floats, labels: Ints) -> Items:
    answered, rows, classes = answers.argmax(axis=1), np.arange(len(labels)), answers.shape[1]
    both = np.zeros((len(labels), classes))
    both[rows, answered] += 1
    both[rows, labels] += 1
    hits = np.zeros_like(both)
    hits[rows, labels] = 2.0 * (answered == labels)
    total = both.sum(axis=0)
    seen = total > 0
    score = np.divide(hits.sum(axis=0), total, out=np.zeros(classes), where=seen)
    share = np.divide(len(labels), total, out=np.zeros(classes), where=seen)
    count = max(1, int(seen.sum()))
    return one_run(((score + share * (hits - score * both))[:, seen]).sum(axis=1) / count)


def log_loss(answers: Floats, labels: Ints) -> Items:
    """Natural logarithm."""
    shifted = answers - answers.max(axis=1, keepdims=True)
    return one_run(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels])


def auroc(answers: Floats, labels: Ints) -> Items:
    shifted = answers - answers.max(axis=1, keepdims=True)
    shares = np.exp(shifted)
    shares /= shares.sum(axis=1, keepdims=True)
    there = np.unique(labels)
    wanted = [1] if answers.shape[1] == 2 else there.tolist()
    parts = [
        _one_against_rest(shares[:, one], labels == one)
        for one in wanted
        if 0 < (labels == one).sum() < len(labels)
    ]
    if not parts:  # one class alone: undefined, and nothing to rank
        return one_run(np.full(len(labels), 0.5))
    # every part has weights of its own; in units of one part's they become values
    return one_run(np.mean([weights * values * len(labels) for values, weights in parts], axis=0))


def _one_against_rest(scores: Floats, is_it: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Values and weights (sum 1) of the items."""
    its, rest = np.sort(scores[is_it]), np.sort(scores[~is_it])

    def below(sorted_others: Floats, own: Floats) -> Floats:
        left, right = (np.searchsorted(sorted_others, own, side) for side in ("left", "right"))
        return np.asarray((left + right) / (2 * len(sorted_others)))

    placed = np.empty(len(scores))
    placed[is_it], placed[~is_it] = below(rest, scores[is_it]), 1 - below(its, scores[~is_it])
    area = float(placed[is_it].mean())
    weights = np.where(is_it, 0.5 / len(its), 0.5 / len(rest))
    return area + 2 * (placed - area), weights


MORE: Mapping[str, Callable[[Floats, Ints], Items]] = {
    "macro_f1": macro_f1,
    "log_loss": log_loss,
    "auroc": auroc,
}
