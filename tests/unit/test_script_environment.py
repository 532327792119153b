"""Environments of scripts as a person writes them: what is refused, with which sentence, and before anything runs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import quick
import script_recipe as sr

from flows.environments.script_checks import imported_files
from flows.measure.calibrate import Calibration, advice
from flows.measure.verify import _trust
from lineage.environment_spec import EnvironmentSpec
from lineage.records import Measurement, Row


def prepared(tmp_path: Path, kind: str, **changed: str) -> tuple[dict[str, str], Path]:
    place = sr.write(tmp_path / "recipes", kind)
    for path, text in changed.items():
        (place / "source" / f"{path}.py").write_text(text)
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")
    return env, place


def told(tmp_path: Path, kind: str, *arguments: str, **changed: str) -> tuple[int, str]:
    env, _ = prepared(tmp_path, kind, **changed)
    assert quick.call("prepare", "line", env=env, cwd=tmp_path).returncode in (0, 2)
    done = quick.call("run", "line", "--trials", "1", "--run", "run", *arguments, env=env, cwd=tmp_path)
    assert not (tmp_path / "run").exists() and len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("kind", "old", "new", "words"),
    [
        (sr.REPORTED, "val loss ([0-9.]+)", "val loss [0-9.]+", "has 0 groups"),
        (sr.REPORTED, 'name = "loss"', 'name = "lass"', "no quantity named 'loss'; known: "),
        (sr.REPORTED, 'name = "loss"', 'name = "cpu_seconds"', "measured by Bakeoff itself"),
        (sr.EVALUATED, "{out}", "{out} {seed}", "evaluate: {seed} is not known there"),
        (
            sr.EVALUATED,
            'protected = ["evaluate.py", "data/**"]',
            "",
            "which candidates may edit; add it to protected",
        ),
        (
            sr.EVALUATED,
            '"evaluate.py"',
            '"evaluate.py", "model.py"',
            "model.py is protected, so no surface may have it",
        ),
        (sr.EVALUATED, '"evaluate.py"', '"evaluate.py", "nosuch.py"', "'nosuch.py', which no file matches"),
        (sr.EVALUATED, "python evaluate.py", "python score.py", "evaluate runs score.py, which is not there"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(
    tmp_path: Path, kind: str, old: str, new: str, words: str
) -> None:
    assert old in kind
    code, said = told(tmp_path, kind.replace(old, new, 1))
    assert code == 2 and words in said, said


def test_an_evaluator_may_not_import_what_candidates_edit(tmp_path: Path) -> None:
    code, said = told(tmp_path, sr.EVALUATED, evaluate="from model import predicted\n" + sr.EVALUATE)
    assert code == 2 and "evaluate.py imports model.py, which candidates may edit" in said, said


@pytest.mark.parametrize(
    ("kind", "wanted", "words"),
    [
        (sr.REPORTED, "evaluated", "its scores are reported"),
        (sr.EVALUATED, "judged", "its scores are evaluated"),
    ],
)
def test_less_trust_than_asked_for_is_refused(tmp_path: Path, kind: str, wanted: str, words: str) -> None:
    code, said = told(tmp_path, kind, "--trust", wanted)
    assert code == 2 and words in said and f"--trust asks for {wanted}" in said


def calibration(scores: tuple[float, ...], spec: EnvironmentSpec) -> Calibration:
    return Calibration(
        environment=spec.name, metric="loss", scores=scores, seeds=(1, 2, 3), secret="", quantities=(), gates=(),
        cpu_seconds=1, load_start=0, load_end=0, source_sha256="", environment_sha256="", evaluator_sha256="",
        isolation="strong", machine="m", accelerator="", bakeoff_version="0", measured_at=datetime.now(UTC),
    )  # fmt: skip


def test_a_seed_that_changes_nothing_is_said() -> None:
    spec = sr.spec()
    same = "the seed changes nothing: {seed} is not used, or the recipe is deterministic"
    assert advice(calibration((0.5, 0.5, 0.5), spec), spec) == [same]
    assert advice(calibration((0.5, 0.5, 0.50001), spec), spec) == []


def test_the_prompt_says_what_a_script_is() -> None:
    from agents.llm.prompt import environment_section

    text = environment_section(sr.spec())
    assert (
        "`python train.py --seed={seed} --out={out}`" in text
        and "by a program that you cannot change" in text
    )
    assert "protected, not yours to change: evaluate.py, data/**" in text and "predict.py" not in text
    assert "is tampering" in environment_section(sr.spec(sr.REPORTED)) and "is tampering" not in text


def test_data_that_have_changed_are_prepared_anew(tmp_path: Path) -> None:
    """Without prepare.py the data are found by the files that they are copies of."""
    env, place = prepared(tmp_path, sr.EVALUATED)
    assert quick.call("prepare", "line", env=env, cwd=tmp_path).returncode == 0
    again = quick.call("prepare", "line", env=env, cwd=tmp_path)
    assert again.returncode == 0 and "preparing" not in again.stderr
    (place / "source" / "data" / "points.csv").write_text(sr.points(150, 3))
    said = quick.call("run", "line", "--trials", "1", "--run", "run", env=env, cwd=tmp_path)
    assert said.returncode == 2 and "run: bakeoff prepare line" in said.stderr
    assert "preparing" in quick.call("prepare", "line", env=env, cwd=tmp_path).stderr


def test_verify_finds_a_row_or_a_measurement_that_claims_more_trust() -> None:
    config = SimpleNamespace(spec=sr.spec(sr.REPORTED))
    honest = Row(event="trial", campaign="c", trial="t0001", trust="reported", measurement_sha256="a")
    forged = honest.model_copy(update={"trust": "judged", "measurement_sha256": None})
    made = Measurement(
        trial="t0001", purpose="screen", metric="loss", score=1.0, per_seed=(), source_sha256="", environment_sha256="",
        evaluator_sha256="", isolation="strong", machine="m", measured_at=datetime.now(UTC), trust="reported",
    )  # fmt: skip
    assert list(_trust([honest], config, lambda _: made)) == []  # type: ignore[arg-type]
    (found,) = _trust([forged], config, lambda _: made)  # type: ignore[arg-type]
    assert "trust recorded as judged, the environment gives reported" in str(found)
    better = made.model_copy(update={"trust": "evaluated"})
    assert len(list(_trust([honest], config, lambda _: better))) == 1  # type: ignore[arg-type]


def test_verify_finds_a_champion_that_spared_itself_the_sealed_split() -> None:
    config = SimpleNamespace(spec=sr.spec(sr.SEALED))
    row = Row(
        event="confirmation",
        campaign="c",
        trial="t1",
        trust="evaluated",
        detail_json='{"no_sealed_split": true}',
    )
    (found,) = _trust([row], config, lambda _: None)  # type: ignore[arg-type]
    assert "recorded as without a sealed split" in str(found)


def test_what_a_program_imports_is_followed_through_packages() -> None:
    files = {
        "a.py": b"import nets.net\nfrom tools import read\n",
        "nets/__init__.py": b"",
        "nets/net.py": b"from . import parts\nfrom .more import x\n",
        "nets/parts.py": b"",
        "nets/more.py": b"def f():\n    import late\n",
        "late.py": b"",
        "tools/__init__.py": b"",
        "tools/read.py": b"import json, numpy\n",
        "other.py": b"",
    }
    assert imported_files("a.py", files) == set(files) - {"a.py", "other.py"}
