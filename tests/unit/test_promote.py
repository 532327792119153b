"""The confirmation protocol step by step: looks, levels, gates, futility, pairs, plans, the book."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from evaluators.statistics.confirmation import (
    Attempt,
    Confirmed,
    ConfirmPlan,
    Continue,
    Unconfirmed,
    alpha_for,
    gates_out_of_reach,
    gates_pass,
    next_step,
    plan_for,
    power_statement,
    worth_confirming,
)
from evaluators.statistics.confirmation_book import Book, book_of, row_fields
from evaluators.statistics.noise import Noise
from lineage.environment_spec import Budget, EnvironmentSpec, Evaluation, Gate, Score, Surface, Task
from lineage.records import Row, SeedResult, Status

PLAN = ConfirmPlan(sign=-1, is_paired=False)
POOL = (10.0, 10.2, 9.8, 10.1, 9.9, 10.05, 9.95, 10.15, 9.85, 10.0, 10.1, 9.9)
NOISE = Noise(squares=0.02 * 20, df=20)
FRESH = Attempt(alpha=0.001, noise=NOISE, pool=POOL)


def make_spec(metric: str = "bits_per_byte", direction: str = "min", **rules: float) -> EnvironmentSpec:
    base = {"runs": 1, "confirm_runs": 3, "max_confirm_runs": 8, "calibrate_runs": 12, **rules}
    return EnvironmentSpec(
        name="toy",
        title="Toy",
        description="a toy",
        score=Score.model_validate({"metric": metric, "direction": direction, "unit": "x"}),
        task=Task(kind="classification", outputs=10),
        budget=Budget(
            train_cpu_s=1, train_wall_s=1, predict_cpu_s=1, predict_wall_s=1, memory_mb=1, artifact_bytes=1
        ),
        evaluation=Evaluation.model_validate(base),
        surfaces=[Surface(name="opt", title="Optimizer", units={"train.py": ["*"]})],
    )


def test_a_fresh_attempt_asks_for_the_first_look_and_the_incumbents_share() -> None:
    assert next_step(FRESH, PLAN) == Continue(candidate=3, incumbent=6)
    known = replace(FRESH, pool=POOL * 3)
    assert next_step(known, PLAN) == Continue(candidate=3, incumbent=0)
    nearly = replace(FRESH, pool=(*POOL, *POOL, *POOL[:6]))
    assert next_step(nearly, PLAN) == Continue(candidate=3, incumbent=2)


def test_a_large_gain_is_confirmed_at_the_first_look() -> None:
    step = next_step(replace(FRESH, candidate=(9.0, 9.1, 8.9), incumbent=POOL[:6]), PLAN)
    assert isinstance(step, Confirmed)
    assert step.looks[-1].n == 3
    assert step.looks[-1].gain == pytest.approx(1.0, abs=0.05)
    assert step.looks[-1].low < step.looks[-1].gain < step.looks[-1].high


def test_no_gain_ends_early_as_futile() -> None:
    step = next_step(replace(FRESH, candidate=(10.0, 10.1, 10.2), incumbent=POOL[:6]), PLAN)
    assert isinstance(step, Unconfirmed)
    assert (step.reason, len(step.looks)) == ("futile", 1)


def test_a_middling_gain_goes_on_and_is_not_shown_in_the_end() -> None:
    some = (9.85, 9.9, 9.8, 9.9, 9.85, 10.0, 10.1, 9.95)
    first = next_step(replace(FRESH, candidate=some[:3], incumbent=POOL[:6]), PLAN)
    assert first == Continue(candidate=2, incumbent=4)
    last = next_step(replace(FRESH, candidate=some, incumbent=(*POOL, *POOL[:4])), PLAN)
    assert isinstance(last, Unconfirmed)
    assert (last.reason, len(last.looks)) == ("not_shown", 3)


def test_later_replicates_cannot_change_an_earlier_decision() -> None:
    """Whoever runs on after a futile look, hoping for better, gets the futile look's answer."""
    bad_then_good = (10.0, 10.1, 10.2, 8.0, 8.0, 8.0, 8.0, 8.0)
    step = next_step(replace(FRESH, candidate=bad_then_good, incumbent=(*POOL, *POOL[:4])), PLAN)
    assert isinstance(step, Unconfirmed)
    assert step.reason == "futile"


def test_the_direction_of_the_score_matters() -> None:
    better = replace(FRESH, candidate=(11.0, 11.1, 10.9), incumbent=POOL[:6])
    assert isinstance(next_step(better, replace(PLAN, sign=1)), Confirmed)
    assert isinstance(next_step(better, PLAN), Unconfirmed)


def test_a_better_candidate_that_misses_a_gate_gets_all_replicates_and_then_no() -> None:
    good = (9.0, 9.1, 8.9, 9.0, 9.1, 8.9, 9.0, 9.0)
    early = replace(FRESH, candidate=good[:3], incumbent=POOL[:6], gates=(False,))
    assert next_step(early, PLAN) == Continue(candidate=2, incumbent=4)
    passes = replace(FRESH, candidate=good[:5], incumbent=POOL[:10], gates=(False, True))
    assert isinstance(next_step(passes, PLAN), Confirmed)
    never = replace(FRESH, candidate=good, incumbent=(*POOL, *POOL[:4]), gates=(False, False, False))
    step = next_step(never, PLAN)
    assert isinstance(step, Unconfirmed)
    assert step.reason == "gate"


def test_a_candidate_that_misses_a_gate_clearly_ends_at_that_look() -> None:
    good = (9.0, 9.1, 8.9, 9.0, 9.1)
    first = replace(FRESH, candidate=good[:3], incumbent=POOL[:6], gates=(False,), hopeless=(True,))
    step = next_step(first, PLAN)
    assert isinstance(step, Unconfirmed)
    assert (step.reason, len(step.looks)) == ("gate", 1)
    second = replace(FRESH, candidate=good, incumbent=POOL[:10], gates=(False, False), hopeless=(False, True))
    step = next_step(second, PLAN)
    assert isinstance(step, Unconfirmed)
    assert (step.reason, len(step.looks)) == ("gate", 2)


@pytest.mark.parametrize(
    ("on", "limit", "values", "ends"),
    [
        ("bound", 0.96, (0.955, 0.956, 0.954), True),
        ("bound", 0.96, (0.961, 0.955, 0.963), False),
        ("bound", 0.96, (0.955,), False),
        ("mean", 0.96, (0.955, 0.956, 0.954), True),
        ("mean", 0.96, (0.950, 0.969, 0.960), False),
        ("each", 0.96, (0.97, 0.97, 0.959), True),
        ("each", 0.96, (0.97, 0.97), False),
        ("bound", 0.96, (0.97, 0.971, 0.972), False),
    ],
)
def test_what_is_out_of_reach(on: str, limit: float, values: tuple[float, ...], ends: bool) -> None:
    gate = Gate.model_validate({"quantity": "accuracy", "at_least": limit, "on": on, "confidence": 0.95})
    seeds = [SeedResult(seed=0, quantities={"accuracy": value}) for value in values]
    assert gates_out_of_reach([gate], seeds, 0.95) is ends
    assert gates_out_of_reach([gate], seeds, 0.0) is False, "a campaign from before never asks"
    mirrored = Gate.model_validate({"quantity": "x", "at_most": -limit, "on": on, "confidence": 0.95})
    turned = [SeedResult(seed=0, quantities={"x": -value}) for value in values]
    assert gates_out_of_reach([mirrored], turned, 0.95) is ends


def test_pairs_cancel_a_drift_that_would_hide_the_gain() -> None:
    plan = ConfirmPlan(sign=-1, is_paired=True)
    drift = (0.0, 3.0, 6.0)
    ours = tuple(9.0 + d for d in drift)
    theirs = tuple(10.0 + d + e for d, e in zip(drift, (0.05, -0.05, 0.0), strict=True))
    attempt = Attempt(alpha=0.001, noise=Noise(0.02 * 10, 10), candidate=ours, incumbent=theirs)
    assert isinstance(next_step(attempt, plan), Confirmed)
    assert next_step(replace(attempt, candidate=(), incumbent=()), plan) == Continue(3, 3)


def test_a_noisy_candidate_is_held_to_its_own_spread() -> None:
    steady = replace(FRESH, candidate=(9.2, 9.25, 9.15), incumbent=POOL[:6])
    wild = replace(FRESH, candidate=(7.6, 10.3, 9.7), incumbent=POOL[:6])
    assert isinstance(next_step(steady, PLAN), Confirmed)
    assert not isinstance(next_step(wild, PLAN), Confirmed)


def test_without_any_earlier_noise_the_candidates_own_spread_is_used() -> None:
    blind = Attempt(alpha=0.05, noise=Noise(), pool=(10.0, 10.0, 10.0), candidate=(9.0, 9.01, 8.99))
    got = next_step(replace(blind, incumbent=(10.0,) * 6), PLAN)
    assert isinstance(got, Confirmed)


def test_plans_follow_the_environment() -> None:
    plan = plan_for(
        make_spec("cpu_seconds", confirm_runs=8, max_confirm_runs=24, alpha=0.1, min_gain=0.02), 40
    )
    assert (plan.looks, plan.sign, plan.is_paired, plan.horizon) == ((8, 14, 24), -1, True, 40)
    assert (plan.alpha, plan.min_gain, sum(plan.shares)) == (0.1, 0.02, pytest.approx(1.0))
    assert plan_for(make_spec("accuracy", "max")).looks == (3, 5, 8)
    assert plan_for(make_spec(confirm_runs=4, max_confirm_runs=4)).looks == (4,)
    assert plan_for(make_spec(confirm_runs=2, max_confirm_runs=3)).looks == (2, 3)
    for runs in range(2, 30):
        for most in range(2, 40):
            made = plan_for(make_spec(confirm_runs=runs, max_confirm_runs=most))
            assert len(made.looks) == len(made.shares) == len(made.futility) + 1
            assert sum(made.shares) == pytest.approx(1.0)


def test_only_a_leader_beyond_noise_and_beyond_the_least_gain_is_worth_replicates() -> None:
    assert not worth_confirming(PLAN, 9.99, 1, POOL, NOISE)
    assert worth_confirming(PLAN, 9.90, 1, POOL, NOISE)
    assert worth_confirming(PLAN, 9.96, 9, POOL, NOISE)
    assert not worth_confirming(replace(PLAN, min_gain=0.02), 9.90, 1, POOL, NOISE)
    assert not worth_confirming(replace(PLAN, min_units=0.5), 9.60, 1, POOL, NOISE)
    assert not worth_confirming(PLAN, 1.0, 1, (), NOISE)


def test_power_is_stated_in_sd_and_in_units() -> None:
    stated = power_statement(PLAN, noise_sd=0.02)
    assert stated["replicates"] == 8
    assert 1.5 < stated["gain_sd"] < 2.0
    assert stated["gain"] == pytest.approx(0.02 * stated["gain_sd"])


# --- the book -----------------------------------------------------------------------------------


def trial(name: str, score: float | None, status: str = "keep", scores: list[float] | None = None) -> Row:
    return Row(
        event="trial",
        campaign="c",
        trial=name,
        status=Status(status),
        score=score,
        scores=scores if scores is not None else ([score] if score is not None else []),
    )


START = trial("t0", 10.0, "baseline", list(POOL))


def confirmation(book: Book, name: str, candidate: tuple[float, ...], incumbent: tuple[float, ...]) -> Row:
    trials = book.trials
    attempt = replace(book.open(), candidate=candidate, incumbent=incumbent)
    step = next_step(attempt, book.plan)
    fields = row_fields(attempt, step, trials)
    fields["detail_json"] = json.dumps(fields["detail_json"])
    return Row(event="confirmation", campaign="c", trial=name, incumbent=book.incumbent, **fields)


def test_the_book_follows_leader_incumbent_and_level() -> None:
    book = book_of([START, trial("t1", 9.0), trial("t2", 9.3), trial("t3", None, "crash")], PLAN)
    assert (book.incumbent, book.leader(), book.candidate()) == ("t0", ("t1", 9.0), "t1")
    assert book.trials == 4
    lucky = confirmation(book, "t1", (10.0, 10.1, 9.9), POOL[:6])
    assert lucky.verdict == "unconfirmed"
    book.read(lucky)
    assert book.alpha_left == pytest.approx(PLAN.alpha - (lucky.alpha_spent or 0))
    assert (book.incumbent, book.leader()) == ("t0", ("t2", 9.3))
    real = confirmation(book, "t2", (9.2, 9.3, 9.25), POOL[6:])
    assert real.verdict == "confirmed"
    book.read(real)
    assert book.incumbent == "t2"
    assert book.leader() == ("t2", pytest.approx(9.25))
    assert book.alpha_left == PLAN.alpha
    assert book.pool() == (9.2, 9.3, 9.25)
    assert book.candidate() is None


def test_a_champions_standing_score_is_not_the_lucky_one() -> None:
    book = book_of([START, trial("t1", 8.5)], PLAN)
    book.read(confirmation(book, "t1", (9.2, 9.3, 9.25), POOL[:6]))
    book.read(trial("t2", 9.0))
    assert book.leader() == ("t2", 9.0)
    assert book.candidate() == "t2"


def test_a_veto_takes_a_champion_back() -> None:
    book = book_of([START, trial("t1", 9.1)], PLAN)
    book.read(confirmation(book, "t1", (9.2, 9.3, 9.25), POOL[:6]))
    assert book.incumbent == "t1"
    book.read(Row(event="intervention", campaign="c", trial="t1", operator="veto"))
    assert (book.incumbent, book.leader()) == ("t0", ("t0", 10.0))


def test_calibrations_belong_to_the_start() -> None:
    calibration = Row(event="calibration", campaign="c", scores=[9.9, 10.1])
    book = book_of([calibration, START], PLAN)
    assert len(book.pool()) == 14
    assert book.noise().df == 13


def test_paired_noise_comes_from_neighbouring_runs_and_earlier_pairs() -> None:
    plan = ConfirmPlan(sign=-1, is_paired=True)
    book = book_of([START, trial("t1", 9.0)], plan)
    assert book.test_noise().df == 6
    book.read(confirmation(book, "t1", (10.0, 10.1, 9.9), (10.0, 10.0, 10.0)))
    assert book.test_noise().df == 8
    assert book.open().pool == ()


def test_an_undecided_attempt_has_no_row() -> None:
    with pytest.raises(ValueError, match="run what Continue asks for"):
        row_fields(FRESH, Continue(3, 6), 0)


def test_levels_are_spent_once() -> None:
    """The campaign's level is never passed, whatever happens; and it is not hoarded either."""
    left, spent = 0.05, 0.0
    for number in range(60):
        level = float(alpha_for(PLAN, left, number, 3 * (number + 1)))
        left, spent = left - level, spent + level
    assert 0.04 < spent < 0.05


def test_a_candidate_on_its_gate_passes_a_confirmation_in_five_of_a_hundred_not_in_ten() -> None:
    """True accuracy exactly 0.96, eight, 14 and 24 replicates, 1,500 confirmations: any look that passes counts."""
    gate = Gate(quantity="accuracy", at_least=0.96, on="bound", confidence=0.95)
    looks = (8, 14, 24)
    drawn = np.random.default_rng(3).normal(0.96, 0.004, (1500, looks[-1]))

    def passed(shared: int) -> float:
        hits = 0
        for values in drawn:
            seeds = [SeedResult(seed=0, quantities={"accuracy": float(value)}) for value in values]
            hits += any(gates_pass([gate], seeds[:n], shared) for n in looks)
        return hits / len(drawn)

    assert passed(1) > 0.07
    assert passed(len(looks)) <= 0.05
    assert plan_for(make_spec()).gate_looks == 3
    assert ConfirmPlan(sign=1, is_paired=False).gate_looks == 1, "a campaign from before is judged as it was"


def test_giving_up_early_costs_hardly_any_candidate_that_would_have_passed() -> None:
    """Looks at 8, 14 and 24, accuracy with sd 0.004, 1,500 confirmations each of a weak, an exact and a good candidate."""
    gate = Gate(quantity="accuracy", at_least=0.96, on="bound", confidence=0.95)
    looks, generator = (8, 14, 24), np.random.default_rng(4)

    def ends(mean: float) -> tuple[float, float, float]:
        """Shares: given up before the last look; would have passed at some look; given up though it would have."""
        early = passes = lost = 0
        for values in generator.normal(mean, 0.004, (1500, looks[-1])):
            seeds = [SeedResult(seed=0, quantities={"accuracy": float(value)}) for value in values]
            passed = [gates_pass([gate], seeds[:n], len(looks)) for n in looks]
            given_up = [gates_out_of_reach([gate], seeds[:n], 0.95) for n in looks[:-1]]
            first = given_up.index(True) if any(given_up) else len(looks)
            early += any(given_up)
            passes += any(passed)
            lost += any(passed) and passed.index(True) > first
        return early / 1500, passes / 1500, lost / 1500

    weak, exact, good = ends(0.957), ends(0.96), ends(0.963)
    assert weak[0] > 0.8
    assert exact[0] < 0.15
    assert good[0] < 0.005
    assert max(weak[2], exact[2], good[2]) < 0.005
