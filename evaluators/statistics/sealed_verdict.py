"""A champion's gain over the start on the sealed split, with an interval and a verdict. Pure.

Use: `sealed_fields(plan, Looked(...))` gives the columns of a `sealed` event and what goes into its detail; `bakeoff verify`
calls it again on the recorded measurements.

A champion, the program that it replaced and the start are scored on the sealed split with the artifacts of their
confirmations. Where the score is a mean over items, programs are paired over them and both chances count
(`evaluators.statistics.paired_item_test`; the seeds' part is the pooled spread of the two programs' runs). A time score is compared as the
logarithm of the ratio of neighbouring runs; steps from champion to champion are added up back to the start, so that a
machine which has become slower since does not count.

SealedVerdict, at the level of this look:

- `reversed`: shown to be worse than the start or than the program that it replaced, or a sealed measurement is not
  lawful, or clearly misses a gate that the replaced program does not miss. It is no champion any more.
- `generalises`: shown to be better than the start.
- `not shown`: neither.

Every look costs: look k has `level_of(alpha, k)` = alpha / (k (k + 1)), which over any number of looks sums to alpha, so the
chance that a campaign without a real gain ever reports `generalises` is at most alpha. Intervals are two-sided with that level
on each side: 95 % at the first look for an alpha of 0.05, wider later.

`contradicted`: the public gain lies above the sealed one by more than both intervals allow. Gains are compared relative to
the start's score on the same split, because one split may be harder than the other.

Limits: the first sealed event of a program that is measured again later counts all its runs up to then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import stdtr, stdtrit

from evaluators.judge.item_scores import Items
from evaluators.statistics.confirmation import ConfirmPlan
from evaluators.statistics.paired_item_test import ItemChance, compare, item_chance
from lineage.records import Row

SealedVerdict = Literal["generalises", "not shown", "reversed"]
SMALLEST = 1e-9  # seconds; a run of no time has no ratio


def level_of(alpha: Any, look: Any) -> Any:
    """One-sided level of the look-th look at the sealed split, counted from 1. Numbers or arrays."""
    return alpha / (look * (look + 1))


@dataclass(frozen=True)
class Side:
    """One program's runs on one split: scores in the order in which they were run, and the items of the score."""

    scores: tuple[float, ...]
    items: Items | None = None


@dataclass(frozen=True)
class Pair:
    """One program's runs on both splits, the same artifacts in the same order."""

    public: Side
    sealed: Side


@dataclass(frozen=True)
class Step:
    """Mean logarithm of the ratio of neighbouring runs, champion over replaced program, with its variance."""

    mean: float
    variance: float
    df: float


@dataclass(frozen=True)
class Gain:
    """Positive is better. In units of the score, and relative to the reference program's score on that split."""

    gain: float
    low: float
    high: float
    relative: float
    relative_low: float
    relative_high: float
    p_better: float
    p_worse: float


@dataclass(frozen=True)
class Looked:
    """What a look at the sealed split has to go by. `look` counts from 1.

    `steps`: of former champions, oldest first, as (public, sealed), where the score is a time. `fault`: why a sealed
    measurement is not lawful, or which gate is missed; empty when none is.
    """

    look: int
    champion: Pair
    replaced: Pair
    start: Pair
    steps: tuple[tuple[Step, Step], ...] = ()
    fault: str = ""


def mean_gain(ours: Side, theirs: Side, sign: int, level: float) -> Gain:
    """Gain of a score that is a mean over items, or of any score whose runs are not paired."""
    a, b = np.asarray(ours.scores), np.asarray(theirs.scores)
    df = float(len(a) + len(b) - 2)
    squares = float(((a - a.mean()) ** 2).sum() + ((b - b.mean()) ** 2).sum())
    by_seeds = squares / df * (1 / len(a) + 1 / len(b)) if df > 0 else 0.0
    chance = ItemChance(0.0, math.inf)
    if ours.items is not None and theirs.items is not None:
        chance = item_chance(ours.items, theirs.items, sign)
    gain, reference = sign * float(a.mean() - b.mean()), abs(float(b.mean()))
    test = compare(gain, by_seeds, df, chance)
    low, high = test.interval(level)
    of = 1 / reference if reference else 0.0
    return Gain(gain, low, high, gain * of, low * of, high * of, test.p_better, test.p_worse)


def step_of(ours: Side, theirs: Side) -> Step:
    """The step of a champion, from pairs that were run next to each other."""
    pairs = zip(ours.scores, theirs.scores, strict=False)
    logs = np.array([math.log(max(a, SMALLEST) / max(b, SMALLEST)) for a, b in pairs])
    if len(logs) < 2:
        return Step(float(logs.mean()) if len(logs) else 0.0, math.inf, 1.0)
    return Step(float(logs.mean()), float(logs.var(ddof=1) / len(logs)), float(len(logs) - 1))


def time_gain(steps: Sequence[Step], sign: int, level: float, reference: float) -> Gain:
    """Gain over the start of a chain of steps; `reference` is the start's time on that split."""
    mean = math.fsum(step.mean for step in steps)
    variance = math.fsum(step.variance for step in steps)
    parts = math.fsum(step.variance**2 / step.df for step in steps)
    df = variance**2 / parts if 0 < parts < math.inf else 1.0
    se = math.sqrt(variance)
    half = float(stdtrit(df, 1 - level)) * se if math.isfinite(se) else math.inf
    t = sign * mean / se if se > 0 else math.copysign(math.inf, sign * mean)
    ends = sorted(sign * (math.exp(min(value, 700.0)) - 1) for value in (mean - half, mean, mean + half))
    low, gain, high = ends[0], sign * (math.exp(mean) - 1), ends[-1]
    better, worse = float(stdtr(df, -t)), float(stdtr(df, t))
    return Gain(gain * reference, low * reference, high * reference, gain, low, high, better, worse)


def contradicted(public: Gain, sealed: Gain) -> bool:
    """Does the public gain lie above the sealed one by more than the two intervals allow?"""
    return public.relative_low > sealed.relative_high


def verdict_of(over_start: Gain, over_replaced: Gain, level: float, fault: str) -> SealedVerdict:
    if fault or over_start.p_worse <= level or over_replaced.p_worse <= level:
        return "reversed"
    return "generalises" if over_start.p_better <= level else "not shown"


def sealed_fields(plan: ConfirmPlan, looked: Looked) -> tuple[dict[str, Any], dict[str, Any]]:
    """Columns of a `sealed` event (`gain` is the public gain over the start, from the same artifacts), and its detail."""
    level = float(level_of(plan.alpha, looked.look))
    detail: dict[str, Any] = {"fault": looked.fault}
    if plan.is_paired:
        public, sealed = _step(looked, "public"), _step(looked, "sealed")
        detail["step"] = {"public": asdict(public), "sealed": asdict(sealed)}
        over = {
            name: time_gain(
                [*(steps[at] for steps in looked.steps), step],
                plan.sign,
                level,
                _mean(getattr(looked.start, name)),
            )
            for at, (name, step) in enumerate((("public", public), ("sealed", sealed)))
        }
        over_replaced = time_gain([sealed], plan.sign, level, _mean(looked.replaced.sealed))
    else:
        over = {
            name: mean_gain(getattr(looked.champion, name), getattr(looked.start, name), plan.sign, level)
            for name in ("public", "sealed")
        }
        over_replaced = mean_gain(looked.champion.sealed, looked.replaced.sealed, plan.sign, level)
    before, after = over["public"], over["sealed"]
    detail |= {
        "public_relative": [before.relative, _finite(before.relative_low), _finite(before.relative_high)],
        "sealed_relative": [after.relative, _finite(after.relative_low), _finite(after.relative_high)],
        "over_replaced": [over_replaced.gain, _finite(over_replaced.low), _finite(over_replaced.high)],
        "contradicted": contradicted(before, after),
    }
    columns = {
        "gain": before.gain,
        "gain_low": _finite(before.low),
        "gain_high": _finite(before.high),
        "sealed_gain": after.gain,
        "sealed_low": _finite(after.low),
        "sealed_high": _finite(after.high),
        "sealed_p": after.p_better,
        "sealed_level": level,
        "sealed_looks": looked.look,
        "sealed_verdict": verdict_of(after, over_replaced, level, looked.fault),
    }
    return columns, detail


def _step(looked: Looked, name: str) -> Step:
    step = step_of(getattr(looked.champion, name), getattr(looked.replaced, name))
    return step if math.isfinite(step.variance) else Step(step.mean, 0.0, 1.0)


def _mean(side: Side) -> float:
    return math.fsum(side.scores) / len(side.scores)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Gap:
    """Overfitting gauge: how much better the champions look on the public split than on the sealed one."""

    n: int
    mean: float
    low: float | None
    high: float | None


def scored_on_both(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """Public and sealed scores of the champions, in order, for `sealed_gap`."""
    pairs = [
        (row.public_score, row.sealed_score)
        for row in rows
        if row.event == "sealed" and row.public_score is not None and row.sealed_score is not None
    ]
    return [public for public, _ in pairs], [sealed for _, sealed in pairs]


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
    from statsmodels.stats.weightstats import DescrStatsW  # half a second to import

    gaps = DescrStatsW(sign * (np.asarray(public, dtype=float) - np.asarray(sealed, dtype=float)))
    if len(public) < 2:
        return Gap(1, float(gaps.mean), None, None)
    low, high = gaps.tconfint_mean(1 - confidence)
    return Gap(len(public), float(gaps.mean), float(low), float(high))
