"""Pruning by the parent's own curves: hopeless runs end, good ones practically never."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.signal import lfilter

from evaluators.statistics.pruning_rule import Curve, Pruner, ends_at, pruner

STEPS = np.arange(1, 61)


def hopeless(rival: Pruner, curve: Curve) -> bool:
    return ends_at(rival, curve) is not None


def curves(
    rng: np.random.Generator,
    count: int,
    *,
    behind: float = 0.0,
    stuck: bool = False,
    correlation: float = 0.9,
) -> list[list[tuple[float, float]]]:
    """Losses that fall like a training's: noise correlated along the curve, and a level per seed."""
    fall = np.ones(len(STEPS)) if stuck else np.exp(-STEPS / 10)
    noise = rng.normal(0, 1, (count, len(STEPS)))
    noise[:, 1:] *= math.sqrt(1 - correlation**2)
    noise = lfilter([1], [1, -correlation], noise, axis=1)
    values = 1 + 1.3 * fall + behind + 0.02 * rng.normal(size=(count, 1)) + 0.05 * noise
    return [[(float(s), float(v)) for s, v in zip(STEPS, row, strict=True)] for row in values]


@pytest.mark.parametrize("parents", [3, 5])
def test_a_run_as_good_as_its_parent_is_ended_in_less_than_one_of_a_thousand(parents: int) -> None:
    rng = np.random.default_rng(2026)
    ended = 0
    for _ in range(100):
        rival = pruner(curves(rng, parents), "lower")
        ended += sum(hopeless(rival, curve) for curve in curves(rng, 20))
    assert ended <= 2  # of 2,000


def test_a_run_that_does_not_learn_is_ended_in_the_first_half() -> None:
    rng = np.random.default_rng(1)
    rival = pruner(curves(rng, 5), "lower")
    ends = [ends_at(rival, curve) for curve in curves(rng, 40, stuck=True)]
    assert all(end is not None and end <= 30 for end in ends)
    far = [ends_at(rival, curve) for curve in curves(rng, 40, behind=0.8)]
    assert sum(end is not None for end in far) >= 36


def test_a_slow_start_that_catches_up_is_left_alone() -> None:
    rng = np.random.default_rng(3)
    rival = pruner(curves(rng, 5), "lower")
    late = [(s, v + (1.0 if s < 15 else 0.0)) for s, v in curves(rng, 1)[0]]
    assert not hopeless(rival, late)


def test_the_answer_at_a_step_does_not_depend_on_later_points() -> None:
    rng = np.random.default_rng(4)
    rival = pruner(curves(rng, 5), "lower")
    curve = curves(rng, 1, behind=0.8)[0]
    end = ends_at(rival, curve)
    assert end is not None
    whole = [n for n in range(len(curve) + 1) if hopeless(rival, curve[:n])]
    assert whole[0] == math.ceil(end)
    assert whole == list(range(whole[0], len(curve) + 1))


def test_higher_is_better_works_alike() -> None:
    rng = np.random.default_rng(5)
    flipped = [[(s, -v) for s, v in curve] for curve in curves(rng, 5)]
    rival = pruner(flipped, "higher")
    assert hopeless(rival, [(s, -v) for s, v in curves(rng, 1, stuck=True)[0]])
    assert not hopeless(rival, [(s, -v) for s, v in curves(rng, 1)[0]])


@pytest.mark.parametrize("parents", [[], [[(1.0, 2.0)]], [[(float(i), 1.0) for i in range(20)]]])
def test_too_few_parent_curves_judge_nobody(parents: list[list[tuple[float, float]]]) -> None:
    rival = pruner(parents, "lower")
    assert not rival.usable
    assert not hopeless(rival, [(float(i), 1e9) for i in range(100)])


def test_a_lying_curve_can_only_keep_or_end_its_own_run() -> None:
    rng = np.random.default_rng(6)
    rival = pruner(curves(rng, 5), "lower")
    nonsense = [(math.nan, 1.0), (3.0, math.inf), (2.0, 1.0), (1.0, 1.0), (2.0, 5.0)]
    assert hopeless(rival, nonsense) is False
    assert hopeless(rival, []) is False
    assert hopeless(rival, [(s, 0.0) for s, _ in curves(rng, 1)[0]]) is False
    assert isinstance(rival, Pruner)


def golf(rng: np.random.Generator, gain: float = 0.0) -> list[tuple[float, float]]:
    """A curve of golf_mini's size: loss in nats over 2,600 steps."""
    steps = np.arange(50, 2601, 50)
    noise = 0.03 * rng.standard_normal(len(steps))
    return [
        (float(s), float(1.72 - gain + 1.6 * np.exp(-s / 250) + e)) for s, e in zip(steps, noise, strict=True)
    ]


@pytest.mark.parametrize("forge", ["lower by 0.5", "flat and tiny"])
def test_a_parent_that_reports_too_good_a_curve_ends_no_honest_child(forge: str) -> None:
    rng = np.random.default_rng(0)
    start = [golf(rng) for _ in range(3)]
    parents = [golf(rng), golf(rng)]
    if forge == "lower by 0.5":
        parents = [[(s, v - 0.5) for s, v in curve] for curve in parents]
    else:
        parents = [[(s, 0.01 + 1e-6 * i) for i, (s, _) in enumerate(curve)] for curve in parents]
    child = golf(rng, 0.06)
    assert ends_at(pruner(parents, "lower"), child) is not None  # what the unbounded rule does
    bounded = pruner(parents, "lower", start, gain=0.01)
    assert ends_at(bounded, child) is None
    ended = sum(hopeless(bounded, golf(rng, 0.06)) for _ in range(300))
    assert ended == 0
    assert hopeless(bounded, [(s, 3.3) for s, _ in child])  # a run that does not learn is still ended


def test_an_honest_parent_is_bounded_by_nothing_it_has_earned() -> None:
    rng = np.random.default_rng(7)
    start, parents = [golf(rng) for _ in range(4)], [golf(rng, 0.1) for _ in range(4)]
    free, bounded = pruner(parents, "lower"), pruner(parents, "lower", start, gain=0.2)
    assert np.allclose(free.mean, bounded.mean)
    assert not pruner(parents, "lower", start[:1], gain=0.2).usable  # nothing to bound it by
