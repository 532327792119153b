"""The audit's comparison: honest noise passes, dependence on what must not be seen does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import workbench as wb

from evaluators.judge.leak_audits import Second, compare, merged, sittings, splice
from evaluators.judge.question_kinds import questions
from evaluators.judge.questions import Questions, Sitting

NAMES = ["causality", "batch_invariance", "order_invariance"]
SPEC = wb.markov(audits=NAMES)
Model = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Questions:
    bench = wb.language(tmp_path_factory.mktemp("audit"))
    return questions(bench.spec, bench.data / "public")


def sit(sitting: Sitting, model: Model) -> None:
    for rows, _, take in sitting.requests():
        take(model(rows).astype(np.float32))


def table() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (16, 16)).astype(np.float32)


def failed(asked: Questions, model: Model) -> set[str]:
    first, second = sittings(asked, NAMES)
    sit(first, model)
    sit(second, model)
    return {check.name for check in compare(SPEC, first, second) if not check.passed}


def test_an_honest_table_passes_with_float_noise(asked: Questions) -> None:
    weights, rng = table(), np.random.default_rng(1)
    for _ in range(20):
        assert failed(asked, lambda x: weights[x] + rng.normal(0, 2e-7, (*x.shape, 16))) == set()


def test_what_sees_the_future_fails_causality_only(asked: Questions) -> None:
    weights = table()

    def model(x: np.ndarray) -> np.ndarray:
        ahead = np.concatenate([x[:, 1:], x[:, -1:]], axis=1)
        return weights[x] + 0.1 * np.eye(16)[ahead]

    for _ in range(10):
        assert failed(asked, model) == {"causality"}


def test_what_depends_on_the_batch_fails_batch_and_causality(asked: Questions) -> None:
    weights = table()
    found = failed(asked, lambda x: weights[x] + weights[x].mean(axis=(0, 1)))
    assert "batch_invariance" in found and "order_invariance" not in found


def test_what_carries_state_fails_order(asked: Questions) -> None:
    weights = table()

    def model(x: np.ndarray) -> np.ndarray:
        np.add.at(weights, (x[:, :-1], x[:, 1:]), 0.01)
        return weights[x]

    assert "order_invariance" in failed(asked, model)


def test_noise_does_not_buy_a_wide_tolerance(asked: Questions) -> None:
    weights, rng = table(), np.random.default_rng(2)
    assert failed(asked, lambda x: weights[x] + rng.normal(0, 0.1, (*x.shape, 16))) == set(NAMES)


def test_the_sittings_look_alike_and_ask_for_everything(asked: Questions) -> None:
    first, second = sittings(asked, NAMES)
    assert isinstance(second, Second)
    count = len(asked.rows)
    assert sorted(len(numbers) for numbers in first.plan) == sorted(len(numbers) for numbers in second.plan)
    assert max(len(numbers) for numbers in first.plan) <= asked.batch
    for sitting in (first, second):
        assert sorted(np.concatenate(sitting.plan)) == list(range(len(sitting.rows)))
        assert (sitting.rows[:count] == asked.rows).all() and (sitting.cut[:count] == -1).all()
        for number in range(count, len(sitting.rows)):
            at = int(sitting.cut[number])
            assert (sitting.rows[number, :at] == asked.rows[sitting.source[number], :at]).all()
    assert not set(first.source[count:]) & set(second.source[count:])
    assert any(np.array_equal(second.again, numbers) for numbers in first.plan)
    assert second.plan[0] is second.again


def test_a_splice_always_exchanges_the_tail_and_never_the_head() -> None:
    rng = np.random.default_rng(3)
    rows = rng.integers(0, 16, (200, 24))
    spliced, cut = splice(rows, np.full(200, 6), np.full(200, 23), rng)
    assert cut.min() >= 6 and cut.max() <= 23
    for row, new, at in zip(rows, spliced, cut, strict=True):
        assert (row[:at] == new[:at]).all()
        assert row[at] != new[at]


def test_what_is_scored_is_the_worse_of_all_answers(asked: Questions) -> None:
    weights, calls = table(), [0]

    def model(x: np.ndarray) -> np.ndarray:
        calls[0] += 1
        ahead = np.concatenate([x[:, 1:], x[:, -1:]], axis=1)
        return weights[x] + (9.0 if calls[0] <= half else 0.0) * np.eye(16)[ahead]

    first, second = sittings(asked, NAMES)
    half = len(first.plan)  # honest in the second sitting only
    sit(first, model)
    sit(second, model)
    honest, _ = sittings(asked, NAMES)
    sit(honest, lambda x: weights[x])
    count = len(asked.rows)
    peeked = asked.score(first.kept[:count])["bits_per_byte"]
    fair = asked.score(honest.kept[:count])["bits_per_byte"]
    assert peeked < 0.5 * fair
    assert asked.score(merged(first, second))["bits_per_byte"] >= fair - 1e-6


def test_rows_of_images_are_compared_relative_to_their_range(tmp_path: Path) -> None:
    bench = wb.classification(tmp_path)
    asked = questions(bench.spec, bench.data / "public")
    for scale in (1e-3, 1.0, 1e6):
        for drift, fails in ((1e-6, set()), (0.05, {"batch_invariance"})):
            first, second = sittings(asked, NAMES[1:])
            assert isinstance(second, Second)
            sit(first, lambda x, s=scale: s * x[:, :3])  # type: ignore[misc]
            calls: list[int] = []

            def later(
                x: np.ndarray, s: float = scale, d: float = drift, before: list[int] = calls
            ) -> np.ndarray:
                before.append(len(x))
                return s * (x[:, :3] + (d if len(before) > 1 else 0) * x[:, 1:4])

            sit(second, later)
            spec = wb.blobs(audits=NAMES[1:])
            found = {c.name for c in compare(spec, first, second) if not c.passed}
            assert found == fails
