"""Noise floors, a paired test, detectable gains: thin, named calls into scipy and statsmodels.

Use: `noise_floor(values)` for a calibration, `paired` for a plain one-sided comparison of two programs,
`detectable_gain` for the smallest gain that a number of replicates can show, `sealed_gap` for the gap between
the public and the sealed split.

A *gain* is positive when the candidate is better; `sign` is +1 where higher scores are better, -1 where
lower ones are. Sources: Student (1908) as in `statsmodels.stats.weightstats`, noncentral
t power as in `statsmodels.stats.power`, chi-square interval of a variance as in `scipy.stats.chi2`.

Limits: intervals assume roughly normal values, which seed-to-seed scores of one program are;
`tests/unit/test_simulation_promotion.py` measures what skewed and heavy-tailed noise does to a promotion.
Welch's test is liberal far out in its tail when one side has few values (3 against 24: eight times the
level at 0.001), so promotions do not rest on it: see `evaluators.statistics.promotion`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as sp
from statsmodels.stats.power import TTestIndPower, TTestPower
from statsmodels.stats.weightstats import DescrStatsW


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


@dataclass(frozen=True)
class Comparison:
    """One-sided test of "the candidate is better", with the two-sided 90 % interval that matches it."""

    gain: float
    low: float
    high: float
    p_value: float
    df: float


@dataclass(frozen=True)
class Gap:
    """Overfitting gauge: how much better the champions look on the public split than on the sealed one."""

    n: int
    mean: float
    low: float | None
    high: float | None


def noise_floor(values: Sequence[float], confidence: float = 0.95) -> NoiseFloor:
    """Mean, sd and intervals of a calibration; needs at least 2 values."""
    if len(values) < 2:
        raise ValueError(
            f"a noise floor needs at least 2 values, got {len(values)}; calibrate with more runs"
        )
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
        sd_low=sd * math.sqrt(df / float(sp.chi2.ppf(1 - tail, df))),
        sd_high=sd * math.sqrt(df / float(sp.chi2.ppf(tail, df))),
    )


def paired(candidate: Sequence[float], incumbent: Sequence[float], sign: int) -> Comparison:
    """Student's one-sided test of pairs measured next to each other; at least 2 pairs."""
    if len(candidate) != len(incumbent):
        raise ValueError(
            f"pairs need equal counts, got {len(candidate)} candidate and {len(incumbent)} incumbent"
        )
    differences = DescrStatsW(
        sign * (np.asarray(candidate, dtype=float) - np.asarray(incumbent, dtype=float))
    )
    gain = float(differences.mean)
    if differences.var == 0:
        return _certain(gain, len(candidate) - 1)
    _, p_value, df = differences.ttest_mean(0.0, alternative="larger")
    low, high = differences.tconfint_mean(0.1)
    return Comparison(gain, float(low), float(high), float(p_value), float(df))


def _certain(gain: float, df: float) -> Comparison:
    """Values without any spread: the sign of the difference is the whole answer."""
    return Comparison(gain, gain, gain, 0.0 if gain > 0 else 1.0, df)


def detectable_gain(
    candidate: int, incumbent: int, alpha: float, *, wanted: float = 0.8, is_paired: bool = False
) -> float:
    """Smallest gain, in standard deviations, that a fixed-size one-sided test at `alpha` shows with chance `wanted`.

    With `is_paired` the standard deviation is that of one pair's difference, and `incumbent` is ignored.
    """
    if is_paired:
        solved = TTestPower().solve_power(None, candidate, alpha, wanted, alternative="larger")
    else:
        ratio = incumbent / candidate
        solved = TTestIndPower().solve_power(None, candidate, alpha, wanted, ratio, alternative="larger")
    return float(np.asarray(solved).reshape(-1)[0])


def sealed_gap(
    public: Sequence[float], sealed: Sequence[float], sign: int, confidence: float = 0.95
) -> Gap | None:
    """Mean of public minus sealed over champions, positive when the public figure flatters; None without any.

    Give figures in the same unit and with the start's own gap taken off both sides if the two splits
    differ in difficulty; one champion has a mean and no interval.
    """
    if len(public) != len(sealed):
        raise ValueError(f"one sealed figure per public one is needed, got {len(public)} and {len(sealed)}")
    if not public:
        return None
    gaps = DescrStatsW(sign * (np.asarray(public, dtype=float) - np.asarray(sealed, dtype=float)))
    if len(public) < 2:
        return Gap(1, float(gaps.mean), None, None)
    low, high = gaps.tconfint_mean(1 - confidence)
    return Gap(len(public), float(gaps.mean), float(low), float(high))
