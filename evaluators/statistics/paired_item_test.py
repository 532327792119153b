"""The test of a gain whose score is a mean over test items: variance by items and by seeds. Pure.

Use: `item_chance(candidate, incumbent)` from the items of two programs' runs on one split (`evaluators.judge.item_scores`), then
`compare(gain, seed_variance, seed_df, chance)` gives p-values of both directions, and `interval`.

Two samples are random: the seeds that were drawn and the items in the split. Each program is measured on every
item, so the two are crossed, and items pair up. With u = w / sum(w), d_i the difference of the two programs' mean
values at item i and D = sum(u d) the gain:

    item part      V_I = n / (n - 1) * sum_i (u_i (d_i - D))^2                         n - 1 degrees of freedom
    seed part      V_S, of the run means (`evaluators.statistics.confirmation.standard_error` squared)
    both contain the run-by-item interaction, so it is subtracted once:
    residual       V_E = sum over the two programs of sum_i u_i^2 s_i^2 / runs,  s_i^2 the run-by-item interaction
    variance of D  V = max(V_S, V_I, V_S + V_I - V_E)

Degrees of freedom by Satterthwaite (1946): V^2 / (V_S^2 / df_S + V_I^2 / df_I). This is the usual two-way form for
readers and cases (Dorfman, Berbaum and Metz 1992; Gallas 2006); the linearised ratio is Cochran's (1977, 6.3). Where no run
of either program depends on its seed and every item is right or wrong, the test is the exact one of McNemar (1947)
on the items that differ, when it is the stricter of the two.

Limits: items of one split are taken as independent draws; neighbouring windows of one text are not quite, documents are.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import bdtrc, stdtr, stdtrit  # scipy.stats costs a second to import

from evaluators.judge.item_scores import Items


@dataclass(frozen=True)
class ItemChance:
    """`variance` of the gain by the choice of items, its `df`, and the `residual` that is part of the seeds' spread as well.

    `wins` and `losses`: items that only the candidate or only the incumbent has right; both -1 where they cannot be
    counted, because a run depends on its seed or items are not right or wrong.
    """

    variance: float
    df: float
    residual: float = 0.0
    items: int = 0
    wins: int = -1
    losses: int = -1

    def as_json(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Test:
    """A gain (positive is better) with its standard error; `p_better`, `p_worse` are one-sided."""

    gain: float
    se: float
    df: float
    p_better: float
    p_worse: float

    def interval(self, level: float) -> tuple[float, float]:
        """Two-sided, `level` outside on each side."""
        half = float(stdtrit(self.df, 1 - level)) * self.se
        return self.gain - half, self.gain + half


def item_chance(candidate: Items, incumbent: Items, sign: int = 1) -> ItemChance:
    """Item part of the variance of the difference of two programs, each with one run or more."""
    if not np.array_equal(candidate.weights, incumbent.weights):
        raise ValueError("the two programs were not measured on the same items")
    n = len(candidate)
    share = candidate.weights / candidate.weights.sum()
    difference = sign * (candidate.values.mean(0) - incumbent.values.mean(0))
    if n < 2:
        return ItemChance(math.inf, 1.0, 0.0, n)
    apart = share * (difference - float(share @ difference))
    wins, losses = _counted(candidate, incumbent, difference)
    return ItemChance(
        variance=float(n / (n - 1) * np.sum(apart**2)),
        df=float(n - 1),
        residual=_residual(candidate, share) + _residual(incumbent, share),
        items=n,
        wins=wins,
        losses=losses,
    )


def _residual(items: Items, share: Any) -> float:
    runs = len(items.values)
    if runs < 2:
        return 0.0
    means = items.values @ share
    apart = items.values - items.values.mean(0) - (means - means.mean())[:, None]
    return float(np.sum(share**2 * (apart**2).sum(0)) / (runs - 1) / runs)


def _counted(candidate: Items, incumbent: Items, difference: Any) -> tuple[int, int]:
    fixed = all((side.values == side.values[0]).all() for side in (candidate, incumbent))
    if not fixed or np.ptp(candidate.weights) or not np.isin(difference, (-1.0, 0.0, 1.0)).all():
        return -1, -1
    return int((difference > 0).sum()), int((difference < 0).sum())


def variance_and_df(seed: Any, seed_df: Any, chance: ItemChance) -> tuple[Any, Any]:
    """Variance of the gain by seeds and items together, and its degrees of freedom. `seed`: numbers or arrays."""
    return combined(seed, seed_df, chance.variance, chance.df, chance.residual)


def combined(seed: Any, seed_df: Any, item: Any, item_df: Any, residual: Any = 0.0) -> tuple[Any, Any]:
    """The formula of the module docstring, for numbers or arrays."""
    total = np.maximum(np.maximum(seed, item), np.asarray(seed) + item - residual)
    parts = np.asarray(seed) ** 2 / seed_df + np.asarray(item) ** 2 / item_df
    with np.errstate(divide="ignore", invalid="ignore"):
        df = np.where(parts > 0, total**2 / parts, item_df)
    return total, np.maximum(df, 1.0)


def compare(gain: float, seed_variance: float, seed_df: float, chance: ItemChance) -> Test:
    """Both one-sided tests of a gain; `seed_variance` is that of the gain, by seeds alone."""
    total, df = variance_and_df(seed_variance, max(seed_df, 1.0), chance)
    se = math.sqrt(float(total))
    t = gain / se if se > 0 else math.copysign(math.inf, gain) if gain else 0.0
    better, worse = float(stdtr(df, -t)), float(stdtr(df, t))
    if chance.wins >= 0 and seed_variance == 0:
        better = max(better, exact(chance.wins, chance.losses))
        worse = max(worse, exact(chance.losses, chance.wins))
    return Test(gain, se, float(df), better, worse)


def exact(wins: int, losses: int) -> float:
    """Chance of at least so many wins among the items that differ, if either side is as likely (McNemar)."""
    return float(bdtrc(wins - 1, wins + losses, 0.5)) if wins > 0 else 1.0


def shown_gain(sd: float, items: int, level: float, power: float = 0.8) -> float:
    """Smallest gain that `items` items show at a one-sided `level` with chance `power`.

    `sd`: spread over items of the difference of two programs, at one item. Seeds are left out, more of them help; the
    normal form is exact enough from 30 items on.
    """
    from scipy.special import ndtri

    return float((ndtri(1 - level) + ndtri(power)) * sd / math.sqrt(items))


def items_needed(sd: float, gain: float, level: float, power: float = 0.8) -> int:
    """How many items show `gain` so; see `shown_gain`."""
    return math.ceil((shown_gain(sd, 1, level, power) / gain) ** 2)


def difference_sd(chance: ItemChance) -> float:
    """Spread over items of the difference of two programs at one item, for `shown_gain`."""
    return math.sqrt(chance.variance * chance.items)
