"""Racing by simulation: keeps that are lost, runs that are saved. The rule is `evaluators.statistics.racing` itself.

    python -m tests.bench.racing [--draws 20000] [--seed 1]

First table: one trial whose true mean is `behind` sds behind the leader's score, with noise like the start's, twice as
large, and with heavy tails (Student t, 3 degrees of freedom). Second: 20 campaigns of 60 trials, each trial an edit of
the leader that is worse in most cases, with the leader of the moment as the bar; the same draws with and without racing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluators.statistics.racing import RacingPlan, Stopped, _behind, plan_for
from lineage.records import SeedResult

Floats = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Floats]
START_RUNS = 10
NOISES: dict[str, Draw] = {
    "as the start's": lambda rng, n: rng.normal(0, 1, n),
    "twice as large": lambda rng, n: rng.normal(0, 2, n),
    "heavy tails": lambda rng, n: rng.standard_t(3, n) / np.sqrt(3),
}
BEHIND = (-1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0)


@dataclass
class Outcome:
    """Of trials that race: shares, and the mean number of runs."""

    trials: int = 0
    keeps: int = 0
    lost: int = 0
    ended: int = 0
    runs: int = 0

    def add(self, would_keep: bool, ended: bool, runs: int) -> None:
        self.trials += 1
        self.keeps += would_keep
        self.lost += would_keep and ended
        self.ended += ended
        self.runs += runs


def as_results(values: Floats) -> list[SeedResult]:
    return [SeedResult(seed=at, quantities={"score": float(v)}) for at, v in enumerate(values)]


def ends_at(plan: RacingPlan, values: Floats, start: list[SeedResult], leader: float) -> int:
    """Runs that a screen with these values has; lower is better."""
    level = plan.error / len(plan.looks)
    for k in plan.looks:
        found: Stopped | None = _behind(plan, "score", -1, leader, as_results(values[:k]), start, level)
        if found is not None:
            return k
    return plan.runs


def one_trial(plan: RacingPlan, behind: float, draw: Draw, draws: int, rng: np.random.Generator) -> Outcome:
    found = Outcome()
    for _ in range(draws):
        start = as_results(rng.normal(0, 1, START_RUNS))
        values = behind + draw(rng, plan.runs)
        runs = ends_at(plan, values, start, 0.0)
        found.add(bool(values.mean() < 0), runs < plan.runs, runs)
    return found


def campaigns(plan: RacingPlan, count: int, trials: int, rng: np.random.Generator) -> tuple[Outcome, int]:
    """Outcome over all trials, and how many of the keeps that racing lost were truly better than the leader."""
    found, truly = Outcome(), 0
    for _ in range(count):
        start = as_results(rng.normal(0, 1, START_RUNS))
        true = 0.0  # of the leader's program
        leader = float(np.mean([seed.quantities["score"] for seed in start]))
        for _ in range(trials):
            # a quarter better by up to a sd, a quarter neutral, the others worse, some by far
            kind = rng.random()
            effect = -rng.random() if kind < 0.25 else 0.0 if kind < 0.5 else rng.exponential(3.0)
            values = true + effect + rng.normal(0, 1, plan.runs)
            runs = ends_at(plan, values, start, leader)
            is_keep = bool(values.mean() < leader)
            found.add(is_keep, runs < plan.runs, runs)
            truly += is_keep and runs < plan.runs and effect < 0
            if is_keep and runs == plan.runs:
                true, leader = true + effect, float(values.mean())
    return found, truly


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    told = parser.parse_args()
    rng = np.random.default_rng(told.seed)
    print(
        "| runs | noise | sds behind | keeps without racing | of them lost | of all trials lost | runs saved |"
    )
    print("|---|---|---|---|---|---|---|")
    for runs in (3, 5, 10):
        plan = plan_for(runs)
        assert plan is not None
        for noise, draw in NOISES.items():
            for behind in BEHIND if noise == "as the start's" else (0.0, 1.0):
                o = one_trial(plan, behind, draw, told.draws, rng)
                lost = f"{o.lost / o.keeps:.2%}" if o.keeps else "-"
                saved = 1 - o.runs / (o.trials * runs)
                print(
                    f"| {runs} | {noise} | {behind:g} | {o.keeps / o.trials:.1%} | {lost} | "
                    f"{o.lost / o.trials:.2%} | {saved:.0%} |"
                )
    print(
        "\n| runs | 20 campaigns: trials | keeps without racing | lost | truly better and lost | runs saved |"
    )
    print("|---|---|---|---|---|---|")
    for runs in (3, 5, 10):
        plan = plan_for(runs)
        assert plan is not None
        o, truly = campaigns(plan, 20, 60, rng)
        print(
            f"| {runs} | {o.trials:,} | {o.keeps} | {o.lost} | {truly} | {1 - o.runs / (o.trials * runs):.0%} |"
        )


if __name__ == "__main__":
    main()
