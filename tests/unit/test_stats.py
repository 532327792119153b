"""Statistics against scipy and statsmodels used another way, and against hand-made cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats as sp
from statsmodels.stats.power import TTestPower

from evaluators.judge.gates import bound_against
from evaluators.statistics.confirmation import detectable_gain, p_value
from evaluators.statistics.noise import consecutive, noise_floor, pooled
from evaluators.statistics.sealed_verdict import sealed_gap

A = [2.05, 2.11, 2.02, 2.08, 2.07]
B = [2.21, 2.19, 2.30, 2.25, 2.17, 2.24]


def test_noise_floor_agrees_with_scipy_and_covers_the_truth() -> None:
    floor = noise_floor(A)
    inside = sp.ttest_1samp(A, 0.0).confidence_interval(0.95)
    assert (floor.mean_low, floor.mean_high) == (pytest.approx(inside.low), pytest.approx(inside.high))
    rng = np.random.default_rng(5)
    floors = [noise_floor(rng.normal(3.0, 0.5, 6).tolist()) for _ in range(1500)]
    assert np.mean([f.mean_low <= 3.0 <= f.mean_high for f in floors]) == pytest.approx(0.95, abs=0.02)
    assert np.mean([f.sd_low <= 0.5 <= f.sd_high for f in floors]) == pytest.approx(0.95, abs=0.02)


def test_a_noise_floor_of_one_value_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match=r"at least 2 values, got 1; calibrate with more runs"):
        noise_floor([1.0])


def test_the_gates_bounds_agree_with_scipy() -> None:
    for confidence in (0.9, 0.95, 0.99):
        low = sp.ttest_1samp(A, 0.0, alternative="greater").confidence_interval(confidence).low
        high = sp.ttest_1samp(A, 0.0, alternative="less").confidence_interval(confidence).high
        assert bound_against(A, confidence, lower=True) == pytest.approx(low)
        assert bound_against(A, confidence, lower=False) == pytest.approx(high)


def test_pooled_noise_is_the_residual_mean_square_of_statsmodels() -> None:
    groups = [A, B, [3.0, 3.3], [9.0]]
    noise = pooled(groups)
    values = np.concatenate(groups)
    dummies = np.zeros((len(values), len(groups)))
    at = 0
    for column, group in enumerate(groups):
        dummies[at : at + len(group), column] = 1
        at += len(group)
    fit = sm.OLS(values, dummies).fit()
    assert noise.df == fit.df_resid
    assert noise.variance == pytest.approx(fit.mse_resid)


def test_consecutive_differences_do_not_see_a_slow_drift() -> None:
    rng = np.random.default_rng(7)
    run = rng.normal(0, 1, 4000)
    drift = np.linspace(0, 50, 4000)
    assert consecutive(list(run + drift)).variance == pytest.approx(2.0, rel=0.1)
    assert consecutive([1.0, 1.5, 9.0]).df == 1


def test_the_promotion_test_is_students_test_where_the_noise_is_equal() -> None:
    """With the candidate's own spread not above the rest, p is that of scipy's pooled two-sample test."""
    variance, df = 0.25, 30.0
    p = float(p_value(0.4, 0.1, 5, variance, df, 20.0))
    t = 0.4 / math.sqrt(variance / 5 + variance / 20)
    assert p == pytest.approx(float(sp.t.sf(t, df)))
    noisier = float(p_value(0.4, 1.0, 5, variance, df, 20.0))
    assert noisier > p
    assert float(p_value(0.0, 0.0, 3, 0.0, 2.0, 9.0)) == 1.0
    assert float(p_value(1e-9, 0.0, 3, 0.0, 2.0, 9.0)) == 0.0


def test_a_detectable_gain_is_shown_as_often_as_it_says() -> None:
    gain = detectable_gain(8, 32, 0.001)
    rng = np.random.default_rng(11)
    ours, theirs = rng.normal(gain, 1, (4000, 8)), rng.normal(0, 1, (4000, 32))
    shown = sp.ttest_ind(ours, theirs, axis=1, alternative="greater").pvalue <= 0.001
    assert shown.mean() == pytest.approx(0.8, abs=0.03)
    in_pairs = detectable_gain(8, 0, 0.01, is_paired=True)
    assert TTestPower().power(in_pairs, 8, 0.01, alternative="larger") == pytest.approx(0.8, abs=1e-3)


def test_sealed_gap_is_positive_when_the_public_figure_flatters() -> None:
    assert sealed_gap([], [], 1) is None
    one = sealed_gap([0.98], [0.96], 1)
    assert one is not None
    assert one.mean == pytest.approx(0.02)
    assert one.low is None
    lower_is_better = sealed_gap([1.0, 1.1, 1.05], [1.2, 1.3, 1.15], -1)
    assert lower_is_better is not None
    assert lower_is_better.mean == pytest.approx(1 / 6, abs=0.01)
    assert lower_is_better.low is not None and lower_is_better.high is not None
    assert lower_is_better.low < lower_is_better.mean < lower_is_better.high
    with pytest.raises(ValueError, match="got 1 and 0"):
        sealed_gap([1.0], [], 1)


def test_why_promotions_do_not_rest_on_welch_alone() -> None:
    """Three values against 24 at level 0.001: Welch says yes to nothing at all far too often, ours does not."""
    rng = np.random.default_rng(17)
    ours, theirs = rng.normal(0, 1, (60_000, 3)), rng.normal(0, 1, (60_000, 24))
    welch_p = sp.ttest_ind(ours, theirs, axis=1, equal_var=False, alternative="greater").pvalue
    gain = ours.mean(1) - theirs.mean(1)
    p = p_value(gain, ours.var(1, ddof=1), 3, theirs.var(1, ddof=1), 23.0, 24.0)
    assert np.mean(welch_p <= 0.001) > 0.005
    assert np.mean(p <= 0.001) < 0.001
