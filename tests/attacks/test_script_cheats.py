"""Five cheats of a script: what is prevented is prevented, and what cannot be is labelled `reported`."""

from __future__ import annotations

from pathlib import Path

import pytest
import script_recipe as sr

from agents.edits.role_surface import check_surface
from evaluators.statistics.label import label
from lineage.environment_spec import Role
from lineage.errors import EditRefused

SCORE = "{np.mean((predicted(x, weights) - y) ** 2):.6f}"
PRINTS = {"train.py": sr.TRAIN + 'print("val loss 0.000001")\nprint("held-out loss 0.000001")\n'}
EARLY = {
    "train.py": sr.TRAIN.replace(
        "rng = np",
        'os.makedirs(options.out, exist_ok=True)\nopen(options.out + "/metrics.json", "w").write(\'{"val": {"loss": 0}}\')\nrng = np',
        1,
    ).rpartition("with open(os.path.join(options.out")[0]
}
SEED = {
    "train.py": sr.TRAIN.replace("STEPS = 40", "STEPS = 0")
    + 'print(f"val loss {0.0001 if options.seed else 1}")\n'
}
FROM_FILE = '\n[[task.metrics]]\nname = "loss"\nfile = "metrics.json"\nkey = "val.loss"\n'
ROLE = Role(name="training", surfaces=("training",), brief="b")


def honest(folder: Path, kind: str) -> float:
    bench, source = sr.bench(folder, kind)
    measured = sr.run(bench, source, folder / "honest")[1]
    assert measured is not None and measured.score is not None
    return measured.score


def cheated(folder: Path, kind: str, change: dict[str, str]) -> tuple[float | None, str, str | None]:
    """Score, trust and cause of the start with these files in place of its own."""
    bench, source = sr.bench(folder, kind)
    run, measured = sr.run(bench, {**source, **change}, folder / "cheat")
    if measured is None:
        return None, bench.spec.trust, run.cause
    return measured.score, measured.trust, measured.per_seed[0].cause


def test_printing_a_better_metric_is_without_effect_where_a_protected_program_scores(tmp_path: Path) -> None:
    score, trust, _ = cheated(tmp_path / "c", sr.EVALUATED, PRINTS)
    assert trust == "evaluated" and score == honest(tmp_path / "h", sr.EVALUATED)


def test_printing_a_better_metric_works_where_the_recipe_reports_and_is_labelled_so(tmp_path: Path) -> None:
    score, trust, _ = cheated(tmp_path, sr.REPORTED, PRINTS)
    assert score == 0.000001 and trust == "reported"


def test_an_edit_of_a_protected_file_is_refused_and_a_changed_one_is_put_back(tmp_path: Path) -> None:
    lies = 'print("held-out loss 0.0")\n'
    before = {name: text.encode() for name, text in sr.files().items() if not name.startswith("data/")}
    with pytest.raises(EditRefused, match=r"evaluate\.py is protected"):
        check_surface(sr.spec(), ROLE, before, {**before, "evaluate.py": lies.encode()})
    with pytest.raises(EditRefused, match=r"data/more\.csv is protected"):
        check_surface(sr.spec(), ROLE, before, {**before, "data/more.csv": b"1,2,3,4\n"})
    bench, source = sr.bench(tmp_path / "b")
    _, measured = sr.run(bench, {**source, "evaluate.py": lies, "data/numpy.py": lies}, tmp_path / "cheat")
    assert measured is not None and measured.score == honest(tmp_path / "h", sr.EVALUATED)
    (check,) = (audit for audit in measured.audits if audit.name == "protected")
    assert check.numbers["worst"] == 2 and check.numbers["files"] == 1


def test_a_protected_file_rewritten_during_training_is_without_effect(tmp_path: Path) -> None:
    rewrite = 'open("evaluate.py", "w").write("print(\'held-out loss 0.0\')")\n'
    score, _, _ = cheated(tmp_path / "c", sr.EVALUATED, {"train.py": sr.TRAIN + rewrite})
    assert score == honest(tmp_path / "h", sr.EVALUATED)


def test_a_module_that_the_evaluator_imports_by_name_is_not_there(tmp_path: Path) -> None:
    """A candidate's own numpy.py beside evaluate.py would run inside the evaluator."""
    shadow = {"numpy.py": 'print("held-out loss 0.0")\nraise SystemExit(0)\n'}
    bench, source = sr.bench(tmp_path)
    recipe = {**source, **shadow, "train.py": source["train.py"].replace("import numpy as np\n", "", 1)}
    recipe["train.py"] = (
        "import sys\nhere = sys.path.pop(0)\nimport numpy as np\nsys.path.insert(0, here)\n"
        + recipe["train.py"]
    )
    _, measured = sr.run(bench, recipe, tmp_path / "cheat")
    assert measured is not None and measured.score is not None and measured.score > 0.001


def test_a_metrics_file_written_early_is_without_effect_where_a_protected_program_scores(
    tmp_path: Path,
) -> None:
    score, trust, _ = cheated(tmp_path / "c", sr.EVALUATED, EARLY)
    assert trust == "evaluated" and score == honest(tmp_path / "h", sr.EVALUATED)


def test_a_metrics_file_written_early_counts_where_the_recipe_reports_and_is_labelled_so(
    tmp_path: Path,
) -> None:
    score, trust, _ = cheated(tmp_path, FROM_FILE, EARLY)
    assert score == 0 and trust == "reported"


def test_the_evaluation_data_are_in_no_sandbox_that_trains(tmp_path: Path) -> None:
    read = sr.TRAIN.replace("points.csv", "heldout.csv")
    score, _, cause = cheated(tmp_path / "a", sr.EVALUATED, {"train.py": read})
    assert score is None and cause == "crash"
    # nor anywhere else: every file that can be found is searched for the first held-out row
    wanted = sr.points(100, 2).splitlines()[0]
    places = "('/script', '/release', '/recipe', '/fake', '/tmp', '/out', '/dev/shm')"
    search = (
        f"import os\nfor top in {places}:\n    for base, _, names in os.walk(top):\n        for name in names:\n"
        "            try: data = open(os.path.join(base, name), 'rb').read(1 << 22)\n            except OSError: continue\n"
        f"            if {wanted.encode()!r} in data and not name.endswith('.py'): raise SystemExit('found ' + name)\n"
    )
    score, _, cause = cheated(tmp_path / "b", sr.EVALUATED, {"train.py": search + sr.TRAIN})
    assert cause is None and score is not None


def test_a_hard_coded_result_is_labelled_reported_and_useless_where_a_protected_program_scores(
    tmp_path: Path,
) -> None:
    score, trust, _ = cheated(tmp_path / "r", sr.REPORTED, SEED)
    assert score == 0.0001 and trust == "reported"
    score, trust, _ = cheated(tmp_path / "e", sr.EVALUATED, SEED)
    assert trust == "evaluated" and score is not None and score > 10 * honest(tmp_path / "h", sr.EVALUATED)


def test_a_run_without_its_metric_is_a_crash_that_names_the_pattern(tmp_path: Path) -> None:
    bench, source = sr.bench(tmp_path, sr.REPORTED)
    silent = {**source, "train.py": source["train.py"].replace("val loss", "validation")}
    run, measured = sr.run(bench, silent, tmp_path / "run")
    assert measured is not None and measured.score is None
    decided = label(bench.spec, runs=[run], measurement=measured)
    assert decided.cause == "no_metric" and "val loss ([0-9.]+)" in str(decided.numbers["source"]), (
        decided.text
    )
    assert "matches pattern" in decided.text


def test_output_without_end_is_ended(tmp_path: Path) -> None:
    bench, source = sr.bench(tmp_path, sr.REPORTED)
    flood = {**source, "train.py": "line = 'x' * 4000\nwhile True: print(line)\n"}
    run, _ = sr.run(bench, flood, tmp_path / "run")
    assert run.cause in ("illegal:output", "cpu_cap")


def test_what_a_script_writes_beside_itself_is_gone_in_the_next_run(tmp_path: Path) -> None:
    check = 'import os\nassert not os.path.exists("beside.txt")\n'
    bench, source = sr.bench(tmp_path, sr.REPORTED)
    for name in ("first", "second"):
        run, measured = sr.run(bench, {**source, "train.py": check + sr.TRAIN}, tmp_path / name)
        assert run.cause is None and measured is not None and measured.score is not None


def test_an_artifact_that_the_evaluator_cannot_use_is_the_candidate_s_fault(tmp_path: Path) -> None:
    bench, source = sr.bench(tmp_path)
    wide = {
        **source,
        "train.py": sr.TRAIN.replace('"weights.npy"), weights', '"weights.npy"), np.append(weights, 0)'),
    }
    run, measured = sr.run(bench, wide, tmp_path / "run")
    assert measured is not None and measured.score is None
    decided = label(bench.spec, runs=[run], measurement=measured)
    assert decided.cause == "crash" and "AssertionError: (4,)" in decided.text, decided.text
