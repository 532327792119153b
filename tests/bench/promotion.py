"""False champions and found gains, this engine's promotions beside the paper's single-seed rule.

    python -m tests.bench.promotion [--campaigns 4000]

Each line is `campaigns` simulated campaigns of 200 trials (fixed seeds, `tests.bench.simulate`). Paper: one
seed a trial, strictly better than the best so far is the new best (arXiv 2605.05724, appendix D).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
from scipy import stats as sp

from evaluators.statistics.confirmation import ConfirmPlan, power_statement
from tests.bench.simulate import Outcome, Scenario, simulate, single_seed

PLAN = ConfirmPlan(sign=1, is_paired=False)
PAIRS = ConfirmPlan(sign=1, is_paired=True)
ROOT2 = float(np.sqrt(2))

LINES: tuple[tuple[str, ConfirmPlan, dict[str, float | str]], ...] = (
    ("no real effect", PLAN, {}),
    ("no real effect, 5 seeds a trial", PLAN, {"runs": 5}),
    ("no real effect, others 0.5 sd worse", PLAN, {"worse": 0.5}),
    ("one trial gains 1 sd", PLAN, {"gain": 1.0, "gains": 1}),
    ("one trial gains 1.5 sd", PLAN, {"gain": 1.5, "gains": 1}),
    ("one trial gains 2 sd", PLAN, {"gain": 2.0, "gains": 1}),
    ("one trial gains 2 sd, 5 seeds a trial", PLAN, {"gain": 2.0, "gains": 1, "runs": 5}),
    ("three trials gain 2 sd", PLAN, {"gain": 2.0, "gains": 3}),
    ("one trial gains 3 sd", PLAN, {"gain": 3.0, "gains": 1}),
    ("noise: all candidates twice the start's", PLAN, {"noisy_share": 1.0, "noisy_factor": 2.0}),
    ("noise: one candidate in ten twice", PLAN, {"noisy_share": 0.1, "noisy_factor": 2.0}),
    ("noise: heavy tails (t, 4 df)", PLAN, {"shape": "t4"}),
    ("noise: skewed (gamma)", PLAN, {"shape": "skewed"}),
    ("800 trials where 200 were planned", PLAN, {"trials": 800}),
    ("time in pairs, no real effect", PAIRS, {}),
    ("time in pairs, drift as large as noise", PAIRS, {"drift": 1.0}),
    ("time in pairs, gain 2 sd of a run", PAIRS, {"gain": 2.0, "gains": 1}),
    ("time in pairs, gain 2 sd of a pair", PAIRS, {"gain": 2 * ROOT2, "gains": 1}),
    ("... and drift as large as noise", PAIRS, {"gain": 2 * ROOT2, "gains": 1, "drift": 1.0}),
)

ITEMS = ConfirmPlan(sign=1, is_paired=False, rules=2, quality="accuracy")


def of_score(errors: float, alike: float) -> float:
    """A gain in standard errors of a split's score, in those of the paired difference of two programs.

    `alike`: correlation of what an item gives to one program's score and to the other's.
    """
    return errors / float(np.sqrt(2 * (1 - alike)))


# Luck with the items in sd of one run; without seeds (`seed_sd` 0) it is the standard error of the paired difference, and
# 1. On the template's 600 digits two seeds of the start agree with 0.90, 300 and 400 steps with 0.95, 300 and 1500 with 0.78.
ALONE: dict[str, float] = {"item_sd": 1.0, "seed_sd": 0.0, "gains": 1}
ITEM_LINES: tuple[tuple[str, dict[str, float]], ...] = (
    ("seeds and items, no real effect", {"item_sd": 1.0}),
    ("few items' luck, no real effect", {"item_sd": 0.3}),
    ("no seeds, no real effect", {"item_sd": 1.0, "seed_sd": 0.0}),
    ("gain 2 sd of a run, items 0.2", {"item_sd": 0.2, "gain": 2.0, "gains": 1}),
    ("gain 2 sd of a run, items 0.3", {"item_sd": 0.3, "gain": 2.0, "gains": 1}),
    *((f"gain {n} se of the difference, no seeds", {**ALONE, "gain": float(n)}) for n in (2, 3, 4, 5)),
    *(
        (f"gain 2 se of the score, alike {alike}", {**ALONE, "gain": of_score(2, alike)})
        for alike in (0.8, 0.9, 0.95)
    ),
)


def item_line(name: str, scenario: Scenario) -> str:
    """False champions, false `generalises` and gains found if tried, by the rule of seeds alone and by ours.

    `single`: the power that one test of one candidate at 5 % would have, where only items count.
    """
    ours, before = simulate(ITEMS, scenario), simulate(PLAN, scenario)
    real = scenario.gains > 0
    single = f"{sp.norm.sf(sp.norm.isf(0.05) - scenario.gain):.2f}" if real and not scenario.seed_sd else "-"

    def told(one: Outcome) -> str:
        found = f"{one.found_if_tried:.3f}" if real else "-"
        return f"{one.false_champion:12.3f} {one.false_general:11.3f} {found:>8}"

    gain = f"{scenario.gain:.1f}" if real else "-"
    return f"{name:40} {gain:>5} | {told(before)} | {told(ours)} | {single:>6}"


HEAD = (
    f"{'200 trials, at most 8 replicates':40} | {'paper: false':>12} {'kept':>6} {'final real':>10}"
    f" | {'ours: false':>11} {'95 % upper':>10} {'found':>6} {'if tried':>8} {'attempts':>8}"
    f" {'runs':>6} {'n':>4}"
)


def line(name: str, plan: ConfirmPlan, scenario: Scenario) -> str:
    ours, paper = simulate(plan, scenario), single_seed(scenario)
    false = round(ours.false_champion * scenario.campaigns)
    upper = sp.binomtest(false, scenario.campaigns).proportion_ci(0.9).high
    real = scenario.gains > 0

    def only(value: float) -> str:
        return f"{value:.3f}" if real else "-"

    return (
        f"{name:40} | {paper.false_champion:12.3f} {only(paper.found):>6} {only(paper.final_is_real):>10}"
        f" | {ours.false_champion:11.3f} {upper:10.3f} {only(ours.found):>6} {only(ours.found_if_tried):>8}"
        f" {ours.attempts:8.1f} {ours.candidate_runs + ours.runs_of_incumbent:6.0f}"
        f" {ours.replicates_to_confirm:4.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--campaigns", type=int, default=4000)
    campaigns = parser.parse_args().campaigns
    began = time.perf_counter()
    print(HEAD)
    print("-" * len(HEAD))
    for name, plan, changes in LINES:
        print(line(name, plan, replace(Scenario(campaigns=campaigns), **changes)), flush=True)  # type: ignore[arg-type]
    print("\nSearch on one public split of 600 items, sealed split of 600:")
    columns = f"{'generalises':>11} {'if tried':>8}"
    print(f"{'':40} {'gain':>5} | {'seeds: false':>12} {columns} | {'items: false':>12} {columns} | single")
    for name, only in ITEM_LINES:
        print(item_line(name, replace(Scenario(campaigns=campaigns), **only)), flush=True)  # type: ignore[arg-type]
    print("\nScreening threshold (campaigns without a real effect / with one trial that gains 2 sd):")
    for z in (0.2, 0.4, 0.7, 1.0, 1.5):
        plan = replace(PLAN, screen_z=z)
        nothing = simulate(plan, Scenario(campaigns=campaigns))
        one = simulate(plan, Scenario(campaigns=campaigns, gain=2.0, gains=1))
        print(
            f"  screen_z {z:3.1f}: replicates of candidates {nothing.candidate_runs:5.0f} per 200 trials,"
            f" false {nothing.false_champion:.3f}, found {one.found:.3f}, if tried {one.found_if_tried:.3f}"
        )
    stated = power_statement(PLAN, noise_sd=1.0)
    print(
        f"\nPower stated by formula: at level {stated['level']:.5f}, {stated['replicates']} replicates show a"
        f" gain of {stated['gain_sd']:.2f} sd with chance 0.8"
    )
    print(f"{campaigns} campaigns a line, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
