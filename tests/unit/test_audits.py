"""The audit's comparison: honest noise passes, dependence on what must not be seen does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import workbench as wb

from evaluators.audits import Second, compare, second_sitting, splice
from evaluators.questions import Questions, Sitting, ordinary
from evaluators.tasks import questions

NAMES = ["causality", "batch_invariance", "order_invariance"]
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
    first = ordinary(asked)
    sit(first, model)
    second = second_sitting(asked, first)
    sit(second, model)
    return {check.name for check in compare(NAMES, asked, first, second) if not check.passed}


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


def test_the_second_sitting_asks_for_everything_and_looks_ordinary(asked: Questions) -> None:
    first = ordinary(asked)
    second = second_sitting(asked, first)
    sizes = [len(numbers) for numbers in second.plan]
    assert max(sizes) <= asked.batch
    body = second.rows[len(second.replay) + len(second.again) :]
    assert len(body) == len(asked.rows)
    assert sorted(np.concatenate(second.plan)) == list(range(len(second.rows)))
    assert (second.rows[second.replay] == asked.rows[first.plan[-1]]).all()
    cut = second.cut[second.cut >= 0]
    assert len(cut) > 0.8 * len(asked.rows)
    for number in range(len(second.rows)):
        at = int(second.cut[number])
        own = asked.rows[second.source[number]]
        assert (second.rows[number, : at if at >= 0 else None] == own[: at if at >= 0 else None]).all()


def test_a_splice_always_exchanges_the_tail_and_never_the_head() -> None:
    rng = np.random.default_rng(3)
    rows = rng.integers(0, 16, (200, 24))
    spliced, cut = splice(rows, np.full(200, 5), rng)
    assert cut.min() >= 6 and cut.max() <= 23
    changed = 0
    for row, new, at in zip(rows, spliced, cut, strict=True):
        assert (row[:at] == new[:at]).all()
        changed += bool((row[at:] != new[at:]).any())
    assert changed == 200
    seams = np.mean(
        [
            new[at - 1] == row[at - 1] and (rows[:, at - 1] == row[at - 1]).any()
            for row, new, at in zip(rows, spliced, cut, strict=True)
        ]
    )
    assert seams == 1.0


def test_rows_of_images_are_compared_relative_to_their_range(tmp_path: Path) -> None:
    bench = wb.classification(tmp_path)
    asked = questions(bench.spec, bench.data / "public")
    for scale in (1e-3, 1.0, 1e6):
        for drift, fails in ((1e-6, set()), (0.05, {"batch_invariance"})):
            first = ordinary(asked)
            sit(first, lambda x, s=scale: s * x[:, :3])  # type: ignore[misc]
            second = second_sitting(asked, first)
            assert isinstance(second, Second)
            sit(second, lambda x, s=scale, d=drift: s * (x[:, :3] + (d if len(x) == 50 else 0) * x[:, 1:4]))  # type: ignore[misc]
            found = {c.name for c in compare(NAMES[1:], asked, first, second) if not c.passed}
            assert found == fails
