"""Metrics of a script: what is read from its output and files, and what is refused by name."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from evaluators.judge.script_metrics import LINE, NoMetric, read_metrics
from lineage.script_task import ScriptMetric


def metric(**given: str) -> ScriptMetric:
    return ScriptMetric.model_validate({"name": "loss", **given})


def read(tmp_path: Path, output: str | bytes, files: dict[str, str] | None = None, **given: str) -> float:
    (tmp_path / "out").mkdir(exist_ok=True)
    for name, text in (files or {}).items():
        (tmp_path / "out" / name).write_text(text)
    log = tmp_path / "log"
    log.write_bytes(output if isinstance(output, bytes) else output.encode())
    return read_metrics([metric(**given)], log, tmp_path / "out")["loss"]


PRINTED = "step 1: val loss 3.50\nstep 2: val loss 1.25\nstep 3: val loss 2.00\n"


@pytest.mark.parametrize(("take", "value"), [("last", 2.0), ("first", 3.5), ("min", 1.25), ("max", 3.5)])
def test_which_of_several_lines_counts(tmp_path: Path, take: str, value: float) -> None:
    assert read(tmp_path, PRINTED, pattern="val loss ([0-9.]+)", take=take) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("val loss 1e-05", 1e-5),
        ("val loss 1.25.", 1.25),
        ("10%\rval loss 0.5\r20%", 0.5),
        ("val loss 0.25, val loss 0.125", 0.125),
    ],
)
def test_the_whole_number_counts(tmp_path: Path, text: str, value: float) -> None:
    assert read(tmp_path, text, pattern="val loss ([0-9.]+)") == value


@pytest.mark.parametrize(
    ("word", "take"), [("nan", "last"), ("NaN", "min"), ("-inf", "last"), ("inf", "max")]
)
def test_a_run_that_diverges_is_not_its_last_good_line(tmp_path: Path, word: str, take: str) -> None:
    with pytest.raises(NoMetric) as told:
        read(tmp_path, f"val loss 1.0\nval loss {word}\n", pattern="val loss ([0-9.]+)", take=take)
    assert told.value.cause == "nan"


def test_a_missing_metric_names_its_pattern(tmp_path: Path) -> None:
    with pytest.raises(
        NoMetric, match=r"no line of the output matches pattern 'val loss \(\[0-9.\]\+\)'"
    ) as told:
        read(tmp_path, "train loss 1.0\n", pattern="val loss ([0-9.]+)")
    assert told.value.cause == "no_metric" and told.value.numbers["metric"] == "loss"


def test_the_whole_output_is_searched_not_its_end(tmp_path: Path) -> None:
    assert read(tmp_path, "val loss 0.75\n" + "x" * 80 + "\n" * 200_000, pattern="val loss ([0-9.]+)") == 0.75


def test_a_line_is_cut(tmp_path: Path) -> None:
    with pytest.raises(NoMetric):
        read(tmp_path, "y" * (LINE + 10) + "val loss 0.1", pattern="val loss ([0-9.]+)")


def test_a_pattern_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluators.judge.script_metrics.PATTERN_S", 0.3)
    began = time.monotonic()
    with pytest.raises(NoMetric, match="took more than"):
        read(tmp_path, "a" * 40 + "!\n", pattern="^(?:a+)+([0-9])$")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("file", "text", "key", "take", "value"),
    [
        ("m.json", '{"val": {"loss": 0.5}}', "val.loss", "last", 0.5),
        ("m.json", '{"loss": [3, 2, 1]}', "loss", "first", 3.0),
        ("m.json", '[{"loss": 1}, {"loss": 2}]', "-1.loss", "last", 2.0),
        ("m.jsonl", '{"loss": 3}\n\n{"acc": 1}\n{"loss": 1}\n{"loss": 2}\n', "loss", "min", 1.0),
        ("m.csv", "epoch,loss\n1,0.75\n2,0.5\n", "loss", "last", 0.5),
        ("m.tsv", "epoch\tloss\n1\t0.75\n", "loss", "last", 0.75),
    ],
)
def test_files(tmp_path: Path, file: str, text: str, key: str, take: str, value: float) -> None:
    assert read(tmp_path, "", {file: text}, file=file, key=key, take=take) == value


@pytest.mark.parametrize(
    ("text", "cause", "words"),
    [
        ('{"loss": NaN}', "nan", "nan"),
        ('{"loss": 1e999}', "nan", "inf"),
        ('{"loss": true}', "no_metric", "not a number"),
        ('{"loss": "good"}', "no_metric", "not a number"),
        ('{"lass": 1}', "no_metric", "has no 'loss'"),
        ('{"loss": ', "no_metric", "not readable"),
        ("[" * 100_000, "no_metric", "not readable"),
    ],
)
def test_files_that_give_no_number(tmp_path: Path, text: str, cause: str, words: str) -> None:
    with pytest.raises(NoMetric, match=words) as told:
        read(tmp_path, "", {"m.json": text}, file="m.json", key="loss")
    assert told.value.cause == cause


def test_a_file_that_is_not_there_says_what_is(tmp_path: Path) -> None:
    with pytest.raises(NoMetric, match=r"left no m.json in \{out\}; there is other.txt"):
        read(tmp_path, "", {"other.txt": "x"}, file="m.json", key="loss")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"pattern": "loss"}, "has 0 groups"),
        ({"pattern": "(a)(b)"}, "has 2 groups"),
        ({"pattern": "("}, "no regular expression"),
        ({}, "exactly one of pattern, file"),
        ({"file": "../m.json", "key": "a"}, "inside {out}"),
        ({"file": "m.txt", "key": "a"}, "must end in one of"),
        ({"file": "m.json"}, "needs a key"),
    ],
)
def test_what_a_metric_may_be(given: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        metric(**given)
