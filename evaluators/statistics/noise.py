"""What a campaign knows of its noise before a confirmation: one pooled variance and how sure it is.

Use: `pooled(groups)` over every program measured so far (each with its own mean), `consecutive(values)`
for the differences of neighbouring runs of one program. `evaluators.statistics.promotion` tests against it.

Formula: the within-group mean square of a one-way analysis of variance (Fisher 1925), as in
`statsmodels` OLS with one dummy per program; `tests/unit/test_stats.py` compares the two. Limits: one
variance for all programs; a program that is noisier than the rest is caught by its own spread in
`evaluators.statistics.promotion.p_value`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Noise:
    """Sum of squares about the group means and its degrees of freedom."""

    squares: float = 0.0
    df: float = 0.0

    @property
    def variance(self) -> float:
        return self.squares / self.df if self.df > 0 else 0.0

    @property
    def sd(self) -> float:
        return math.sqrt(self.variance)

    def __add__(self, other: Noise) -> Noise:
        return Noise(self.squares + other.squares, self.df + other.df)


def pooled(groups: Iterable[Sequence[float]]) -> Noise:
    """Spread within groups, pooled; groups of one value say nothing."""
    total = Noise()
    for group in groups:
        if len(group) > 1:
            values = np.asarray(group, dtype=float)
            total += Noise(float(np.sum((values - values.mean()) ** 2)), len(group) - 1)
    return total


def consecutive(values: Sequence[float]) -> Noise:
    """Spread of a pair difference, from disjoint neighbouring runs of one program, whose true mean is 0.

    Slow drift of the machine drops out, as it does in interleaved pairs (von Neumann 1941).
    """
    differences = [values[i + 1] - values[i] for i in range(0, len(values) - 1, 2)]
    return Noise(float(sum(d * d for d in differences)), len(differences))
