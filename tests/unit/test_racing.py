"""Racing: when a screen ends early, what its row says, and that `verify` decides it again."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import quick

from evaluators.judge.item_scores import one_run, pack, stacked, unpack
from evaluators.judge.merge_measurements import merged
from evaluators.statistics.label import label
from evaluators.statistics.racing import RacingPlan, Stopped, look, noise, parts, plan_for
from lineage.environment_spec import EnvironmentSpec, Gate
from lineage.errors import InfraFault
from lineage.ids import sha256
from lineage.records import Check, Measurement, RunFacts, SeedResult, Status

START = [2.40, 2.49, 2.31, 2.44, 2.36, 2.47, 2.33, 2.41, 2.39, 2.40]


def spec_of(tmp_path: Path, *gates: Gate) -> EnvironmentSpec:
    from flows.environments.loading import load_environment

    spec = load_environment(str(quick.make(tmp_path / "recipes"))).spec
    score = spec.score.model_copy(update={"metric": "cpu_seconds", "direction": "min", "digits": 2})
    return spec.model_copy(update={"score": score, "gates": list(gates)})


def runs(seconds: list[float], accuracy: list[float] | None = None) -> list[SeedResult]:
    facts = RunFacts(end="exit", cpu_s=0.1)
    known = accuracy or [0.97 + 0.001 * (at % 3) for at in range(len(seconds))]
    return [
        SeedResult(seed=at, quantities={"cpu_seconds": s, "accuracy": a}, facts=facts)
        for at, (s, a) in enumerate(zip(seconds, known, strict=True))
    ]


def test_a_program_that_is_plainly_worse_ends_after_two_runs_and_one_that_might_be_better_does_not(
    tmp_path: Path,
) -> None:
    spec, plan, start = spec_of(tmp_path), plan_for(5), runs(START)
    assert plan is not None
    worse = look(plan, spec, runs([3.17, 3.12]), ("t0000", 2.40), start)
    assert worse is not None
    assert (worse.text, worse.leader, worse.limit) == ("stopped after 2 of 5 runs", "t0000", 2.40)
    assert worse.best > 2.40
    for seconds in ([2.45, 2.47], [2.1, 2.2]):
        assert look(plan, spec, runs(seconds), ("t0000", 2.40), start) is None
    assert look(plan, spec, runs([3.1, 3.2, 3.1, 3.0, 3.1]), ("t0000", 2.40), start) is None, (
        "it has all its runs"
    )
    assert look(plan, spec, runs([3.17]), ("t0000", 2.40), start) is None, "one run says nothing of its noise"
    assert look(plan, spec, runs([2.6, 3.0]), ("t0000", 2.40), start) is None, "its own noise is larger"
    assert look(plan, spec, runs([3.17, 3.12]), ("t0000", 2.40), start[:2]) is None, "nobody knows the noise"


@pytest.mark.parametrize("on", ["mean", "bound"])
def test_a_gate_that_can_no_longer_be_met_ends_it_too(tmp_path: Path, on: str) -> None:
    gate = Gate(quantity="accuracy", at_least=0.96, on=on)  # type: ignore[arg-type]
    spec, plan, start = spec_of(tmp_path, gate), plan_for(5), runs(START)
    assert plan is not None
    lost = look(plan, spec, runs([1.0, 1.0], [0.9050, 0.9062]), ("t0000", 2.4), start)
    assert lost is not None
    assert (lost.quantity, lost.leader) == ("accuracy", "")
    assert lost.best < 0.96
    near = look(plan, spec, runs([1.0, 1.0], [0.9595, 0.9605]), ("t0000", 2.4), start)
    assert near is None, "a bound over two runs is wide; that alone is no miss"


def test_one_run_beyond_a_limit_for_each_run_ends_it(tmp_path: Path) -> None:
    gate = Gate(quantity="cpu_seconds", at_most=3.0, on="each")
    spec, plan, start = spec_of(tmp_path, gate), plan_for(5), runs(START)
    assert plan is not None
    lost = look(plan, spec, runs([2.2, 3.01]), ("t0000", 9.0), start)
    assert lost is not None
    assert (lost.quantity, lost.best, lost.limit) == ("cpu_seconds", 3.01, 3.0)


def test_the_share_of_keeps_that_are_lost_is_below_the_error() -> None:
    """Of programs exactly as good as the leader, the worst case, with normal noise; the start's ten runs are drawn too."""
    rng, plan = np.random.default_rng(5), plan_for(5)
    assert plan is not None
    lost = kept = ended = 0
    for _ in range(4000):
        start, own = rng.normal(0, 1, 10), rng.normal(0, 1, 5)
        is_keep = own.mean() > 0
        stopped = _ends(plan, own[:2].tolist(), start.tolist())
        kept += is_keep
        lost += is_keep and stopped
        ended += stopped
    assert lost <= 40, (
        "of 4,000 trials 2 % may be lost; as the noise is bounded from above, it is less than 1 %"
    )
    assert lost / kept <= 0.02
    assert ended > 0


def _ends(plan: RacingPlan, own: list[float], start: list[float]) -> bool:
    from scipy.special import stdtrit

    sd, df = noise(own, start)
    k, n = len(own), plan.runs
    return bool(np.mean(own) + stdtrit(df, 1 - plan.error) * sd * np.sqrt((n - k) / (n * k)) <= 0)


def measured(results: list[SeedResult], spec: EnvironmentSpec, **more: object) -> Measurement:
    from evaluators.judge.gates import judge_gate
    from evaluators.judge.merge_measurements import means

    quantities = means(results)
    gates = tuple(judge_gate(g, [r.quantities[g.quantity] for r in results]) for g in spec.gates)
    base = Measurement(
        trial="t0001", purpose="screen", metric="cpu_seconds", score=quantities["cpu_seconds"],
        per_seed=tuple(results), quantities=quantities, gates=gates, source_sha256="a" * 64,
        environment_sha256="b" * 64, evaluator_sha256="c" * 64, isolation="strong", machine="m",
        measured_at=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    return base.model_copy(update=more)


def test_the_label_of_an_ended_screen_says_so_and_never_is_a_keep(tmp_path: Path) -> None:
    gate = Gate(quantity="accuracy", at_least=0.96, on="bound")
    spec, plan, start = spec_of(tmp_path, gate), plan_for(5), runs(START)
    assert plan is not None
    worse = runs([3.17, 3.12], [0.9590, 0.9615])  # a bound over two runs misses, which says nothing
    stopped = look(plan, spec, worse, ("t0000", 2.40), start)
    made = label(spec, measurement=measured(worse, spec), leader_score=2.40, stopped=stopped)
    assert (made.status, made.cause) == (Status.DISCARD, None)
    assert "stopped after 2 of 5 runs" in made.text
    assert (made.numbers["runs"], made.numbers["planned_runs"]) == (2, 5)
    lost = runs([1.0, 1.1], [0.9050, 0.9062])
    stopped = look(plan, spec, lost, ("t0000", 2.40), start)
    made = label(spec, measurement=measured(lost, spec), leader_score=2.40, stopped=stopped)
    assert (made.status, made.cause) == (Status.DISQUALIFIED, "gate_missed")
    assert "stopped after 2 of 5 runs" in made.text
    wrong = Stopped(runs=2, planned=5, quantity="accuracy", mean=1, best=1, limit=2, level=0)
    made = label(spec, measurement=measured(runs([1.0, 1.1]), spec), leader_score=2.4, stopped=wrong)
    assert made.status is Status.HARNESS_ABORT, "a gate that is met is no reason"


def test_parts_are_the_measurement_that_one_sitting_would_have_given(tmp_path: Path) -> None:
    gate = Gate(quantity="accuracy", at_least=0.96, on="bound")
    spec, rng = spec_of(tmp_path, gate), np.random.default_rng(0)
    every = runs([2.4, 2.5, 2.3, 2.6, 2.2])
    given = [one_run(rng.integers(0, 2, 50)) for _ in every]

    def part(first: int, last: int, worst: float) -> tuple[Measurement, bytes]:
        data = pack(list(range(first, last)), {"accuracy": stacked(given[first:last])})
        audit = Check(name="causality", passed=worst < 0.5, numbers={"worst": worst}, detail=f"{worst}")
        return measured(every[first:last], spec, items_sha256=sha256(data), audits=(audit,)), data

    whole, held = part(0, 5, 0.3)
    (one, of_one), (two, of_two) = part(0, 2, 0.1), part(2, 5, 0.3)
    together, items = merged(spec, [one, two], [of_one, of_two])
    assert together == whole
    assert items == held
    assert unpack(items or b"")[0] == (0, 1, 2, 3, 4)
    assert merged(spec, [whole], [held]) == (whole, held)
    failed, _ = part(2, 5, 0.9)
    assert not merged(spec, [one, failed], [of_one, of_two])[0].audits[0].passed
    with pytest.raises(InfraFault, match="worlds"):
        merged(spec, [one, two.model_copy(update={"source_sha256": "d" * 64})], [None, None])


def test_the_parts_of_a_screen() -> None:
    assert plan_for(2) is None
    assert parts(plan_for(3), 3) == [(0, 2), (2, 3)]
    assert parts(plan_for(10), 10) == [(0, 2), (2, 5), (5, 10)]
    assert parts(plan_for(5), 10) == [(0, 10)], "of a plan for another number of runs nothing is taken"
    assert json.loads(plan_for(5).model_dump_json())["error"] == 0.02  # type: ignore[union-attr]
