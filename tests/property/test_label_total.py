"""The label is total: any facts get a label with a documented status and cause, and a finite record."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.statistics.label import STATUS_OF_CAUSE, label, label_infra, label_refusal
from lineage.environment_spec import Budget, EnvironmentSpec, Evaluation, Gate, Score, Surface, Task
from lineage.records import (
    CAUSES,
    Artifact,
    Check,
    Label,
    Measurement,
    RunFacts,
    SeedResult,
    Status,
    TrainRun,
)

SPEC = EnvironmentSpec(
    name="toy",
    title="Toy",
    description="a toy",
    score=Score(metric="bits_per_byte", direction="min", unit="bpb"),
    task=Task(kind="language_model", outputs=256, context=8),
    gates=[
        Gate(quantity="accuracy", at_least=0.96, on="bound"),
        Gate(quantity="total_bytes", at_most=100.0),
        Gate(quantity="loss", at_most=0.0, on="each"),
    ],
    budget=Budget(
        train_cpu_s=30, train_wall_s=300, predict_cpu_s=9, predict_wall_s=90, memory_mb=64, artifact_bytes=99
    ),
    evaluation=Evaluation(runs=1, confirm_runs=3, max_confirm_runs=8, calibrate_runs=3),
    surfaces=[Surface(name="opt", title="Optimizer", units={"train.py": ["*"]})],
)

floats = st.floats(-1e12, 1e12, allow_nan=False)
causes = st.sampled_from([c if c not in ("illegal", "infra") else f"{c}:links" for c in CAUSES])
numbers = st.dictionaries(
    st.sampled_from(["mean", "bound", "worst", "bytes", "cap", "cause", "artifact_bytes"]),
    st.one_of(floats, st.integers(-(10**15), 10**15), st.text(max_size=5), causes),
    max_size=4,
)
facts = st.builds(
    RunFacts,
    end=st.sampled_from(
        ["exit", "signal", "cpu_cap", "wall_cap", "oom", "start_cap", "protocol", "infra", "pruned"]
    ),
    code=st.integers(-64, 255),
    started=st.booleans(),
    cpu_s=floats,
    wall_s=floats,
    start_cpu_s=floats,
    oom_kills=st.integers(0, 3),
    exception=st.text(max_size=60),
    detail=st.text(max_size=20),
)
artifacts = st.builds(Artifact, sha256=st.just("0"), bytes=st.integers(0, 200), files=st.just({}))
runs = st.builds(
    TrainRun,
    seed=st.integers(0, 9),
    facts=facts,
    artifact=st.none() | artifacts,
    cause=st.none() | causes,
    numbers=numbers,
)
seeds = st.builds(
    SeedResult,
    seed=st.integers(0, 9),
    quantities=st.just({}),
    cause=st.none() | causes,
    numbers=numbers,
    facts=st.none() | facts,
)
checks = st.builds(
    Check,
    name=st.sampled_from(
        ["parse", "import", "smoke", "size", "surface", "accuracy", "total_bytes", "loss", "x"]
    ),
    passed=st.booleans(),
    numbers=numbers,
    detail=st.text(max_size=20),
)
measurements = st.builds(
    Measurement,
    trial=st.just("t"),
    purpose=st.just("screen"),
    split=st.just("public"),
    metric=st.just("bits_per_byte"),
    score=st.none() | floats,
    per_seed=st.lists(seeds, max_size=3).map(tuple),
    quantities=st.dictionaries(st.sampled_from(["accuracy", "loss"]), floats),
    gates=st.lists(checks, max_size=3).map(tuple),
    audits=st.lists(checks, max_size=1).map(tuple),
    artifact_bytes=st.integers(0, 10**9),
    source_sha256=st.just("a"),
    environment_sha256=st.just("b"),
    evaluator_sha256=st.just("c"),
    isolation=st.just("strong"),
    machine=st.just("m"),
    measured_at=st.just(datetime(2026, 1, 1, tzinfo=UTC)),
)


def coherent(got: Label) -> None:
    assert got.text and got.text.isprintable() and len(got.text) < 700
    assert Label.model_validate_json(got.model_dump_json()) == got
    if got.cause is None:
        assert got.status in (Status.BASELINE, Status.KEEP, Status.DISCARD)
        return
    expected = STATUS_OF_CAUSE[got.cause.partition(":")[0]]
    also = {Status.EVAL_BUDGET_OVERRUN} if expected is Status.TRAIN_BUDGET_OVERRUN else set()
    assert got.status in {expected} | also


@settings(max_examples=400, deadline=None)
@given(
    build=st.lists(checks, max_size=2),
    trained=st.lists(runs, max_size=3),
    measurement=st.none() | measurements,
    leader=st.none() | floats,
    is_baseline=st.booleans(),
)
def test_any_facts_get_a_coherent_label(
    build: list[Check],
    trained: list[TrainRun],
    measurement: Measurement | None,
    leader: float | None,
    is_baseline: bool,
) -> None:
    got = label(
        SPEC, build=build, runs=trained, measurement=measurement, leader_score=leader, is_baseline=is_baseline
    )
    coherent(got)
    if got.status in (Status.KEEP, Status.BASELINE):
        assert measurement is not None and measurement.score is not None
        assert all(c.passed for c in [*build, *measurement.gates, *measurement.audits])
        assert all(run.cause is None for run in trained)
        if leader is not None and got.status is Status.KEEP:
            assert measurement.score < leader


@given(cause=st.one_of(causes, st.text(max_size=12)), message=st.text(max_size=500), told=numbers)
def test_refusals_and_faults_are_total_too(
    cause: str, message: str, told: dict[str, float | int | str]
) -> None:
    coherent(label_infra(cause, message))
    coherent(label_refusal(cause, message, told))


def test_every_status_and_cause_can_be_reached() -> None:
    """Not only allowed: for each cause there are facts that lead to it, and for each status too."""
    fine = TrainRun(
        seed=1, facts=RunFacts(end="exit"), artifact=Artifact(sha256="0", bytes=1, files={"m": 1})
    )
    reached: set[tuple[str, str | None]] = set()

    def see(got: Label) -> None:
        reached.add((got.status.value, got.cause.partition(":")[0] if got.cause else None))

    for cause in CAUSES:
        full = f"{cause}:x" if cause in ("illegal", "infra") else cause
        see(label_refusal(full, "why"))
        see(label(SPEC, runs=[TrainRun(seed=1, facts=RunFacts(end="exit"), cause=full)]))
    result = SeedResult(seed=1, cause="cpu_cap", facts=RunFacts(end="cpu_cap"))
    template = {
        "trial": "t", "purpose": "screen", "metric": "bits_per_byte", "source_sha256": "a",
        "environment_sha256": "b", "evaluator_sha256": "c", "isolation": "strong", "machine": "m",
        "measured_at": datetime(2026, 1, 1, tzinfo=UTC),
    }  # fmt: skip
    slow = Measurement.model_validate({**template, "score": None, "per_seed": (result,)})
    good = Measurement.model_validate({**template, "score": 1.0, "per_seed": (SeedResult(seed=1),)})
    see(label(SPEC, runs=[fine], measurement=slow))
    see(label(SPEC, runs=[fine], measurement=good, is_baseline=True))
    see(label(SPEC, runs=[fine], measurement=good, leader_score=2.0))
    see(label(SPEC, runs=[fine], measurement=good, leader_score=1.0))
    assert {cause for _, cause in reached} == {*CAUSES, None}
    assert {status for status, _ in reached} == {status.value for status in Status}
