"""A stored calibration: which campaign it counts for, and what is refused."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import workbench as wb

from evaluators.judge import judge_client
from flows.engine.campaign_config import seeds_from
from flows.environments.loading import Environment
from flows.measure.calibrate import Calibration, calibration_path, load, matching, save, summary
from lineage.errors import UsageError
from lineage.ids import canonical_json, sha256
from lineage.records import Check

SECRET, SOURCE = "ab" * 16, "5" * 64
TOY = Environment(wb.blobs().model_copy(update={"name": "toy"}), Path("/somewhere/toy"), {})


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKEOFF_HOME", str(tmp_path))


def calibration(**changes: Any) -> Calibration:
    base: dict[str, Any] = {
        "environment": "toy", "metric": "accuracy", "scores": (0.90, 0.92, 0.91),
        "seeds": seeds_from(SECRET, SOURCE, "calibrate", 3), "secret": SECRET,
        "quantities": ({"accuracy": 0.90}, {"accuracy": 0.92}, {"accuracy": 0.91}),
        "gates": (Check(name="accuracy >= 0.5 (mean)", passed=True, detail="mean 0.91 over 3 runs, limit 0.5"),),
        "cpu_seconds": 1.5, "load_start": 0.1, "load_end": 0.2, "source_sha256": SOURCE,
        "environment_sha256": "e" * 64, "evaluator_sha256": judge_client.evaluator_sha256(), "isolation": "strong",
        "machine": judge_client.machine_identity(), "accelerator": "", "bakeoff_version": "1",
        "measured_at": datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
    }  # fmt: skip
    return Calibration.model_validate({**base, **changes})


def ask(notes: list[str] | None = None, **changes: str) -> Calibration | None:
    here = {"source_sha256": SOURCE, "environment_sha256": "e" * 64, "isolation": "strong", **changes}
    here.setdefault("accelerator", "")
    return matching(TOY, told=(notes if notes is not None else []).append, **here)


def test_it_comes_back_as_it_was_written_and_its_hash_is_of_its_canonical_json() -> None:
    assert load(TOY) is None
    assert ask() is None
    written = calibration()
    path = save(written, TOY)
    assert ask() == load(TOY) == written
    held = json.loads(path.read_text())
    assert held["sha256"] == sha256(canonical_json(held["calibration"])) == sha256(written.bytes)
    assert [p.name for p in path.parent.iterdir()] == [f"toy-{TOY.origin}.json"]


@pytest.mark.parametrize(
    ("key", "value"), [("scores", [0.90, 0.92, 0.95]), ("machine", "a faster one"), ("cpu_seconds", 1.0)]
)
def test_an_altered_one_is_refused(key: str, value: object) -> None:
    path = save(calibration(), TOY)
    held = json.loads(path.read_text())
    held["calibration"][key] = value
    path.write_text(json.dumps(held))
    with pytest.raises(UsageError, match=r"was altered.*bakeoff calibrate toy"):
        ask()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"sha256": "x"}', '{"sha256": "x", "calibration": {"machine": 3}}']
)
def test_a_damaged_file_is_one_sentence(text: str) -> None:
    calibration_path(TOY).parent.mkdir(parents=True)
    calibration_path(TOY).write_text(text)
    with pytest.raises(UsageError, match="not a calibration as it was written"):
        ask()


def test_another_machine_is_refused_and_both_are_named() -> None:
    save(calibration(machine="Abacus 1, 4 cores"), TOY)
    with pytest.raises(UsageError) as caught:
        ask()
    text = str(caught.value)
    assert (
        "Abacus 1, 4 cores" in text
        and judge_client.machine_identity() in text
        and "bakeoff calibrate toy" in text
    )


@pytest.mark.parametrize(
    ("stored", "asked", "word"),
    [
        ({}, {"source_sha256": "6" * 64}, "source"),
        ({}, {"environment_sha256": "f" * 64}, "environment"),
        ({}, {"isolation": "medium"}, "isolation"),
        ({"evaluator_sha256": "0" * 64, "machine": "elsewhere"}, {}, "judge"),
    ],
)
def test_one_of_something_else_is_passed_over_with_a_note(
    stored: dict[str, str], asked: dict[str, str], word: str
) -> None:
    save(calibration(**stored), TOY)
    notes: list[str] = []
    assert ask(notes, **asked) is None
    assert len(notes) == 1 and f"of another {word} and is not used" in notes[0]


def test_a_start_that_missed_its_own_rule_is_refused() -> None:
    missed = Check(name="accuracy >= 0.95 (mean)", passed=False, detail="mean 0.91 over 3 runs, limit 0.95")
    save(calibration(gates=(missed,)), TOY)
    with pytest.raises(UsageError, match=r"does not pass its own rules.*mean 0\.91 over 3 runs, limit 0\.95"):
        ask()


def test_the_figures_are_the_students() -> None:
    found = summary(calibration())
    assert found["mean"] == pytest.approx(0.91) and found["sd"] == pytest.approx(0.01)
    half = 4.30265 * 0.01 / math.sqrt(3)  # t(0.975, 2) = 4.30265
    assert (found["mean_low"], found["mean_high"]) == (pytest.approx(0.91 - half), pytest.approx(0.91 + half))
    assert "secret" not in found and found["passed"] is True


def test_one_that_was_stored_by_its_name_alone_counts_where_its_environment_is_this_one(
    tmp_path: Path,
) -> None:
    """As earlier versions stored it; another project may have had the name."""
    written = calibration()
    earlier = save(written, TOY)
    earlier.rename(earlier.with_name("toy.json"))
    assert ask() == written and load(TOY) is None
    notes: list[str] = []
    assert ask(notes, environment_sha256="f" * 64) is None and not notes
