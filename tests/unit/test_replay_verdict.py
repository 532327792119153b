"""Verdicts on replays: same bits, within noise, differs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from evaluators.statistics.replay_verdict import compare, is_time
from lineage.records import Measurement, SeedResult


def measured(
    accuracy: list[float], seconds: list[float], causes: dict[int, str] | None = None, **changes: Any
) -> Measurement:
    seeds = tuple(
        SeedResult(seed=i, cause=(causes or {}).get(i), quantities={"accuracy": a, "cpu_seconds": s})
        for i, (a, s) in enumerate(zip(accuracy, seconds, strict=True))
    )
    base: dict[str, Any] = {
        "trial": "t1", "purpose": "screen", "metric": "cpu_seconds", "score": 2.0, "per_seed": seeds,
        "artifact_bytes": 100, "source_bytes": 50, "source_sha256": "s", "environment_sha256": "e",
        "evaluator_sha256": "j", "isolation": "strong", "machine": "m",
        "measured_at": datetime(2026, 1, 1, tzinfo=UTC),
    }  # fmt: skip
    return Measurement.model_validate({**base, **changes})


ACCURACY = [0.970, 0.975, 0.972, 0.968]
SECONDS = [2.00, 2.03, 1.98, 2.01]
THEN = measured(ACCURACY, SECONDS)


def test_equal_results_with_other_times_are_the_same_bits() -> None:
    got = compare(THEN, measured(ACCURACY, [2.02, 2.00, 2.01, 1.99]))
    assert got.verdict == "same bits"
    by_name = {figure.name: figure for figure in got.figures}
    assert by_name["accuracy"].verdict == "same bits"
    assert by_name["cpu_seconds"].verdict == "within noise"
    assert by_name["cpu_seconds"].recorded == pytest.approx(2.005)


def test_small_differences_over_seeds_are_within_noise() -> None:
    got = compare(THEN, measured([0.971, 0.973, 0.9725, 0.969], SECONDS))
    assert got.verdict == "within noise"


def test_a_shift_of_every_seed_differs() -> None:
    got = compare(THEN, measured([a - 0.02 for a in ACCURACY], SECONDS))
    assert got.verdict == "differs"
    assert got.reasons == ("accuracy was 0.97125, is 0.95125",)


def test_a_busy_machine_is_within_noise_and_twice_the_time_is_not() -> None:
    assert compare(THEN, measured(ACCURACY, [s * 1.4 for s in SECONDS])).verdict == "same bits"
    slow = compare(THEN, measured(ACCURACY, [s * 2.0 for s in SECONDS]))
    assert slow.verdict == "differs"
    assert "cpu_seconds" in slow.reasons[0]


def test_one_seed_needs_a_noise_floor() -> None:
    then, now = measured([0.970], [2.0]), measured([0.971], [2.0])
    assert compare(then, now).verdict == "differs"
    assert compare(then, now, {"accuracy": 0.003}).verdict == "within noise"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"source_sha256": "x"}, "source_sha256 was s, is x"),
        ({"evaluator_sha256": "x"}, "evaluator_sha256"),
        ({"environment_sha256": "x"}, "environment_sha256"),
        ({"split": "sealed"}, "split"),
        ({"artifact_bytes": 101}, "artifact_bytes was 100, is 101"),
        ({"causes": {2: "nan"}}, "seed 2 gave a result, gives nan"),
    ],
)
def test_other_things_are_named(changes: dict[str, Any], reason: str) -> None:
    got = compare(THEN, measured(ACCURACY, SECONDS, **changes))
    assert got.verdict == "differs"
    assert reason in got.reasons[0]


def test_other_seeds_are_named() -> None:
    got = compare(THEN, measured(ACCURACY[:3], SECONDS[:3]))
    assert "seeds were [0, 1, 2, 3], are [0, 1, 2]" in got.reasons


def test_the_same_failure_again_is_the_same() -> None:
    failed = measured(ACCURACY, SECONDS, causes={1: "nan"})
    assert compare(failed, failed).verdict == "same bits"


def test_times_are_known_by_name() -> None:
    assert all(map(is_time, ["cpu_seconds", "wall_seconds", "train_cpu_s", "peak_bytes", "load_start"]))
    assert not any(map(is_time, ["accuracy", "loss", "bits_per_byte", "artifact_bytes", "centered_accuracy"]))


def test_a_time_that_nothing_is_decided_by_is_shown_and_does_not_decide() -> None:
    slow = measured(ACCURACY, [s * 2.0 for s in SECONDS])
    got = compare(THEN, slow, deciding={"accuracy"})
    assert got.verdict == "same bits"
    assert {f.name: f.verdict for f in got.figures}["cpu_seconds"] == "differs"
    assert compare(THEN, slow, deciding={"cpu_seconds"}).verdict == "differs"
    worse = measured([a - 0.02 for a in ACCURACY], SECONDS)
    assert compare(THEN, worse, deciding={"cpu_seconds"}).verdict == "differs", (
        "what is no time always decides"
    )


def test_a_few_milliseconds_are_scheduling() -> None:
    short = measured(ACCURACY, [0.006, 0.005, 0.006, 0.005])
    assert compare(short, measured(ACCURACY, [0.014, 0.013, 0.015, 0.013])).verdict == "same bits"
    assert compare(short, measured(ACCURACY, [0.104, 0.103, 0.105, 0.103])).verdict == "differs"


def test_each_size_is_shown_once() -> None:
    seeds = [
        seed.model_copy(update={"quantities": {**seed.quantities, "artifact_bytes": 100.0}})
        for seed in THEN.per_seed
    ]
    both = THEN.model_copy(update={"per_seed": tuple(seeds)})
    names = [figure.name for figure in compare(both, both).figures]
    assert sorted(names) == ["accuracy", "artifact_bytes", "cpu_seconds", "source_bytes"]
