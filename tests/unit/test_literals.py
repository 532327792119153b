"""Data in source code is seen in every form that holds much of it; ordinary programs pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluators.judge.candidate_folders import read_source
from evaluators.judge.data_in_source import embedded_data

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "text",
    [
        f"W = '{'a' * 5000}'",
        f"W = {bytes(range(256)) * 20!r}",
        f"W = {list(range(600))}",
        f"W = {{i: 1 for i in {tuple(range(600))}}}",
        f"W = [{', '.join(str([0.5] * 20) for _ in range(30))}]",
        "\n".join(f"W{n} = '{'a' * 900}'" for n in range(15)),
        f"def f():\n    '''{'a' * 5000}'''\n",
        "W = 0x" + "f" * 10_000,
        "class A:\n" + "\n".join(f"    x{n} = '{'b' * 400}'" for n in range(40)),
    ],
)
def test_much_data_in_any_form_is_refused(text: str) -> None:
    check = embedded_data({"model.py": text.encode()})
    assert not check.passed and check.numbers["cause"] == "illegal:embedded_data"


def test_a_file_that_is_not_source_counts_as_data() -> None:
    assert not embedded_data({"train.py": b"", "weights.bin": b"x" * 13_000}).passed
    assert embedded_data({"train.py": b"", "notes.txt": b"x" * 100}).passed


@pytest.mark.parametrize("source", sorted((ROOT / "recipes").glob("*/source")), ids=lambda p: p.parent.name)
def test_the_recipes_that_ship_pass(source: Path) -> None:
    check = embedded_data(read_source(source))
    assert check.passed, check.detail


@pytest.mark.parametrize("text", ["def (", "-" * 30_000 + "1", "(" * 5000, "\0"])
def test_text_that_does_not_parse_is_left_to_others(text: str) -> None:
    assert embedded_data({"train.py": text.encode()}).name == "embedded_data"
