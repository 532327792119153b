"""The rule that ends a training run early when its curve is far behind its parent's. Pure.

Use: `pruner(parents, direction, start, gain)` with the parent's recorded curves (one per seed), then
`ends_at(pruner, curve)` each time the candidate reports; the caller ends the run at the step that it gives.
The curve comes from the candidate through `report(step, value)`, so it is advice: it can end its own
run, with status `discard` and cause `pruned`, and never raises a score.

A parent's curve is reported by a candidate too, and a forged one must not end the runs of its children. So it is
bounded by what the judge measured: at equal share of the steps it is taken for no better than the start's curve
improved by the relative `gain` over the start that the judge measured for the parent. The start's own curves
come from the recipe, not from an edit.

Rule, after the successive-halving family (Li et al. 2018) but against one known rival and much more
careful: compare at equal share of the parent's steps; from a quarter of them on; the candidate must
be worse than the parents' mean by more than `margin` times their spread (t quantile of a new value) and
worse than the worst parent's value, at `patience` successive checks, and must not have been better than
the parents' mean at any check. A single noisy point, an early lag, or a curve that recovers ends nothing.

False prunes, by simulation (`tests/unit/test_prune.py`, curves with correlated noise of the parent's
own size): below 1 in 1,000 of runs that are as good as the parent. Limits: with fewer than 2 parent
curves, or if the two curves measure different things (a new loss), the rule must not be used; the flow
turns it off for roles whose surface holds the reported quantity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

Curve = Sequence[tuple[float, float]]

FIRST_SHARE = 0.25  # a quarter of the parent's steps: warm-up and schedules differ before
CHECKS = 24  # checks are made at 24 equal parts of the parent's length
PATIENCE = 4  # successive failed checks, a sixth of a whole run
CONFIDENCE = 0.999  # one-sided, of a new value given the parent's


@dataclass(frozen=True)
class Pruner:
    """The parent's curves on a common grid, higher is better. `usable` is False when they cannot judge."""

    grid: tuple[float, ...]
    mean: tuple[float, ...]
    bar: tuple[float, ...]
    sign: int
    usable: bool


def pruner(
    parents: Sequence[Curve],
    better: Literal["higher", "lower"],
    start: Sequence[Curve] | None = None,
    gain: float = 0.0,
) -> Pruner:
    """Bars from the parent's curves; at least two of them, each with 8 points or more.

    `start`: the curves of the start, by which the parent's are bounded; None where the parent is the start.
    `gain`: judged gain of the parent over the start, relative to the start's score; below 0 counts as 0.
    """
    sign = 1 if better == "higher" else -1
    curves = [clean for clean in (_clean(curve) for curve in parents) if len(clean[0]) >= 8]
    if len(curves) < 2:
        return Pruner((), (), (), sign, False)
    end = min(float(steps[-1]) for steps, _ in curves)
    grid = np.arange(round(FIRST_SHARE * CHECKS), CHECKS + 1) / CHECKS * end
    values = np.array([np.interp(grid, steps, sign * smooth(points)) for steps, points in curves])
    count = len(curves)
    # The curves' spread is pooled over the grid, since one point has only `count` values.
    spread = np.sqrt(np.mean(np.var(values, axis=0, ddof=1)))
    reach = float(stdtrit(2 * (count - 1), CONFIDENCE)) * spread * np.sqrt(1 + 1 / count)
    mean, least = values.mean(axis=0), values.min(axis=0)
    if start is not None:
        of_start = pruner(start, better)
        if not of_start.usable:
            return Pruner((), (), (), sign, False)
        # both grids are the same shares of their own length, the last of them ends it
        known = np.asarray(of_start.mean)
        most = known + max(0.0, gain) * np.abs(known)
        reach = max(reach, float(np.max(known - np.asarray(of_start.bar))))
        mean, least = np.minimum(mean, most), np.minimum(least, most)
    bar = np.minimum(mean - reach, least)
    return Pruner(tuple(grid), tuple(mean), tuple(bar), sign, True)


def ends_at(rival: Pruner, curve: Curve) -> float | None:
    """The step at which the rule ends this run; None while the run may continue. Later points change nothing."""
    if not rival.usable:
        return None
    steps, values = _clean(curve)
    if len(steps) < 2:
        return None
    reached = int(np.searchsorted(rival.grid, steps[-1], side="right"))
    seen = np.interp(rival.grid[:reached], steps, rival.sign * smooth(values))
    behind = 0
    for step, value, mean, bar in zip(rival.grid, seen, rival.mean, rival.bar, strict=False):
        if value > mean:
            return None
        behind = behind + 1 if value < bar else 0
        if behind == PATIENCE:
            return step
    return None


def smooth(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean over the last 5 points of each: no future value is used, so that growing curves stay the same."""
    padded = np.concatenate([np.full(4, values[0]), values]) if len(values) else values
    return np.convolve(padded, np.full(5, 0.2), mode="valid") if len(values) else values


def _clean(curve: Curve) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Finite points with growing steps; anything else that a candidate reports is dropped."""
    steps: list[float] = []
    values: list[float] = []
    for step, value in curve:
        if np.isfinite(step) and np.isfinite(value) and (not steps or step > steps[-1]):
            steps.append(float(step))
            values.append(float(value))
    return np.asarray(steps), np.asarray(values)
