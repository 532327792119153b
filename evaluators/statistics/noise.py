"""Noise between seeds: the pooled variance that a confirmation tests against, and the noise floor of a calibration.

Use: `pooled(groups)` over every program measured so far (each with its own mean), `consecutive(values)`
for the differences of neighbouring runs of one program. `evaluators.statistics.confirmation` tests against it.
`noise_floor(values)` gives one program's spread with intervals.

Formula: the within-group mean square of a one-way analysis of variance (Fisher 1925), as in
`statsmodels` OLS with one dummy per program; `tests/unit/test_stats.py` compares the two. Limits: one
variance for all programs; a program that is noisier than the rest is caught by its own spread in
`evaluators.statistics.confirmation.p_value`.
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
    """Spread within groups, pooled; groups of one value are left out."""
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


@dataclass(frozen=True)
class NoiseFloor:
    """Spread of one program's score over seeds, with 95 % intervals of its mean and of its sd."""

    n: int
    mean: float
    sd: float
    mean_low: float
    mean_high: float
    sd_low: float
    sd_high: float


def noise_floor(values: Sequence[float], confidence: float = 0.95) -> NoiseFloor:
    """Mean, standard deviation and their intervals (Student 1908; chi-square). Raises ValueError below 2 values."""
    if len(values) < 2:
        raise ValueError(
            f"a noise floor needs at least 2 values, got {len(values)}; calibrate with more runs"
        )
    from scipy.stats import chi2  # half a second to import
    from statsmodels.stats.weightstats import DescrStatsW

    described = DescrStatsW(np.asarray(values, dtype=float))
    sd = float(np.std(values, ddof=1))
    low, high = described.tconfint_mean(1 - confidence)
    df, tail = len(values) - 1, (1 - confidence) / 2
    return NoiseFloor(
        n=len(values),
        mean=float(described.mean),
        sd=sd,
        mean_low=float(low),
        mean_high=float(high),
        sd_low=sd * math.sqrt(df / float(chi2.ppf(1 - tail, df))),
        sd_high=sd * math.sqrt(df / float(chi2.ppf(tail, df))),
    )
