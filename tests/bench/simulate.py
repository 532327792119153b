"""Whole campaigns on made-up scores: how often a plan promotes a false champion, how often it finds a gain.

Use: `simulate(plan, Scenario(...))` for this engine's promotions, `single_seed(Scenario(...))` for the
rule of arXiv 2605.05724 (one seed, strictly better is the new best). Both draw the same kind of
campaign: a start with known noise and `trials` trials in a row, each with a true gain over the program
it starts from (the incumbent); all but `gains` of them have none. Everything is in sd of one run.

Decisions are those of `evaluators.statistics.confirmation`, called on arrays with one entry per campaign, so thousands of
campaigns take a second; `tests/unit/test_simulation_promotion.py` replays single campaigns through
`next_step` and compares. Seeds are fixed: the same call gives the same figures.

Test items: with `item_sd` every program has luck of its own on the public split, which no number of runs takes away,
and other luck on the sealed one. A champion is false when its true gain is none, whatever the public split says; it
`generalises` by the sealed gain over the start, at the level of that look (`evaluators.statistics.sealed_verdict.level_of`). Worst case for the
sealed split: a run's luck with its seed is the same on both splits.

Limits: one trial at a time; trials whose true effect is negative are left out, because they can only
lower the share of false champions (`worse` puts them back).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr

from evaluators.statistics.confirmation import (
    INCUMBENT_RATE,
    ConfirmPlan,
    alpha_for,
    expected_share,
    fairness,
    p_value,
    screening_bar,
    standard_error,
)
from evaluators.statistics.paired_item_test import combined
from evaluators.statistics.sealed_verdict import level_of

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scenario:
    """What the made-up campaigns are like.

    `gain`/`gains`: true gain and how many of the trials have it, at random places. `worse`: true loss of
    all others. `seed_sd` 0: a recipe without randomness. `item_sd`: spread of the gain that a program without a true one
    has on a public split of `items` items. `noisy_share` of the trials have `noisy_factor` times the noise. `drift`: sd of a slow
    drift of the machine that run pairs share (correlation 0.95 from trial to trial).
    """

    campaigns: int = 2000
    trials: int = 200
    runs: int = 1
    calibrate_runs: int = 12
    gain: float = 0.0
    gains: int = 0
    worse: float = 0.0
    shape: Literal["normal", "t4", "skewed"] = "normal"
    noisy_share: float = 0.0
    noisy_factor: float = 1.0
    drift: float = 0.0
    seed: int = 20260705
    seed_sd: float = 1.0
    item_sd: float = 0.0
    items: int = 600
    sealed_items: int = 600


@dataclass(frozen=True)
class Outcome:
    """Shares over campaigns (`false_champion`, `false_general`) or over the real gains (`found`, `found_if_tried`)."""

    false_champion: float
    false_general: float
    found: float
    found_if_tried: float
    attempts: float
    candidate_runs: float
    incumbent_runs: float
    replicates_to_confirm: float


@dataclass
class _State:
    """One entry per campaign; higher is better throughout. Of the incumbent: `truth` its true score,
    `standing` the score that a keep must beat, `mean` and `count` of its fresh replicates."""

    truth: Floats
    standing: Floats
    mean: Floats
    count: Floats
    squares: Floats
    df: Floats
    pair_squares: Floats
    pair_df: Floats
    left: Floats
    attempts: Floats
    leader: Floats
    drift: Floats
    false: Bools
    true: Floats
    sealed: Floats
    start_sealed: Floats
    champions: Floats
    false_general: Bools
    items: Items
    found: int = 0
    tried: int = 0
    candidate_runs: int = 0
    incumbent_runs: int = 0
    replicates: list[float] = field(default_factory=list)


@dataclass
class Items:
    """Luck with the items, drawn apart from the noise of seeds. `public`, `sealed`: of this trial's program."""

    sd: float
    public_df: float
    sealed_df: float
    rng: np.random.Generator
    public: Floats = field(default_factory=lambda: np.zeros(0))
    sealed: Floats = field(default_factory=lambda: np.zeros(0))

    def next(self, size: int) -> None:
        ratio = math.sqrt((self.public_df + 1) / (self.sealed_df + 1))
        self.public = self.sd * self.rng.normal(0, 1, size)
        self.sealed = self.sd * ratio * self.rng.normal(0, 1, size)

    def variance(self, size: int, steps: Any = 1.0, *, sealed: bool = False) -> Any:
        """What the items of a split say of the variance of a gain of so many edits."""
        df = self.sealed_df if sealed else self.public_df
        scale = (self.public_df + 1) / (self.sealed_df + 1) if sealed else 1.0
        return self.sd**2 * scale * steps * self.rng.chisquare(df, size) / df


class _Noise:
    """Draws of standardised noise of the scenario's shape."""

    def __init__(self, scenario: Scenario) -> None:
        self.rng = np.random.default_rng(scenario.seed)
        self.shape, self.sd = scenario.shape, scenario.seed_sd

    def draw(self, *size: int) -> Floats:
        if self.shape == "normal":
            values: Floats = self.rng.normal(0, 1, size)
        elif self.shape == "t4":
            values = self.rng.standard_t(4, size) / np.sqrt(2)
        else:
            values = (self.rng.gamma(2.0, 1.0, size) - 2) / np.sqrt(2)
        return values * self.sd


def _begin(plan: ConfirmPlan, scenario: Scenario, noise: _Noise) -> _State:
    size, runs = scenario.campaigns, scenario.calibrate_runs
    drift = scenario.drift * noise.rng.normal(0, 1, size)
    start = noise.draw(size, runs) + drift[:, None]
    steps = start[:, 1::2] - start[:, 0 : runs - runs % 2 : 2]
    return _State(
        truth=np.zeros(size),
        standing=start.mean(1),
        mean=start.mean(1),
        count=np.full(size, float(runs)),
        squares=start.var(1) * runs,
        df=np.full(size, runs - 1.0),
        pair_squares=(steps**2).sum(1),
        pair_df=np.full(size, float(steps.shape[1])),
        left=np.full(size, plan.alpha),
        attempts=np.zeros(size),
        leader=np.full(size, -np.inf),
        drift=drift,
        false=np.zeros(size, bool),
        true=np.zeros(size),
        sealed=np.zeros(size),
        start_sealed=start.mean(1),
        champions=np.zeros(size),
        false_general=np.zeros(size, bool),
        items=Items(
            scenario.item_sd,
            scenario.items - 1.0,
            scenario.sealed_items - 1.0,
            np.random.default_rng([scenario.seed, 1]),
        ),
    )


def simulate(plan: ConfirmPlan, scenario: Scenario) -> Outcome:
    """This engine's promotions over the scenario's campaigns."""
    noise = _Noise(scenario)
    state = _begin(plan, scenario, noise)
    real = _places(scenario, noise)
    for trial in range(scenario.trials):
        gain = np.where(real[:, trial], scenario.gain, -scenario.worse)
        sd = np.where(noise.rng.random(scenario.campaigns) < scenario.noisy_share, scenario.noisy_factor, 1.0)
        _drift_on(state, scenario, noise)
        state.items.next(scenario.campaigns)
        screened = state.truth + gain + state.items.public + state.drift
        screened = screened + sd * noise.draw(scenario.campaigns, scenario.runs).mean(1)
        go = _worth(plan, scenario, state, screened)
        level = alpha_for(plan, state.left, state.attempts, trial + 2)
        share = expected_share(plan, state.attempts, np.asarray(trial + 2))
        state.left[go] -= level[go]
        state.attempts[go] += 1
        state.tried += int((go & real[:, trial]).sum())
        if go.any():
            at = np.flatnonzero(go)
            _confirm(plan, state, noise, at, gain, sd, level, share, scenario.runs)
    attempts = float(state.attempts.mean())
    return Outcome(
        false_champion=float(state.false.mean()),
        false_general=float(state.false_general.mean()),
        found=state.found / max(1, int(real.sum())),
        found_if_tried=state.found / max(1, state.tried),
        attempts=attempts,
        candidate_runs=state.candidate_runs / scenario.campaigns,
        incumbent_runs=state.incumbent_runs / scenario.campaigns,
        replicates_to_confirm=float(np.mean(state.replicates)) if state.replicates else 0.0,
    )


def _places(scenario: Scenario, noise: _Noise) -> Bools:
    """Which trials are real improvements: `gains` of them per campaign, at random places."""
    order = noise.rng.permuted(np.tile(np.arange(scenario.trials), (scenario.campaigns, 1)), axis=1)
    return order < scenario.gains


def _drift_on(state: _State, scenario: Scenario, noise: _Noise) -> None:
    if scenario.drift:
        fresh = noise.rng.normal(0, 1, scenario.campaigns)
        state.drift = 0.95 * state.drift + scenario.drift * np.sqrt(1 - 0.95**2) * fresh


def _worth(plan: ConfirmPlan, scenario: Scenario, state: _State, screened: Floats) -> Bools:
    """Is the trial a leader, and far enough ahead? A leader that is not, raises the bar for the next."""
    keep = screened > np.maximum(state.standing, state.leader)
    sd = np.sqrt(state.squares / state.df)
    bar = screening_bar(plan, sd, scenario.runs, state.mean, state.count)
    go: Bools = keep & (screened - state.mean > bar)
    state.leader = np.where(keep & ~go, screened, state.leader)
    return go


@dataclass(frozen=True)
class _Attempts:
    """Attempts of the campaigns `at`, with all replicates that they could ever ask for."""

    at: npt.NDArray[np.int64]
    gain: Floats
    level: Floats
    ours: Floats
    theirs: Floats
    pool: Floats
    by_items: Floats
    share: Floats
    runs: int


def _confirm(
    plan: ConfirmPlan,
    state: _State,
    noise: _Noise,
    at: Any,
    gain: Floats,
    sd: Floats,
    level: Floats,
    share: Floats,
    runs: int,
) -> None:
    """Run the attempts of the campaigns `at` to their end and book what they showed."""
    most = plan.looks[-1]
    here = (state.truth + state.drift)[at, None]
    ours = here + (gain + state.items.public)[at, None] + sd[at, None] * noise.draw(len(at), most)
    theirs = here + noise.draw(len(at), plan.runs_of_incumbent(0, most))
    by_items = state.items.variance(len(at)) if plan.has_items else np.zeros(len(at))
    attempts = _Attempts(at, gain[at], level[at], ours, theirs, state.count[at], by_items, share[at], runs)
    fixed = noise.sd == 0 and plan.rules >= 2
    under_way, passed = np.ones(len(at), bool), np.zeros(len(at), bool)
    used = np.zeros(len(at), int)
    for index, n in enumerate(plan.looks):
        p, factor = _look(plan, state, attempts, n, 1.0 if fixed else plan.shares[index])
        used[under_way] = n
        hit = under_way & (p <= attempts.level * factor)
        passed |= hit
        under_way &= ~hit & (not fixed)
        if n < most:
            under_way &= p <= plan.futility[index]
    _keep_replicates(plan, state, attempts, used)
    _promote(plan, state, attempts, used, passed)


def new_runs(plan: ConfirmPlan, pool: Floats, n: Any) -> Any:
    """`ConfirmPlan.runs_of_incumbent` for arrays; a test compares the two."""
    if plan.is_paired:
        return np.broadcast_to(np.asarray(n), pool.shape)
    wanted = np.minimum(np.maximum(0, plan.target_of_incumbent - pool), INCUMBENT_RATE * np.asarray(n))
    return wanted if plan.rules < 2 else np.maximum(wanted, np.minimum(n, plan.looks[0]))


def _look(plan: ConfirmPlan, state: _State, attempts: _Attempts, n: int, share: float) -> Any:
    """p-values, and the part of the attempt's level that this look has."""
    at, ours, theirs = attempts.at, attempts.ours[:, :n], attempts.theirs
    if plan.is_paired:
        pairs = ours - theirs[:, :n]
        variance, df = state.pair_squares[at] / state.pair_df[at], state.pair_df[at]
        return p_value(pairs.mean(1), pairs.var(1, ddof=1), n, variance, df, np.inf), share
    new = new_runs(plan, attempts.pool, n)
    inside = np.arange(theirs.shape[1]) < new[:, None]
    mean = (state.mean[at] * attempts.pool + (theirs * inside).sum(1)) / (attempts.pool + new)
    gain, own = ours.mean(1) - mean, ours.var(1, ddof=1)
    variance, df = state.squares[at] / state.df[at], state.df[at]
    if not plan.has_items:
        return p_value(gain, own, n, variance, df, attempts.pool + new), share
    by_seeds = standard_error(own, n, variance, attempts.pool + new) ** 2
    total, both = combined(by_seeds, df, attempts.by_items, state.items.public_df)
    screened = variance * (1 / attempts.runs + 1 / attempts.pool) + attempts.by_items
    factor = fairness(plan, attempts.level * share, attempts.share, screened, total, attempts.by_items)
    return _p_of(gain, total, both), share * factor


def _p_of(gain: Any, variance: Any, df: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(variance > 0, gain / np.sqrt(variance), np.where(gain > 0, np.inf, -np.inf))
    return stdtr(df, -t)


def _keep_replicates(plan: ConfirmPlan, state: _State, attempts: _Attempts, used: Any) -> None:
    """What was measured makes the noise better known and the incumbent's mean more exact."""
    at, ours, theirs = attempts.at, attempts.ours, attempts.theirs
    new = new_runs(plan, attempts.pool, used)
    state.candidate_runs += int(used.sum())
    state.incumbent_runs += int(new.sum())
    inside = np.arange(ours.shape[1]) < used[:, None]
    beside = np.arange(theirs.shape[1]) < new[:, None]
    state.squares[at] += _squares(ours, inside)
    state.df[at] += used - 1
    if plan.is_paired:
        state.pair_squares[at] += _squares(ours - theirs, inside)
        state.pair_df[at] += used - 1
    total, pool = (theirs * beside).sum(1), attempts.pool
    # A group's squares when values join it: theirs about their own mean, and the two means apart.
    apart = (total / np.maximum(new, 1) - state.mean[at]) ** 2 * pool * new / (pool + new)
    state.squares[at] += _squares(theirs, beside) + apart
    state.df[at] += new
    state.mean[at] = (state.mean[at] * pool + total) / (pool + new)
    state.count[at] += new


def _squares(values: Floats, inside: Bools) -> Any:
    """Sum of squares about each row's own mean, over the entries inside."""
    mean = (values * inside).sum(1) / np.maximum(inside.sum(1), 1)
    return (((values - mean[:, None]) ** 2) * inside).sum(1)


def _promote(plan: ConfirmPlan, state: _State, attempts: _Attempts, used: Any, passed: Bools) -> None:
    """The confirmed become incumbents, with their fresh replicates and a budget of their own."""
    won, real = attempts.at[passed], attempts.gain[passed] > 0
    state.false[won] |= ~real
    state.found += int(real.sum())
    state.replicates += used[passed].tolist()
    inside = np.arange(attempts.ours.shape[1]) < used[:, None]
    mean = (attempts.ours * inside).sum(1) / used
    if len(won):
        _seal(plan, state, attempts, used, passed, mean)
    state.truth[won] += attempts.gain[passed] + state.items.public[won]
    state.mean[won], state.count[won] = mean[passed], used[passed]
    state.standing[won] = mean[passed]
    state.left[won] = plan.alpha


def _seal(
    plan: ConfirmPlan, state: _State, attempts: _Attempts, used: Any, passed: Bools, mean: Floats
) -> None:
    """Does the sealed split show the gain of the new champions over the start? Noted where there is none."""
    won = attempts.at[passed]
    state.true[won] += attempts.gain[passed]
    state.sealed[won] += state.items.sealed[won]
    state.champions[won] += 1
    luck = mean[passed] - (state.truth + state.drift + state.items.public)[won] - attempts.gain[passed]
    gain = state.true[won] + state.sealed[won] + luck - state.start_sealed[won]
    variance, df = state.squares[won] / state.df[won], state.df[won]
    own = attempts.ours[passed].var(1, ddof=1)
    by_seeds = standard_error(own, used[passed], variance, plan.looks[0]) ** 2
    by_items = state.items.variance(len(won), state.champions[won], sealed=True)
    p = _p_of(gain, *combined(by_seeds, df, by_items, state.items.sealed_df))
    shown = p <= level_of(plan.alpha, state.champions[won])
    state.false_general[won] |= shown & (state.true[won] <= 0)


@dataclass(frozen=True)
class SingleSeed:
    """The paper's rule: `false_champion` share of campaigns with a keep that is no improvement at all."""

    false_champion: float
    false_champions: float
    found: float
    final_is_real: float


def single_seed(scenario: Scenario) -> SingleSeed:
    """One seed a trial, strictly better than the best so far is a keep and the new best, no questions.

    arXiv 2605.05724 appendix D. Each trial builds on the best of its time, as there.
    """
    noise = _Noise(scenario)
    real = _places(scenario, noise)
    size = scenario.campaigns
    truth, best = np.zeros(size), noise.draw(size)
    false, found, last_real = np.zeros(size), 0, np.zeros(size, bool)
    for trial in range(scenario.trials):
        gain = np.where(real[:, trial], scenario.gain, -scenario.worse)
        score = truth + gain + noise.draw(size)
        keep = score > best
        false += keep & ~real[:, trial]
        found += int((keep & real[:, trial]).sum())
        last_real = np.where(keep, real[:, trial], last_real)
        truth, best = np.where(keep, truth + gain, truth), np.where(keep, score, best)
    return SingleSeed(
        false_champion=float((false > 0).mean()),
        false_champions=float(false.mean()),
        found=found / max(1, int(real.sum())),
        final_is_real=float(last_real.mean()),
    )
