"""The rule table from facts to labels: each rule, its order, and the numbers that go with it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from evaluators.judge.gates import judge_gate
from evaluators.statistics import label as rules
from evaluators.statistics.label import STATUS_OF_CAUSE, label, label_infra, label_refusal, status_of
from lineage.environment_spec import Budget, EnvironmentSpec, Evaluation, Gate, Score, Surface, Task
from lineage.records import CAUSES, Artifact, Check, Measurement, RunFacts, SeedResult, Status, TrainRun


def make_spec(**changes: object) -> EnvironmentSpec:
    base: dict[str, object] = {
        "name": "toy",
        "title": "Toy",
        "description": "a toy",
        "score": Score(metric="cpu_seconds", direction="min", unit="CPU-s", digits=3),
        "task": Task(kind="classification", outputs=10),
        "gates": [Gate(quantity="accuracy", at_least=0.96, on="bound")],
        "budget": Budget(
            train_cpu_s=30,
            train_wall_s=300,
            predict_cpu_s=10,
            predict_wall_s=100,
            memory_mb=512,
            artifact_bytes=15_000,
        ),
        "evaluation": Evaluation(runs=3, confirm_runs=3, max_confirm_runs=8, calibrate_runs=8),
        "surfaces": [Surface(name="opt", title="Optimizer", units={"train.py": ["*"]})],
    }
    return EnvironmentSpec.model_validate({**base, **changes})


SPEC = make_spec()


def good_run(seed: int = 1, size: int = 14_000, cpu_s: float = 20.0) -> TrainRun:
    facts = RunFacts(end="exit", cpu_s=cpu_s, wall_s=cpu_s + 1)
    return TrainRun(seed=seed, facts=facts, artifact=Artifact(sha256="0" * 64, bytes=size, files={"m": size}))


def failed_run(cause: str | None = None, artifact: bool = False, **facts: object) -> TrainRun:
    seen = RunFacts.model_validate({"end": "exit", **facts})
    return TrainRun(
        seed=9,
        facts=seen,
        cause=cause,
        artifact=Artifact(sha256="0" * 64, bytes=1, files={"m": 1}) if artifact else None,
    )


def gate_check(passed: bool, mean: float, bound: float) -> Check:
    return Check(name="accuracy", passed=passed, numbers={"mean": mean, "bound": bound})


def measured(score: float | None = 5.0, **changes: object) -> Measurement:
    base: dict[str, object] = {
        "trial": "t1",
        "purpose": "screen",
        "metric": "cpu_seconds",
        "score": score,
        "per_seed": (SeedResult(seed=1, quantities={"accuracy": 0.97}),),
        "quantities": {"accuracy": 0.97},
        "gates": (gate_check(True, 0.97, 0.965),),
        "artifact_bytes": 14_000,
        "source_sha256": "a",
        "environment_sha256": "b",
        "evaluator_sha256": "c",
        "isolation": "strong",
        "machine": "m",
        "measured_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return Measurement.model_validate({**base, **changes})


def test_every_cause_of_the_records_has_a_status_and_a_row_in_the_documented_table() -> None:
    assert set(STATUS_OF_CAUSE) == set(CAUSES)
    rows = [line for line in (rules.__doc__ or "").splitlines() if line.startswith("| ")]
    for cause, status in STATUS_OF_CAUSE.items():
        row = next(
            line
            for line in rows
            if cause in line.split("|")[1].replace(":", " ").replace(",", " ").split()
            or any(part.split(":")[0] == cause for part in line.split("|")[1].replace(" ", "").split(","))
        )
        assert status.value in row.split("|")[2]
    documented = " ".join(rows)
    for status in Status:
        assert status.value in documented


def test_budget_causes_depend_on_the_stage() -> None:
    assert status_of("cpu_cap") is Status.TRAIN_BUDGET_OVERRUN
    assert status_of("cpu_cap", predicting=True) is Status.EVAL_BUDGET_OVERRUN
    assert status_of("infra:disk") is Status.HARNESS_ABORT


@pytest.mark.parametrize(
    ("leader", "status"), [(None, "keep"), (5.001, "keep"), (5.0, "discard"), (4.9, "discard")]
)
def test_strictly_better_than_the_leader_is_a_keep(leader: float | None, status: str) -> None:
    got = label(SPEC, runs=[good_run()], measurement=measured(5.0), leader_score=leader)
    assert got.status == status
    assert got.cause is None
    assert got.numbers["score"] == 5.0


def test_higher_is_better_environments_compare_the_other_way() -> None:
    spec = make_spec(score=Score(metric="accuracy", direction="max", unit=""), gates=[])
    assert label(spec, measurement=measured(0.5), leader_score=0.4).status is Status.KEEP
    assert label(spec, measurement=measured(0.5), leader_score=0.5).status is Status.DISCARD


def test_the_start_is_the_baseline_only_if_it_passes_everything() -> None:
    assert label(SPEC, runs=[good_run()], measurement=measured(), is_baseline=True).status is Status.BASELINE
    missed = measured(gates=(gate_check(False, 0.955, 0.95),))
    assert label(SPEC, measurement=missed, is_baseline=True).status is Status.DISQUALIFIED


def test_an_oversize_artifact_says_how_many_bytes_over() -> None:
    got = label(SPEC, runs=[good_run(size=17_056)], measurement=measured())
    assert (got.status, got.cause) == (Status.SIZE_BLOCKED, "oversize")
    assert got.numbers["bytes_over"] == 2_056
    assert got.numbers["cap_bytes"] == 15_000
    assert "2,056 over the cap of 15,000" in got.text


def test_a_total_bytes_gate_is_a_size_block_and_goes_before_other_gates() -> None:
    spec = make_spec(
        gates=[Gate(quantity="accuracy", at_least=0.96), Gate(quantity="total_bytes", at_most=16_000_000)]
    )
    facts = measured(
        gates=(
            Check(name="accuracy", passed=False, numbers={"mean": 0.9}),
            Check(name="total_bytes", passed=False, numbers={"mean": 16_002_056}),
        )
    )
    got = label(spec, measurement=facts)
    assert (got.status, got.cause) == (Status.SIZE_BLOCKED, "oversize")
    assert got.numbers["bytes_over"] == 2_056


def test_a_missed_gate_says_mean_bound_and_how_short() -> None:
    got = label(SPEC, runs=[good_run()], measurement=measured(gates=(gate_check(False, 0.9609, 0.95956),)))
    assert (got.status, got.cause) == (Status.DISQUALIFIED, "gate_missed")
    assert got.numbers["gate_mean"] == 0.9609
    assert got.numbers["gate_bound"] == 0.95956
    assert got.numbers["gate_limit"] == 0.96
    assert got.numbers["short_by"] == pytest.approx(0.00044)
    assert "0.9609 (lower 95 % bound 0.95956) misses the gate of at least 0.96 by 0.00044" in got.text


def test_a_training_overrun_says_the_cap_and_a_good_run_what_is_to_spare() -> None:
    got = label(SPEC, runs=[failed_run("cpu_cap", end="cpu_cap", cpu_s=30.4)])
    assert (got.status, got.cause) == (Status.TRAIN_BUDGET_OVERRUN, "cpu_cap")
    assert got.numbers["train_cpu_over_s"] == pytest.approx(0.4)
    assert "train_cpu_to_spare_s" not in got.numbers
    spare = label(SPEC, runs=[good_run(cpu_s=21.5)], measurement=measured())
    assert spare.numbers["train_cpu_to_spare_s"] == 8.5
    assert spare.numbers["bytes_to_spare"] == 1_000
    assert spare.numbers["accuracy_to_spare"] == pytest.approx(0.005)


def test_an_overrun_in_start_up_says_so_on_the_clock_that_ended_it() -> None:
    late = TrainRun(
        seed=1, facts=RunFacts(end="start_cap", start_cpu_s=3.0, start_wall_s=271.0), cause="wall_cap",
        numbers={"phase": "start", "wall_s": 271.0, "cap_s": 270.0},
    )  # fmt: skip
    got = label(SPEC, runs=[late])
    assert got.numbers["start_wall_over_s"] == 1.0
    assert (
        got.text
        == "start-up of training was stopped at 271.0 s of wall clock, its cap is 270 and it had not finished"
    )


def test_a_prediction_overrun_is_the_evaluation_budget() -> None:
    slow = SeedResult(seed=1, cause="wall_cap", facts=RunFacts(end="wall_cap", wall_s=101))
    got = label(SPEC, runs=[good_run()], measurement=measured(None, per_seed=(slow,)))
    assert (got.status, got.cause) == (Status.EVAL_BUDGET_OVERRUN, "wall_cap")
    assert got.numbers["predict_wall_over_s"] == 1.0


def test_a_crash_names_exception_and_line() -> None:
    got = label(SPEC, runs=[failed_run("crash", code=1, exception="ValueError: bad shape (train.py:31)")])
    assert (got.status, got.cause) == (Status.CRASH, "crash")
    assert got.numbers["exception"] == "ValueError: bad shape (train.py:31)"
    assert got.numbers["line"] == "train.py:31"
    assert got.numbers["exit_code"] == 1


@pytest.mark.parametrize(
    ("cause", "facts", "status"),
    [
        ("oom", {"end": "oom"}, "crash"),
        ("segfault", {"end": "signal", "code": 11}, "crash"),
        ("nan", {}, "crash"),
        ("no_artifact", {}, "crash"),
        ("pruned", {"end": "pruned"}, "discard"),
        ("illegal:protocol", {"end": "protocol"}, "disqualified"),
        ("infra:sandbox", {"end": "infra"}, "harness_abort"),
        ("abandoned", {"end": "infra", "detail": "cancelled"}, "rejected"),
        ("wall_cap", {"end": "wall_cap"}, "train_budget_overrun"),
        ("cpu_cap", {"end": "start_cap", "start_cpu_s": 61.0}, "train_budget_overrun"),
    ],
)
def test_the_cause_that_the_judge_wrote_decides(cause: str, facts: dict[str, object], status: str) -> None:
    got = label(SPEC, runs=[failed_run(cause, **facts)])
    assert (got.status, got.cause) == (status, cause)
    assert got.text


@pytest.mark.parametrize(
    "facts", [{"end": "infra"}, {"started": False}, {"code": 1}, {"end": "oom"}, {}, {"end": "pruned"}]
)
def test_a_run_that_failed_without_a_cause_is_our_fault(facts: dict[str, object]) -> None:
    assert label(SPEC, runs=[failed_run(**facts)]).cause == "infra:unexplained"


def test_the_seal_and_the_source_cap_say_their_bytes() -> None:
    sealed = TrainRun(
        seed=1,
        facts=RunFacts(end="exit"),
        cause="oversize",
        numbers={"bytes": 15_500, "cap": 15_000, "over": 500},
    )
    got = label(SPEC, runs=[sealed])
    assert (got.numbers["bytes_over"], got.text) == (
        500,
        "artifact is 15,500 bytes, 500 over the cap of 15,000",
    )
    long = TrainRun(
        seed=1, facts=RunFacts(end="protocol", started=False), cause="oversize",
        numbers={"source_bytes": 90, "cap": 60},
    )  # fmt: skip
    assert label(SPEC, runs=[long]).text == "source is 90 bytes, 30 over the cap of 60"


def test_the_judges_own_gate_checks_are_understood() -> None:
    gate = SPEC.gates[0]
    check = judge_gate(gate, [0.958, 0.961, 0.9625])
    assert not check.passed
    got = label(SPEC, runs=[good_run()], measurement=measured(gates=(check,)))
    assert got.cause == "gate_missed"
    assert got.numbers["gate_bound"] == check.numbers["bound"]
    assert got.numbers["short_by"] == pytest.approx(check.numbers["short_by"])


@pytest.mark.parametrize(
    ("name", "numbers", "status", "cause"),
    [
        ("parse", {}, "preflight_crash", "syntax"),
        ("import", {}, "preflight_crash", "import"),
        ("smoke", {}, "preflight_crash", "smoke"),
        ("smoke", {"cause": "oom"}, "preflight_crash", "smoke"),
        ("smoke", {"cause": "illegal:links"}, "disqualified", "illegal:links"),
        ("smoke", {"cause": "infra:disk"}, "harness_abort", "infra:disk"),
        ("source_size", {}, "size_blocked", "oversize"),
        ("surface", {}, "rejected", "outside_surface"),
        ("something new", {}, "preflight_crash", "smoke"),
    ],
)
def test_the_first_failed_preflight_check_decides(
    name: str, numbers: dict[str, str], status: str, cause: str
) -> None:
    ladder = [Check(name="first", passed=True), Check(name=name, passed=False, numbers=numbers, detail="why")]
    got = label(SPEC, build=ladder, runs=[good_run()], measurement=measured())
    assert (got.status, got.cause) == (status, cause)
    assert "why" in got.text


def test_order_infra_then_tamper_then_illegal_then_the_first_failure() -> None:
    crash, infra = failed_run("crash"), failed_run("infra:disk")
    tamper, illegal, oom = failed_run("tamper"), failed_run("illegal:links"), failed_run("oom")
    assert label(SPEC, runs=[crash, illegal, tamper, infra]).cause == "infra:disk"
    assert label(SPEC, runs=[crash, illegal, tamper]).cause == "tamper"
    assert label(SPEC, runs=[crash, illegal]).cause == "illegal:links"
    got = label(SPEC, runs=[good_run(), crash, oom])
    assert got.cause == "crash"
    assert (got.numbers["run"], got.numbers["runs"], got.numbers["runs_failed"]) == (2, 3, 2)


def test_a_failed_audit_goes_before_gates() -> None:
    audit = Check(name="causality", passed=False, detail="splice moved logits by 0.2", numbers={"worst": 0.2})
    got = label(SPEC, measurement=measured(audits=(audit,), gates=(gate_check(False, 0.9, 0.9),)))
    assert (got.status, got.cause) == (Status.DISQUALIFIED, "not_causal")
    assert got.numbers["worst"] == 0.2


def test_nothing_failed_and_no_score_is_our_fault() -> None:
    for facts in (None, measured(None)):
        got = label(SPEC, runs=[good_run()], measurement=facts)
        assert got.status is Status.HARNESS_ABORT
        assert str(got.cause).startswith("infra:no_")


def test_refusals_and_infra() -> None:
    got = label_refusal("bad_edit", "search text found 2 times in train.py", {"matches": 2})
    assert (got.status, got.cause, got.numbers) == (Status.REJECTED, "bad_edit", {"matches": 2})
    assert label_refusal("syntax", "line 3").status is Status.PREFLIGHT_CRASH
    assert label_refusal("no such word", "x").cause == "bad_edit"
    assert label_infra("disk full", "no space left").cause == "infra:disk_full"


def test_candidate_text_is_bounded_and_has_no_control_characters() -> None:
    noise = "Error: " + "\x1b[31m\n" * 3 + "x" * 5000
    got = label(SPEC, runs=[failed_run("crash", code=1, exception=noise)])
    assert len(got.text) < 400
    assert len(str(got.numbers["exception"])) <= 300
    assert got.text.isprintable()


def test_a_size_found_before_the_real_run_is_told_by_the_same_keys() -> None:
    numbers = {"cause": "oversize", "stage": "export", "bytes": 19_362, "cap": 10_000, "over": 9_362}
    found = label(
        SPEC,
        build=[Check(name="smoke", passed=False, numbers=numbers)],
        runs=(),
        measurement=None,
        leader_score=None,
    )
    assert (found.status, found.cause) == (Status.SIZE_BLOCKED, "oversize")
    assert found.numbers["bytes_over"] == 9_362 and found.numbers["cap_bytes"] == 10_000
    assert found.numbers["stage"] == "build", "a label's stage is one of the six"
