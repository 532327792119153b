"""The judge's figures against a second computation written apart from it (recipes/_common/scoring.py).

One fixed tiny model, a table of byte pairs, answers both. Limits: windows, items and arithmetic; that labels
stay with the judge and that runs are caged is tested elsewhere.
"""

from __future__ import annotations

import itertools
import json
import tomllib
from pathlib import Path

import environment_stand_ins as stand_ins
import numpy as np
import pytest
from _common import items, scoring
from environment_stand_ins import RECIPES

from evaluators.judge.language_questions import language
from evaluators.judge.questions import ordinary
from lineage.environment_spec import EnvironmentSpec

TABLE = np.random.default_rng(5).normal(0, 2, (256, 256)).astype(np.float32)


def predict(rows: np.ndarray) -> np.ndarray:
    return TABLE[rows]


def judged(spec: EnvironmentSpec, folder: Path) -> dict[str, float]:
    asked = language(spec, folder)
    sitting = ordinary(asked)
    for rows, shape, take in sitting.requests():
        answer = predict(rows)
        assert answer.shape == shape
        take(answer)
    assert sitting.complete
    return asked.score(sitting.kept)


@pytest.fixture
def spec() -> EnvironmentSpec:
    raw = tomllib.loads((RECIPES / "nanochat_mini" / "environment.toml").read_text("utf-8"))
    return EnvironmentSpec.model_validate(raw)


def write_split(folder: Path, text: bytes, made: list[items.Item]) -> Path:
    folder.mkdir()
    np.save(folder / "tokens.npy", np.frombuffer(text, np.uint8))
    (folder / "meta.json").write_text(json.dumps({"bytes": len(text)}))
    if made:
        (folder / "items.jsonl").write_bytes(b"".join(items.lines(made)))
    return folder


# with one window and a bit, a whole number of windows and one target, and a rest of one
@pytest.mark.parametrize("length", [130, 128 * 5 + 1, 128 * 3 + 2, 5000])
def test_bits_per_byte_agree_to_a_millionth(spec: EnvironmentSpec, tmp_path: Path, length: int) -> None:
    text = stand_ins.library_text()[:length]
    folder = write_split(tmp_path / "public", text, [])
    ours = scoring.bits_per_byte(predict, np.load(folder / "tokens.npy"), length, spec.task.model_dump())
    assert judged(spec, folder)["bits_per_byte"] == pytest.approx(ours, abs=1e-6)
    by_hand = 8.0
    for before, after in itertools.pairwise(text):
        row = TABLE[before].astype(np.float64)
        by_hand += (np.log(np.exp(row).sum()) - row[after]) / np.log(2)
    assert ours == pytest.approx(by_hand / length, abs=1e-6)


def test_centered_accuracy_agrees_on_all_kinds_of_items(spec: EnvironmentSpec, tmp_path: Path) -> None:
    text = stand_ins.library_text()
    made = items.text_items(text, 30, spec.task.context)
    folder = write_split(tmp_path / "public", text[:2000], made)
    found = judged(spec, folder)
    tasks, gold = scoring.centered(predict, made, spec.task.model_dump())
    assert found["gold_bits_per_byte"] == pytest.approx(gold, abs=1e-6)
    assert found["centered_accuracy"] == pytest.approx(sum(tasks.values()) / len(tasks), abs=1e-9)
    assert {f"centered_{name}": value for name, value in tasks.items()} == pytest.approx(
        {name: value for name, value in found.items() if name.startswith("centered_") and name[9:] in tasks}
    )
