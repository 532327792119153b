"""The test that confirms a leader on fresh seeds: its p-value, its levels, its looks, its power.

A trial that beat the leader in one measurement is only a candidate. `worth_confirming` decides whether it gets
fresh replicates; `confirmation_book.Book.open` fixes the level and the noise estimate; `next_step` takes the
replicates so far and returns `Continue`, `Confirmed` or `Unconfirmed`. All functions are pure, so that
`bakeoff verify` repeats them on the recorded replicates (`evaluators.statistics.recompute`).

The test at a look with n fresh candidate replicates, on seeds that were not used to select the candidate:

    t = gain / sqrt(max(s_own^2, s^2) / n + s^2 / m),   p = P(T_df > t)

and where the score is a mean over test items (plans with `rules` 2), the chance of the items joins that of the
seeds in the standard error (`evaluators.statistics.paired_item_test`): a gain of three images gets its correct p-value, and a
program without any randomness can be tested.

s^2 with df degrees of freedom is the pooled variance of everything measured before this attempt
(`evaluators.statistics.noise`), m the incumbent's replicates. Where noise is equal for all programs the maximum can
only lower t, so p is valid at every n; where a candidate is noisier than the rest its own spread counts.
A time score is compared in pairs run next to each other: gain is the mean difference, m is infinite,
s^2 is the variance of a pair difference.

Measured (4,000 simulated campaigns of 200 trials, looks at 3, 5 and 8, one seed a trial;
`python -m tests.bench.promotion`): with no real effect 2.0 % have a false champion (single-seed rule of the
paper: 99.4 %); a trial that gains 2 sd is confirmed in 90 % of attempts and 82 % of campaigns. If one
candidate in ten is twice as noisy as the rest, 5.2 % have a false champion.

Levels:

- One look spends a fixed share of the attempt's level (`shares`, summing to 1: Bonferroni over looks).
- One attempt gets `alpha_for`: the level left, divided by the attempts still expected (this one
  included). It depends only on the past, and the sum never passes the campaign's alpha, so with no
  real effect the chance of any false champion is at most alpha (union bound; spending in the sense of
  Lan and DeMets 1983, attempts in the place of information).
- A promotion opens the budget again for the new incumbent, as alpha-investing does (Foster and Stine
  2008, payout up to alpha): the promise is per incumbent, and a long run of real gains does not
  starve the next one.
- Futility: an attempt whose p is above `futility` at a look ends there, and so does one whose replicates miss
  a gate clearly (`gates_out_of_reach`). The level does not rely on it.

Limits: confirmations of one campaign run one at a time. After a promotion the champion's replicates carry
the luck that promoted it until `target_of_incumbent` replicates dilute it; this makes the next promotion
harder, not easier. `gain` of an attempt stopped early is biased upwards; the sealed score is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit  # scipy.stats and statsmodels cost a second to import

from evaluators.judge.gates import judge_gate, out_of_reach
from evaluators.statistics.noise import Noise
from evaluators.statistics.paired_item_test import ItemChance, compare, items_needed, shown_gain
from lineage.environment_spec import SCORED_COSTS, EnvironmentSpec, Gate
from lineage.records import SeedResult

TIME_METRICS = frozenset({"cpu_seconds", "wall_seconds"})
SHARES = {1: (1.0,), 2: (0.1, 0.9), 3: (0.01, 0.09, 0.9)}
FUTILITY = {1: (), 2: (0.1,), 3: (0.15, 0.03)}
GATE_FUTILITY = 0.95  # loses fewer than 1 in 1,000 that would pass: `gates_out_of_reach`
PRIOR_TRIALS = 10  # weight, in trials, of the share of attempts expected when nothing is known
TAIL = 0.1  # past the planned end a campaign still expects this share of it, so that a level is left
INCUMBENT_FACTOR = 4  # 4 incumbent replicates per candidate one: 0.9 of the precision of endlessly many
INCUMBENT_RATE = 2  # incumbent runs per candidate run until that is reached


@dataclass(frozen=True)
class ConfirmPlan:
    """The fixed rules of a campaign's confirmations; stored with the campaign, never changed in it."""

    sign: int
    is_paired: bool
    looks: tuple[int, ...] = (3, 5, 8)
    shares: tuple[float, ...] = SHARES[3]
    futility: tuple[float, ...] = FUTILITY[3]
    alpha: float = 0.05
    horizon: int = 200
    screen_z: float = 0.6
    min_gain: float = 0.0
    min_units: float = 0.0
    gate_looks: int = 1  # looks that share a gate's risk; 1 in campaigns begun before it was shared
    gate_futility: float = 0.0  # confidence that a gate is out of reach; 0, in older campaigns: not tested
    rules: int = (
        1  # 2: items count as chance, the sealed gain decides, frozen seeds and failed runs are results
    )
    quality: str = ""  # quantity whose items are tested; empty for time scores
    exact: bool = False  # a size: what does not scatter is known, and no luck with test items is in it

    @property
    def target_of_incumbent(self) -> int:
        return INCUMBENT_FACTOR * self.looks[-1]

    def runs_of_incumbent(self, pool: int, candidate: int) -> int:
        """New incumbent runs that belong to the first `candidate` runs of an attempt begun with `pool`.

        With `rules` 2 at least as many as the candidate has at the first look: their artifacts are scored on the
        sealed split too.
        """
        if self.is_paired:
            return candidate
        wanted = min(max(0, self.target_of_incumbent - pool), INCUMBENT_RATE * candidate)
        return wanted if self.rules < 2 else max(wanted, min(candidate, self.looks[0]))

    @property
    def has_items(self) -> bool:
        return self.rules >= 2 and bool(self.quality)


@dataclass(frozen=True)
class Attempt:
    """One confirmation so far: its level, the noise known before it, and the replicates in order.

    `pool` are the incumbent's replicates from before (unused in pairs), `incumbent` the new ones.
    `gates`: after each look, do the candidate's replicates pass every gate? A missing entry means yes.
    `hopeless`: after each look, is a gate out of reach? A missing entry means no.
    `items`: at each look, the chance of the test items (plans with items); then `share` is the share of trials that are
    tried and `runs` the seeds of the candidate's first measurement. `fixed`: after each look, did every run
    of either program give the same result? Then further ones would only repeat it. A missing entry means no.
    """

    alpha: float
    noise: Noise
    pool: tuple[float, ...] = ()
    candidate: tuple[float, ...] = ()
    incumbent: tuple[float, ...] = ()
    gates: tuple[bool, ...] = ()
    hopeless: tuple[bool, ...] = ()
    items: tuple[ItemChance, ...] = ()
    fixed: tuple[bool, ...] = ()
    share: float = 0.0
    runs: int = 1


@dataclass(frozen=True)
class Look:
    """What one look saw. `gain` is positive when the candidate is better; interval two-sided 90 %.

    `se_seeds`, `se_items`: standard errors of the gain by either chance alone; 0 items where they are not tested.
    """

    n: int
    incumbent_n: int
    gain: float
    low: float
    high: float
    p_value: float
    level: float
    se_seeds: float = 0.0
    se_items: float = 0.0
    items: int = 0


@dataclass(frozen=True)
class Continue:
    """Run this many further seeds of each program, interleaved, then call `next_step` again."""

    candidate: int
    incumbent: int


@dataclass(frozen=True)
class Confirmed:
    looks: tuple[Look, ...]


@dataclass(frozen=True)
class Unconfirmed:
    """`reason`: futile, not_shown, gate (a gate is missed), failed (a replicate had no score), unlawful (a replicate
    broke a rule), incumbent_failed (the incumbent, not the candidate), not_learnt (the control run survived).
    """

    reason: str
    looks: tuple[Look, ...] = ()


Step = Continue | Confirmed | Unconfirmed


def plan_for(spec: EnvironmentSpec, trials: int | None = None, has_items: bool = True) -> ConfirmPlan:
    """The environment's plan; `trials` is the campaign's trial budget, 200 when it has none.

    `has_items`: whether its judge gives the metric item by item. A cost has none.
    """
    rules = spec.evaluation
    first, last = rules.confirm_runs, max(rules.confirm_runs, rules.max_confirm_runs)
    middle = round(math.sqrt(first * last))
    looks = tuple(sorted({first, middle, last}))
    return ConfirmPlan(
        sign=spec.sign,
        is_paired=spec.score.metric in TIME_METRICS,
        looks=looks,
        shares=SHARES[len(looks)],
        futility=FUTILITY[len(looks)],
        alpha=rules.alpha,
        horizon=trials or 200,
        min_gain=rules.min_gain,
        min_units=rules.min_units,
        gate_looks=len(looks),
        gate_futility=GATE_FUTILITY,
        rules=2,
        exact=spec.score.metric == "total_bytes",
        quality=spec.score.metric
        if has_items and spec.has_items and spec.score.metric not in SCORED_COSTS
        else "",
    )


def p_value(gain: Any, own: Any, n: Any, variance: Any, df: Any, incumbent_n: Any) -> Any:
    """The test of the module docstring, for numbers or arrays; `own` is the candidate's own variance."""
    se = standard_error(own, n, variance, incumbent_n)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(se > 0, gain / se, np.where(np.asarray(gain) > 0, np.inf, -np.inf))
    return stdtr(df, -t)


def standard_error(own: Any, n: Any, variance: Any, incumbent_n: Any) -> Any:
    return np.sqrt(np.maximum(own, variance) / n + np.asarray(variance) / incumbent_n)


def alpha_for(plan: ConfirmPlan, left: Any, attempts: Any, trials: Any) -> Any:
    """Level of the next attempt: what is left over the attempts still expected, this one included.

    `trials`: all recorded up to and with the candidate, the start too; `attempts`: earlier ones. Numbers or
    arrays. The expected share of trials that get a confirmation starts at what pure noise gives
    and learns from the campaign.
    """
    share = expected_share(plan, attempts, trials)
    to_come = np.maximum(plan.horizon - trials, TAIL * plan.horizon)
    return left / (1 + share * to_come)


def expected_share(plan: ConfirmPlan, attempts: Any, trials: Any) -> Any:
    """Share of the trials that get a confirmation: what pure noise gives, updated by the campaign's own attempts."""
    return (attempts + PRIOR_TRIALS * ndtr(-plan.screen_z)) / (trials + PRIOR_TRIALS)


def fairness(plan: ConfirmPlan, level: Any, share: Any, screened: Any, total: Any, by_items: Any) -> Any:
    """Factor on the level of a look for luck with the items: the same items selected the candidate and test it.

    Levels are spent over attempts, as seeds are fresh in each. Items are not: of the trials without a gain that would
    pass, nearly all are tried. With r the correlation of screening and test (variances `screened` and `total` of the
    two gains, `by_items` of both) a trial that passes was tried with chance q = P(screened gain > z sd | it passes)
    instead of the share that is tried anyway, and the level is smaller by as much. r = 0 changes nothing, r = 1
    spends over trials. Numbers or arrays.
    """
    r = np.clip(
        np.asarray(by_items) / np.sqrt(np.maximum(np.asarray(screened) * total, 1e-300)), 0.0, 1.0 - 1e-9
    )
    again = ndtr((r * ndtri(1 - np.asarray(level)) - plan.screen_z) / np.sqrt(1 - r**2))
    anyway = np.maximum(share, ndtr(-plan.screen_z))
    return anyway / np.maximum(anyway, again)


def screening_bar(plan: ConfirmPlan, noise_sd: Any, runs: Any, mean: Any, pool: Any) -> Any:
    """Gain over the incumbent's mean that one measurement of `runs` seeds must show to be confirmed. Units of the score."""
    by_noise = plan.screen_z * noise_sd * np.sqrt(1 / runs + 1 / np.asarray(pool))
    return np.maximum(np.maximum(by_noise, plan.min_gain * np.abs(mean)), plan.min_units)


def worth_confirming(plan: ConfirmPlan, score: float, runs: int, pool: Sequence[float], noise: Noise) -> bool:
    """Whether a leader's single measurement is far enough ahead of `pool`, the incumbent's replicates, to be confirmed."""
    if not pool:
        return False
    mean = float(np.mean(pool))
    bar = screening_bar(plan, noise.sd, runs, mean, len(pool))
    return bool(plan.sign * (score - mean) > bar)


def look_at(attempt: Attempt, plan: ConfirmPlan, index: int) -> Look:
    """The test at look `index`, from the replicates that belong to it and no later one."""
    n = plan.looks[index]
    ours = plan.sign * np.asarray(attempt.candidate[:n])
    new = attempt.incumbent[: plan.runs_of_incumbent(len(attempt.pool), n)]
    if plan.is_paired:
        values, incumbent_n = ours - plan.sign * np.asarray(new), math.inf
        gain = float(values.mean())
    else:
        theirs = plan.sign * np.asarray((*attempt.pool, *new))
        values, incumbent_n = ours, float(len(theirs))
        gain = float(ours.mean() - theirs.mean())
    own = float(values.var(ddof=1)) if n > 1 else 0.0
    variance, df = attempt.noise.variance, attempt.noise.df
    if df < 1:
        # Nothing was measured before: the candidate's own spread is all there is.
        variance, df = own, float(n - 1)
    count = n if plan.is_paired else int(incumbent_n)
    level = attempt.alpha * (sum(plan.shares[index:]) if _is_fixed(attempt, index) else plan.shares[index])
    se = float(standard_error(own, n, variance, incumbent_n))
    if plan.has_items and index < len(attempt.items):
        chance = attempt.items[index]
        test = compare(gain, se**2, df, chance)
        low, high = test.interval(0.05)
        by_items = math.sqrt(chance.variance)
        before = attempt.noise.variance * (1 / attempt.runs + 1 / max(1, len(attempt.pool))) + chance.variance
        level *= float(fairness(plan, level, attempt.share, before, test.se**2, chance.variance))
        return Look(n, count, gain, low, high, test.p_better, level, se, by_items, chance.items)
    # without scatter and without items there is nothing that the gain could be compared with
    is_silent = plan.rules >= 2 and se == 0 and not plan.exact
    p = float(p_value(gain, own, n, variance, df, incumbent_n)) if df >= 1 and not is_silent else 1.0
    half = float(stdtrit(max(df, 1.0), 0.95)) * se
    return Look(n, count, gain, gain - half, gain + half, p, level, se)


def _is_fixed(attempt: Attempt, index: int) -> bool:
    """At this look and not before: the attempt is decided here, with all of its level that is left."""
    return index < len(attempt.fixed) and attempt.fixed[index]


def next_step(attempt: Attempt, plan: ConfirmPlan) -> Step:
    """What to do after the replicates so far. All looks are computed again from the first, so none can be added.

    A candidate that is better and misses a gate by little gets the remaining replicates before it is
    rejected, because bounds tighten with them.
    """
    looks: list[Look] = []
    for index, n in enumerate(plan.looks):
        wanted = plan.runs_of_incumbent(len(attempt.pool), n)
        if len(attempt.candidate) < n or len(attempt.incumbent) < wanted:
            more, others = n - len(attempt.candidate), wanted - len(attempt.incumbent)
            return Continue(max(0, more), max(0, others))
        look = look_at(attempt, plan, index)
        looks.append(look)
        is_last = index == len(plan.looks) - 1 or _is_fixed(attempt, index)
        is_shown = look.p_value <= look.level
        if is_shown and (index >= len(attempt.gates) or attempt.gates[index]):
            return Confirmed(tuple(looks))
        if is_last:
            return Unconfirmed("gate" if is_shown else "not_shown", tuple(looks))
        if not is_shown and look.p_value > plan.futility[index]:
            return Unconfirmed("futile", tuple(looks))
        if index < len(attempt.hopeless) and attempt.hopeless[index]:
            return Unconfirmed("gate", tuple(looks))
    raise ValueError("the plan has no looks; plan_for(spec) makes one that has")


def gates_pass(gates: Sequence[Gate], seeds: Sequence[SeedResult], looks: int = 1) -> bool:
    """Whether these fresh replicates, taken together, pass every gate of the environment.

    A gate that is tested at each of several `looks` is tested at a level that they share (Bonferroni): tested
    three times at 95 %, a candidate exactly on a bound would pass in more than 5 % of its confirmations.
    """
    for single in gates:
        gate = single.model_copy(update={"confidence": 1 - (1 - single.confidence) / looks})
        values = [seed.quantities[gate.quantity] for seed in seeds if gate.quantity in seed.quantities]
        if len(values) != len(seeds) or not judge_gate(gate, values).passed:
            return False
    return True


def gates_out_of_reach(gates: Sequence[Gate], seeds: Sequence[SeedResult], confidence: float) -> bool:
    """Whether these fresh replicates miss a gate so clearly that the attempt can end. `confidence` 0: always False.

    At 0.95 and looks at 8, 14 and 24 replicates this ends 86 % of the attempts of a candidate whose mean misses by
    three quarters of its spread, 8 % of one exactly on the limit, 0.1 % of one that passes in 92 of 100; in 4,500
    none that would have passed later (tests/unit/test_promote.py).
    """
    if confidence <= 0:
        return False
    values = {g.quantity: [s.quantities.get(g.quantity, math.nan) for s in seeds] for g in gates}
    return any(out_of_reach(gate, values[gate.quantity], confidence) for gate in gates)


def power_statement(
    plan: ConfirmPlan, noise_sd: float, item_sd: float = 0.0, items: int = 0, score: float = 0.0
) -> dict[str, float]:
    """The gain that the last look detects with 80 % power at a typical attempt's level, in sd and in units of the score.

    Typical: the attempt in the middle of a campaign whose trials are all noise, the worst case. With `item_sd`, the
    spread at one test item of the difference of two programs, also what `items` items show there however many runs
    there are (`items_gain`), and how many a gain of the plan's `min_gain` of `score` would need (`items_needed`).
    """
    half = plan.horizon // 2
    attempts = half * float(ndtr(-plan.screen_z))
    left = plan.alpha / 2
    level = float(alpha_for(plan, left, attempts, half)) * plan.shares[-1]
    n = plan.looks[-1]
    gain_sd = detectable_gain(n, plan.target_of_incumbent, level, is_paired=plan.is_paired)
    stated = {"level": level, "replicates": n, "gain_sd": gain_sd, "gain": gain_sd * noise_sd}
    if item_sd > 0 and items > 1:
        least = max(plan.min_gain * abs(score), plan.min_units)
        stated |= {"items": items, "items_gain": shown_gain(item_sd, items, plan.alpha)}
        stated |= {"items_needed": items_needed(item_sd, least, plan.alpha)} if least > 0 else {}
    return stated


def detectable_gain(
    candidate: int, incumbent: int, alpha: float, *, wanted: float = 0.8, is_paired: bool = False
) -> float:
    """Smallest gain, in standard deviations, that a fixed-size one-sided test at `alpha` shows with chance `wanted`.

    With `is_paired` the standard deviation is that of one pair's difference, and `incumbent` is ignored.
    """
    from statsmodels.stats.power import TTestIndPower, TTestPower  # a second to import

    if is_paired:
        solved = TTestPower().solve_power(None, candidate, alpha, wanted, alternative="larger")
    else:
        ratio = incumbent / candidate
        solved = TTestIndPower().solve_power(None, candidate, alpha, wanted, ratio, alternative="larger")
    return float(np.asarray(solved).reshape(-1)[0])
