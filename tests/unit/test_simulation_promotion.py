"""What the promotion protocol promises, over thousands of made-up campaigns with fixed seeds.

The same figures beside the paper's rule: `python -m tests.bench.promotion`.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as sp

from evaluators.statistics.confirmation import Confirmed, ConfirmPlan, Continue, alpha_for, next_step
from evaluators.statistics.confirmation_book import Book, row_fields
from evaluators.statistics.recompute import recompute_promotions
from lineage.records import Row, Status
from tests.bench.simulate import Outcome, Scenario, _Noise, _places, new_runs, simulate, single_seed

PLAN = ConfirmPlan(sign=1, is_paired=False)
PAIRS = ConfirmPlan(sign=1, is_paired=True)
NOTHING = Scenario(campaigns=2000, trials=200)
ONE_GAIN = replace(NOTHING, gain=2.0, gains=1)


def upper(share: float, campaigns: int) -> float:
    """One-sided 97.5 % upper bound of a simulated share (Clopper and Pearson 1934, in scipy)."""
    return float(sp.binomtest(round(share * campaigns), campaigns).proportion_ci(0.95).high)


def test_no_real_effect_at_most_five_per_cent_false_champions() -> None:
    ours, paper = simulate(PLAN, NOTHING), single_seed(NOTHING)
    assert upper(ours.false_champion, NOTHING.campaigns) <= 0.05
    assert ours.attempts > 20  # not by never trying
    assert paper.false_champion > 0.95


def test_a_gain_of_two_sd_is_confirmed_within_eight_replicates_in_four_of_five_campaigns() -> None:
    ours, paper = simulate(PLAN, ONE_GAIN), single_seed(ONE_GAIN)
    assert PLAN.looks[-1] == 8
    assert ours.found_if_tried >= 0.8
    assert ours.found >= 0.8  # counted over all of them, also those that one bad screening seed hid
    assert ours.false_champion <= 0.05
    assert paper.final_is_real < 0.1


def test_more_seeds_per_trial_and_several_gains_hold_the_promise_too() -> None:
    assert upper(simulate(PLAN, replace(NOTHING, runs=5)).false_champion, 2000) <= 0.05
    several = simulate(PLAN, replace(NOTHING, gain=2.0, gains=3))
    assert several.found >= 0.75
    assert several.false_champion <= 0.05


@pytest.mark.parametrize(
    ("what", "changes", "most"),
    [
        ("all candidates twice as noisy as the start", {"noisy_share": 1.0, "noisy_factor": 2.0}, 0.05),
        ("one in ten twice as noisy", {"noisy_share": 0.1, "noisy_factor": 2.0}, 0.07),
        ("heavy tails", {"shape": "t4"}, 0.05),
        ("skewed", {"shape": "skewed"}, 0.05),
        ("half the calibration runs", {"calibrate_runs": 6}, 0.05),
        ("a campaign four times as long as planned", {"trials": 800, "campaigns": 500}, 0.06),
    ],
)
def test_other_kinds_of_noise(what: str, changes: dict[str, float], most: float) -> None:
    got = simulate(PLAN, NOTHING.__class__(**{**vars(NOTHING), **changes}))
    assert got.false_champion <= most, what


def test_time_scores_in_pairs() -> None:
    """The sd that counts is that of a pair difference: sqrt(2) of a run's. Drift of the machine cancels."""
    assert upper(simulate(PAIRS, NOTHING).false_champion, 2000) <= 0.05
    assert upper(simulate(PAIRS, replace(NOTHING, drift=1.0)).false_champion, 2000) <= 0.05
    two_sd = simulate(PAIRS, replace(ONE_GAIN, gain=2 * np.sqrt(2)))
    assert two_sd.found_if_tried >= 0.8
    assert two_sd.found >= 0.8


def test_trials_that_make_things_worse_do_not_raise_the_share() -> None:
    assert simulate(PLAN, replace(NOTHING, worse=0.5)).false_champion <= 0.02


def test_array_and_scalar_incumbent_runs_agree() -> None:
    pools = np.arange(0, 60, dtype=float)
    for plan in (PLAN, PAIRS):
        for n in range(1, 9):
            want = [plan.runs_of_incumbent(int(pool), n) for pool in pools]
            assert new_runs(plan, pools, n).tolist() == want


@pytest.mark.parametrize("plan", [PLAN, PAIRS])
def test_the_simulation_decides_as_the_book_does(plan: ConfirmPlan) -> None:
    """Single campaigns, drawn alike, through rows, `Book` and `next_step`: the same attempts and champions."""
    confirmed = 0
    for seed in range(12):
        scenario = Scenario(campaigns=1, trials=60, gain=3.0, gains=2, seed=seed)
        outcome, rows = simulate(plan, scenario), one_campaign(plan, scenario)
        verdicts = [row.verdict for row in rows if row.event == "confirmation"]
        confirmed += verdicts.count("confirmed")
        assert outcome.attempts == len(verdicts)
        assert outcome.found * 2 + outcome.false_champion == verdicts.count("confirmed")
        assert outcome.candidate_runs == sum(len(row.scores) for row in rows if row.event == "confirmation")
        assert recompute_promotions(rows, plan) == []
    assert confirmed >= 10


def one_campaign(plan: ConfirmPlan, scenario: Scenario) -> list[Row]:
    """The scenario's only campaign as lineage rows, with the draws in the order of `simulate`."""
    noise = _Noise(scenario)
    noise.rng.normal(0, 1, 1)  # the drift of the start, not used here
    start = noise.draw(1, scenario.calibrate_runs)[0]
    real = _places(scenario, noise)[0]
    book, rows, truth = Book(plan), [], 0.0

    def add(row: Row) -> None:
        rows.append(row)
        book.read(row)

    add(trial_row("start", Status.BASELINE, list(start)))
    for number in range(scenario.trials):
        gain = scenario.gain if real[number] else 0.0
        noise.rng.random(1)
        score = truth + gain + float(noise.draw(1, scenario.runs)[0, 0])
        leader = book.leader()
        assert leader is not None
        keep = score > leader[1]
        name = f"t{number}"
        add(trial_row(name, Status.KEEP if keep else Status.DISCARD, [score]))
        if not keep or book.candidate() != name:
            continue
        ours = truth + gain + noise.draw(1, plan.looks[-1])[0]
        theirs = truth + noise.draw(1, plan.runs_of_incumbent(0, plan.looks[-1]))[0]
        row = confirm(book, name, ours, theirs)
        truth += gain if row.verdict == "confirmed" else 0.0
        add(row)
    return rows


def trial_row(name: str, status: Status, scores: list[float]) -> Row:
    return Row(
        event="trial", campaign="c", trial=name, status=status, score=float(np.mean(scores)), scores=scores
    )


def confirm(book: Book, name: str, ours: np.ndarray, theirs: np.ndarray) -> Row:
    trials, attempt = book.trials, book.open()
    while isinstance(step := next_step(attempt, book.plan), Continue):
        n, m = len(attempt.candidate), len(attempt.incumbent)
        attempt = replace(
            attempt,
            candidate=(*attempt.candidate, *map(float, ours[n : n + step.candidate])),
            incumbent=(*attempt.incumbent, *map(float, theirs[m : m + step.incumbent])),
        )
    fields = row_fields(attempt, step, trials)
    fields["detail_json"] = json.dumps(fields["detail_json"])
    assert fields["verdict"] == ("confirmed" if isinstance(step, Confirmed) else "unconfirmed")
    return Row(event="confirmation", campaign="c", trial=name, incumbent=book.incumbent, **fields)


def test_the_same_call_gives_the_same_figures() -> None:
    small = replace(ONE_GAIN, campaigns=50)
    first: Outcome = simulate(PLAN, small)
    assert simulate(PLAN, small) == first
    assert simulate(PLAN, replace(small, seed=1)) != first


def test_levels_are_predictable_and_shrink_with_attempts() -> None:
    early, late = alpha_for(PLAN, 0.05, 0, 1), alpha_for(PLAN, 0.05, 30, 40)
    assert 0 < early < 0.005
    assert late < early


ITEMS = ConfirmPlan(sign=1, is_paired=False, rules=2, quality="accuracy")
LUCK = Scenario(campaigns=2000, trials=200, item_sd=1.0)


@pytest.mark.parametrize("seed_sd", [1.0, 0.0], ids=["seeded", "deterministic"])
def test_luck_with_the_items_of_one_public_split_makes_no_champion(seed_sd: float) -> None:
    """200 trials search on 600 items; as much luck with items as one run has with its seed, or nothing but that."""
    scenario = replace(LUCK, seed_sd=seed_sd)
    ours, before = simulate(ITEMS, scenario), simulate(PLAN, replace(scenario, campaigns=200))
    assert upper(ours.false_champion, LUCK.campaigns) <= 0.05
    assert upper(ours.false_general, LUCK.campaigns) <= 0.05
    assert ours.attempts > 20
    assert before.false_champion > 0.95  # what seeds alone promised


def test_real_gains_are_found_beside_luck_with_items() -> None:
    """Two sd of a run where items are many enough; without seeds, five standard errors of the items."""
    enough = simulate(ITEMS, replace(LUCK, campaigns=500, item_sd=0.2, gain=2.0, gains=1))
    assert enough.found_if_tried >= 0.8
    fixed = simulate(ITEMS, replace(LUCK, campaigns=500, seed_sd=0.0, gain=5.0, gains=1))
    assert fixed.found_if_tried >= 0.8
