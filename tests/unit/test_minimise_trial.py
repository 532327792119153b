"""The rule of `bakeoff minimise`: what may be left out, decided on figures that a function of the source gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from evaluators.statistics.noise import Noise
from flows.measure.minimise import Files, Reduced, Rule, Seen, minimise_trial
from lineage.environment_spec import EnvironmentSpec
from lineage.errors import UsageError
from lineage.records import SeedResult

START = {"fit.py": b"LR = 1\n# one\nBATCH = 1\n# two\nSTEPS = 1\n"}
WHOLE = {"fit.py": b"LR = 2\n# one\nBATCH = 2\n# two\nSTEPS = 2\n"}


def spec(**changes: Any) -> EnvironmentSpec:
    base: dict[str, Any] = {
        "name": "toy", "title": "t", "description": "d",
        "score": {"metric": "accuracy", "direction": "max", "unit": ""},
        "task": {"kind": "classification", "outputs": 2},
        "budget": {"train_cpu_s": 1, "train_wall_s": 1, "predict_cpu_s": 1, "predict_wall_s": 1,
                   "memory_mb": 1, "artifact_bytes": 1},
        "evaluation": {"runs": 1, "confirm_runs": 2, "max_confirm_runs": 2, "calibrate_runs": 3},
        "surfaces": [{"name": "all", "title": "t", "units": {"fit.py": ["*"]}}],
    }  # fmt: skip
    return EnvironmentSpec.model_validate({**base, **changes})


def program(files: Files) -> dict[str, int]:
    values: dict[str, int] = {}
    exec(files["fit.py"].decode(), {}, values)
    return values


def reduce(
    figures: Callable[[dict[str, int]], dict[str, float]],
    *,
    sd: float = 0.001,
    interleave: bool = False,
    whole: dict[str, bytes] = WHOLE,
    preflight: Callable[[Files], str] = lambda files: "",
    calls: list[tuple[str, int]] | None = None,
    **changes: Any,
) -> Reduced:
    def measure(files: Files, seeds: Sequence[int]) -> Seen:
        if calls is not None:
            calls.append((files["fit.py"].decode(), len(seeds)))
        return Seen(tuple(SeedResult(seed=seed, quantities=figures(program(files))) for seed in seeds))

    return minimise_trial(
        START, whole, trial="t0007", measure=measure, preflight=preflight,
        rule=Rule(spec(**changes), Noise(squares=sd * sd * 20, df=20), interleave), seeds=(1, 2, 3, 4),
        most_tests=50, told=lambda text: None,
    )  # fmt: skip


def by_rate(values: dict[str, int]) -> dict[str, float]:
    return {"accuracy": 0.8 + 0.1 * (values["LR"] - 1)}


def test_only_the_hunk_that_carries_the_gain_is_kept() -> None:
    calls: list[tuple[str, int]] = []
    found = reduce(by_rate, calls=calls)
    assert [found.hunks[index].where for index in found.kept] == ["fit.py:1"]
    assert found.is_minimal
    assert found.files["fit.py"] == START["fit.py"].replace(b"LR = 1", b"LR = 2")
    assert "+LR = 2" in found.left
    assert "+BATCH = 2" in found.dropped and "+STEPS = 2" in found.dropped
    assert len(calls) == len({text for text, _ in calls}), "no program is measured twice"


def test_two_halves_of_a_gain_are_both_kept_however_large_the_noise() -> None:
    """Each alone keeps exactly half: beyond the margin with little noise; with much, half is the limit."""

    def score(values: dict[str, int]) -> dict[str, float]:
        return {"accuracy": 0.5 + 0.2 * (values["LR"] == 2) + 0.21 * (values["BATCH"] == 2)}

    assert [reduce(score, sd=0.001).hunks[i].where for i in reduce(score, sd=0.001).kept] == [
        "fit.py:1",
        "fit.py:3",
    ]
    much = reduce(score, sd=10.0)
    assert much.allowed == pytest.approx(0.205)
    assert [much.hunks[i].where for i in much.kept] == ["fit.py:3"]


def test_a_loss_within_the_margin_is_accepted_and_one_beyond_it_is_not() -> None:
    def score(values: dict[str, int]) -> dict[str, float]:
        return {"accuracy": 0.5 + 0.2 * (values["LR"] == 2) + 0.01 * (values["BATCH"] == 2)}

    rule = Rule(spec(), Noise(squares=20 * 0.02**2, df=20), False)
    assert rule.margin(4) == pytest.approx(1.7247 * 0.02 * (2 / 4) ** 0.5, rel=1e-4)  # t(0.95, 20) = 1.7247
    assert len(reduce(score, sd=0.02).kept) == 1
    assert len(reduce(score, sd=0.001).kept) == 2


def test_a_time_score_measures_the_whole_again_beside_every_subset() -> None:
    clock = iter(range(1000))

    def score(values: dict[str, int]) -> dict[str, float]:
        drift = 1 + 0.002 * next(clock)  # the machine slows down all the while
        return {"cpu_seconds": (4.0 if values["LR"] == 2 else 5.0) * drift, "accuracy": 0.9}

    calls: list[tuple[str, int]] = []
    found = reduce(
        score, sd=0.02, interleave=True, calls=calls,
        score={"metric": "cpu_seconds", "direction": "min", "unit": "s"},
    )  # fmt: skip
    assert [found.hunks[index].where for index in found.kept] == ["fit.py:1"]
    assert all(count == 1 for _, count in calls)
    assert [text for text, _ in calls[1::2]] == [WHOLE["fit.py"].decode()] * (len(calls) // 2)


def test_a_part_that_misses_a_hard_rule_does_not_pass() -> None:
    def score(values: dict[str, int]) -> dict[str, float]:
        return {**by_rate(values), "peak_mb": 5.0 if values["STEPS"] == 2 else 50.0}

    found = reduce(score, gates=[{"quantity": "peak_mb", "at_most": 100.0}])
    assert len(found.kept) == 1
    found = reduce(score, gates=[{"quantity": "peak_mb", "at_most": 10.0}])
    assert [found.hunks[index].where for index in found.kept] == ["fit.py:1", "fit.py:5"]


def test_a_part_that_does_not_run_or_parse_is_not_measured() -> None:
    calls: list[tuple[str, int]] = []
    found = reduce(
        by_rate, calls=calls, preflight=lambda files: "" if b"STEPS = 2" in files["fit.py"] else "smoke"
    )
    assert [found.hunks[index].where for index in found.kept] == ["fit.py:1", "fit.py:5"]
    assert all("STEPS = 2" in text for text, _ in calls[2:])
    with pytest.raises(UsageError, match="cannot be measured"):
        reduce(by_rate, gates=[{"quantity": "accuracy", "at_least": 0.95}])


def test_hunks_that_need_each_other_stay_together() -> None:
    """An opening bracket in one hunk and its end in another: neither parses alone."""
    whole = {"fit.py": b"LR = (2\n# one\n)\nBATCH = 1\n# two\nSTEPS = 2\n"}
    found = reduce(by_rate, whole=whole)
    assert [found.hunks[index].text for index in found.kept] == [b"LR = (2\n", b")\n"]


def test_comments_are_dropped_without_a_measurement() -> None:
    calls: list[tuple[str, int]] = []
    whole = {"fit.py": b"LR = 2\n# one\nBATCH = 1\n# two\nSTEPS = 1  # why\n"}
    found = reduce(by_rate, whole=whole, calls=calls)
    assert len(found.hunks) == 2 and len(found.kept) == 1
    assert len(calls) == 2, "the whole and the start"


def test_no_gain_on_these_seeds_is_said_and_nothing_is_reduced() -> None:
    with pytest.raises(UsageError, match="t0007 is not better than the start on these 4 seeds"):
        reduce(lambda values: {"accuracy": 0.8})
    with pytest.raises(UsageError, match="same program as the campaign's start"):
        reduce(by_rate, whole={"fit.py": START["fit.py"] + b"# end\n"})
