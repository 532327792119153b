"""Any sequence of attempts and replicates: the level is never overspent, decisions never depend on later data."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.statistics.confirmation import (
    Attempt,
    ConfirmPlan,
    Continue,
    Unconfirmed,
    alpha_for,
    next_step,
    plan_for,
)
from evaluators.statistics.noise import Noise
from lineage.environment_spec import Budget, EnvironmentSpec, Evaluation, Score, Surface, Task

scores = st.floats(-1e6, 1e6, allow_nan=False)
plans = st.builds(
    ConfirmPlan,
    sign=st.sampled_from([1, -1]),
    is_paired=st.booleans(),
    horizon=st.integers(1, 2000),
    alpha=st.floats(0.001, 0.2),
)


@given(plan=plans, gaps=st.lists(st.integers(1, 50), max_size=200))
def test_the_campaigns_level_is_never_overspent(plan: ConfirmPlan, gaps: list[int]) -> None:
    left, trials = plan.alpha, 0
    for number, gap in enumerate(gaps):
        trials += gap
        level = float(alpha_for(plan, left, number, trials))
        assert 0 < level <= left
        left -= level
    assert left >= 0


@settings(deadline=None)
@given(
    plan=plans,
    ours=st.lists(scores, max_size=12),
    theirs=st.lists(scores, max_size=24),
    pool=st.lists(scores, max_size=40),
    squares=st.floats(0, 1e6),
    df=st.integers(0, 50),
    gates=st.lists(st.booleans(), max_size=3),
)
def test_a_decision_is_final(
    plan: ConfirmPlan,
    ours: list[float],
    theirs: list[float],
    pool: list[float],
    squares: float,
    df: int,
    gates: list[bool],
) -> None:
    """Total, and appending replicates to a decided attempt changes nothing."""
    attempt = Attempt(0.001, Noise(squares, df), tuple(pool), tuple(ours), tuple(theirs), tuple(gates))
    if not plan.is_paired and not pool and not theirs:
        attempt = replace(attempt, pool=(0.0,))
    step = next_step(attempt, plan)
    if isinstance(step, Continue):
        assert step.candidate + step.incumbent > 0
        assert len(ours) + step.candidate <= max(plan.looks[-1], len(ours))
        return
    longer = replace(attempt, candidate=(*attempt.candidate, 1e9), incumbent=(*attempt.incumbent, -1e9))
    again = next_step(longer, plan)
    assert type(again) is type(step)
    assert again == step
    if isinstance(step, Unconfirmed) and step.reason == "futile":
        assert len(step.looks) < len(plan.looks)


@given(
    first=st.integers(2, 60),
    most=st.integers(2, 200),
    metric=st.sampled_from(["cpu_seconds", "bits_per_byte", "accuracy"]),
)
def test_every_environment_has_a_coherent_plan(first: int, most: int, metric: str) -> None:
    spec = EnvironmentSpec(
        name="toy",
        title="Toy",
        description="a toy",
        score=Score.model_validate({"metric": metric, "direction": "min", "unit": "x"}),
        task=Task(kind="classification", outputs=10),
        budget=Budget(
            train_cpu_s=1, train_wall_s=1, predict_cpu_s=1, predict_wall_s=1, memory_mb=1, artifact_bytes=1
        ),
        evaluation=Evaluation(runs=1, confirm_runs=first, max_confirm_runs=most, calibrate_runs=3),
        surfaces=[Surface(name="opt", title="Optimizer", units={"train.py": ["*"]})],
    )
    plan = plan_for(spec)
    assert plan.looks == tuple(sorted(set(plan.looks)))
    assert plan.looks[0] == first
    assert abs(sum(plan.shares) - 1) < 1e-12
    assert len(plan.shares) == len(plan.looks) == len(plan.futility) + 1
