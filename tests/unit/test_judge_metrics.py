"""Numbers of the judge against independent ways to compute them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import workbench as wb
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special, stats

from evaluators.judge import metrics
from evaluators.judge.gates import bound_against, judge_gate
from evaluators.judge.language_questions import read_items, score_items, windows
from evaluators.judge.predictor_pipes import Broken
from evaluators.judge.question_kinds import questions
from evaluators.judge.questions import ordinary
from lineage.environment_spec import Gate
from lineage.errors import DataMissing

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)


def test_accuracy_by_hand() -> None:
    answers = np.array([[0, 1, 0], [2, 1, 0], [0, 0, 5], [1, 0, 0]], dtype=np.float32)
    assert metrics.accuracy(answers, np.array([1, 0, 2, 2])) == 0.75


@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(2, 7)), elements=FLOATS
    ),
    st.data(),
)
def test_token_bits_are_scipys_log_softmax(answers: np.ndarray, data: st.DataObject) -> None:
    shape = answers.shape[:2]
    targets = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(0, answers.shape[2] - 1)))
    expected = -special.log_softmax(answers.astype(np.float64), axis=2)
    expected = np.take_along_axis(expected, targets[..., None], axis=2)[..., 0] / math.log(2)
    np.testing.assert_allclose(metrics.token_bits(answers, targets), expected, rtol=1e-9, atol=1e-9)


@given(
    hnp.arrays(np.float32, (3, 2, 5), elements=st.floats(-50, 50, width=32)), st.floats(-1000, 1000, width=32)
)
def test_no_constant_added_to_the_answers_changes_the_bits(answers: np.ndarray, shift: float) -> None:
    """An unnormalised claim is worth nothing: softmax makes it sum to one."""
    targets = np.zeros((3, 2), dtype=np.int64)
    moved = (answers.astype(np.float64) + shift).astype(np.float32)
    np.testing.assert_allclose(
        metrics.token_bits(moved, targets), metrics.token_bits(answers, targets), atol=1e-3
    )


@given(hnp.arrays(np.float32, (2, 3), elements=st.floats(width=32)))
def test_only_finite_answers_pass(answers: np.ndarray) -> None:
    if np.isfinite(answers).all():
        assert metrics.finite(answers) is answers
    else:
        with pytest.raises(Broken) as broken:
            metrics.finite(answers)
        assert broken.value.rule == "nan"


@settings(max_examples=60)
@given(st.integers(2, 200), st.integers(1, 40))
def test_every_token_but_the_first_is_scored_exactly_once(count: int, context: int) -> None:
    tokens = np.arange(count)
    if count <= context:
        with pytest.raises(DataMissing):
            windows(tokens, context)
        return
    rows, targets, scored = windows(tokens, context)
    assert rows.shape == targets.shape == scored.shape
    assert (targets == rows + 1).all()
    assert sorted(targets[scored]) == list(range(1, count))


def test_a_perfect_model_costs_the_first_token_only(tmp_path: Path) -> None:
    bench = wb.language(tmp_path)
    asked = questions(bench.spec, bench.data / "public")
    kept = np.zeros((len(asked.rows), 2, wb.CONTEXT))
    assert asked.score(kept)["bits_per_byte"] == pytest.approx(4 / 1500)


def test_a_uniform_model_costs_the_logarithm_of_the_vocabulary(tmp_path: Path) -> None:
    bench = wb.language(tmp_path)
    asked = questions(bench.spec, bench.data / "public")
    sitting = ordinary(asked)
    for _, shape, take in sitting.requests():
        take(np.full(shape, 7.0, dtype=np.float32))
    assert sitting.complete
    assert asked.score(sitting.kept)["bits_per_byte"] == pytest.approx(4.0)


ITEMS = [
    {
        "task": "order",
        "kind": "choice",
        "contexts": [[1, 2]],
        "choices": [[3], [4, 5]],
        "gold": 0,
        "chance": 0.5,
        "gold_bytes": 1,
    },
    {
        "task": "end",
        "kind": "cloze",
        "contexts": [[1, 2, 3]],
        "choices": [[4, 5]],
        "gold": 0,
        "chance": 0.0,
        "gold_bytes": 2,
    },
    {
        "task": "which",
        "kind": "schema",
        "contexts": [[1], [2, 2]],
        "choices": [[7, 8]],
        "gold": 1,
        "chance": 0.5,
        "gold_bytes": 2,
    },
]


def items_at(folder: Path, lines: list[dict[str, object]]) -> Path:
    path = folder / "items.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def test_items_become_rows_that_hold_context_and_continuation(tmp_path: Path) -> None:
    tokens = np.arange(100) % 16
    items, rows, targets = read_items(items_at(tmp_path, ITEMS), tokens, 8, base=10)
    assert rows.shape == targets.shape == (5, 8)
    assert [len(item.options) for item in items] == [2, 1, 2]
    for item, raw in zip(items, ITEMS, strict=True):
        for number, option in enumerate(item.options):
            row, choices = option.row - 10, raw["choices"]
            wanted = choices[0] if raw["kind"] != "choice" else choices[number]  # type: ignore[index]
            assert list(targets[row, option.start : option.stop]) == wanted
    assert (rows[:, 1:] == targets[:, :-1]).all()


def test_long_contexts_lose_their_start_never_the_continuation(tmp_path: Path) -> None:
    long = {**ITEMS[1], "contexts": [list(range(16)) * 2], "choices": [[9, 10, 11]]}
    items, _, targets = read_items(items_at(tmp_path, [long]), np.arange(50) % 16, 8, base=0)
    option = items[0].options[0]
    assert option.stop == 8 and list(targets[0, option.start :]) == [9, 10, 11]


@pytest.mark.parametrize(
    "change",
    [{"gold": 5}, {"chance": 1.0}, {"choices": [[]]}, {"kind": None, "choices": []}, {"gold_bytes": "x"}],
)
def test_items_that_do_not_hold_together_are_refused(change: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="line 1"):
        read_items(items_at(tmp_path, [{**ITEMS[0], **change}]), np.arange(50), 8, base=0)


def test_centered_accuracy_by_hand(tmp_path: Path) -> None:
    items, _, _ = read_items(items_at(tmp_path, ITEMS), np.arange(50) % 16, 8, base=0)
    bits, hits = np.ones((5, 8)), np.zeros((5, 8))
    gold = items[0].options[0]
    bits[gold.row, gold.start : gold.stop] = 0.5  # choice: right, cheaper per token
    end = items[1].options[0]
    hits[end.row, end.start : end.start + 1] = 1  # cloze: one of two tokens, wrong
    found = score_items(items, bits, hits)
    assert found["centered_order"] == 1.0 and found["centered_end"] == 0.0
    assert found["centered_which"] == pytest.approx(-1.0)  # a tie is not a decision
    assert found["centered_accuracy"] == pytest.approx(0.0)
    assert found["gold_bits_per_byte"] == pytest.approx((0.5 + 2 + 2) / 5)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30), st.floats(0.51, 0.999))
def test_the_bound_is_students(values: list[float], confidence: float) -> None:
    mean, sem = np.mean(values), stats.sem(values)
    if sem == 0:
        return
    low, high = stats.t.interval(2 * confidence - 1, len(values) - 1, mean, sem)
    assert bound_against(values, confidence, lower=True) == pytest.approx(low, rel=1e-6, abs=1e-6)
    assert bound_against(values, confidence, lower=False) == pytest.approx(high, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("gate", "values", "passes"),
    [
        ({"at_least": 0.96}, [0.97, 0.95], True),
        ({"at_least": 0.96, "on": "each"}, [0.97, 0.95], False),
        ({"at_least": 0.96, "on": "bound"}, [0.97, 0.961], False),
        ({"at_least": 0.96, "on": "bound"}, [0.971, 0.970, 0.972], True),
        ({"at_least": 0.96, "on": "bound"}, [0.99], False),
        ({"at_most": 100.0}, [99.0, 101.0], True),
        ({"at_most": 100.0, "on": "each"}, [99.0, 101.0], False),
        ({"at_most": 100.0}, [math.nan, 1.0], False),
        ({"at_least": 0.0}, [], False),
        ({"at_least": 0.0}, [math.inf], False),
    ],
)
def test_gates(gate: dict[str, object], values: list[float], passes: bool) -> None:
    check = judge_gate(Gate.model_validate({"quantity": "accuracy", **gate}), values)
    assert check.passed is passes
    assert check.name.startswith("accuracy")
    if passes:
        assert check.numbers["short_by"] == 0.0
