"""Every last report of a supervisor has a cause that exists, and numbers that fit a record."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from evaluators.judge import failure_causes
from evaluators.judge.sandbox.bubblewrap import Limits
from lineage.records import TrainRun, check_cause

LIMITS = Limits(start_cpu_s=10, start_wall_s=60, cpu_s=5, wall_s=20, memory=1 << 28, processes=16)
ENDS = ["exit", "signal", "cpu_cap", "wall_cap", "oom", "start_cap", "protocol", "infra", "pruned"]
SECONDS = st.floats(0, 100)
WORDS = [
    "",
    "ValueError: x (train.py:3)",
    "MemoryError: ",
    "OSError: [Errno 28] No space left on device",
    "SyntaxError: no",
]
ARTIFACTS = [
    None,
    {"rule": "no_artifact", "numbers": {}},
    {"rule": "oversize", "numbers": {"bytes": 9, "cap": 5, "over": 4}},
    {"bytes": 3, "files": {"a": 2}},
]
FINALS = st.fixed_dictionaries(
    {
        "end": st.sampled_from(ENDS),
        "code": st.integers(0, 255),
        "started": st.booleans(),
        "cpu_s": SECONDS,
        "wall_s": SECONDS,
        "start_cpu_s": SECONDS,
        "start_wall_s": SECONDS,
        "peak_bytes": st.integers(0, 1 << 40),
        "oom_kills": st.integers(0, 3),
        "log_tail": st.text(max_size=50),
        "exception": st.sampled_from(WORDS),
        "detail": st.sampled_from(["", "cancelled", "the engine went away"]),
        "phase": st.sampled_from(["start", "up", "imported", "run"]),
        "stage": st.sampled_from(["", "trained", "load"]),
        "rule": st.sampled_from(["", "control", "oversize", "artifact_link"]),
        "artifact": st.sampled_from(ARTIFACTS),
    }
)


@given(FINALS, st.booleans())
def test_every_end_has_a_lawful_cause_and_finite_numbers(final: dict[str, Any], needed: bool) -> None:
    cause, numbers = failure_causes.explain(final, LIMITS, artifact_needed=needed)
    assert check_cause(cause) == cause
    assert all(not isinstance(v, float) or math.isfinite(v) for v in numbers.values())
    run = TrainRun(seed=1, facts=failure_causes.facts(final, "strong"), cause=cause, numbers=numbers)
    assert TrainRun.model_validate_json(run.model_dump_json()) == run


@given(FINALS)
def test_only_a_good_end_with_an_artifact_has_no_cause(final: dict[str, Any]) -> None:
    cause, _ = failure_causes.explain(final, LIMITS, artifact_needed=True)
    good = final["end"] == "exit" and final["code"] == 0 and "files" in (final["artifact"] or {})
    assert (cause is None) == good


@given(FINALS)
def test_nothing_the_candidate_says_makes_a_fault_ours(final: dict[str, Any]) -> None:
    """`infra` follows from the supervisor's own `end` alone, never from exit code, exception or rule."""
    cause, _ = failure_causes.explain(final, LIMITS, artifact_needed=True)
    assert ((cause or "").partition(":")[0] in ("infra", "abandoned")) == (final["end"] == "infra")
