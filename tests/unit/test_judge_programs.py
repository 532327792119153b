"""judge.py and the engine's own judge functions: what `ask` sends and checks, what may be returned, whose fault is whose."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import judged_environments as je
import numpy as np
import pytest
import quick
import workbench as wb
from sklearn import metrics as sk

from evaluators.judge import classification_metrics, judge_client, judge_program, task_judges
from evaluators.judge.ask import Ask, Orders, Transcript
from evaluators.judge.judge_client import Bench
from evaluators.judge.predictor_pipes import Broken, Wanted
from evaluators.judge.sandbox.prove_level import best
from evaluators.statistics.confirmation import Attempt, Confirmed, next_step, plan_for
from evaluators.statistics.noise import pooled
from flows.environments.loading import read_environment
from lineage.errors import DataMissing, JudgeFault
from lineage.ids import sha256

SPEC = {
    "score": {"metric": "found", "direction": "max", "unit": ""},
    "task": {"kind": "judge", "batch": 7},
}
JUDGE = """
import numpy as np

def judge(ask, split, seed):
    x, labels = np.load(split / "inputs.npy"), np.load(split / "labels.npy")
    hits = ask(x, shape=(3,)).argmax(axis=1) == labels
    return {"found": hits, "seed": float(seed)}
"""


def judged(folder: Path, judge: str = JUDGE, **changes: Any) -> Bench:
    """The blobs of `workbench`, judged by a judge.py."""
    (folder / "judge.py").parent.mkdir(parents=True, exist_ok=True)
    (folder / "judge.py").write_text(judge)
    bench = wb.classification(folder, **(SPEC | {"judge_sha256": sha256(judge.encode())} | changes))
    return replace(bench, judge_file=folder / "judge.py")


class Echo:
    """Answers each row with its first number, and notes the requests."""

    def __init__(self) -> None:
        self.requests: list[list[float]] = []

    def ask_for(self, parts: Sequence[np.ndarray], wanted: Wanted) -> np.ndarray:
        self.requests.append(parts[0].reshape(len(parts[0]), -1)[:, 0].tolist())
        first = parts[0].reshape(len(parts[0]), -1)[:, 0]
        answer = np.empty((len(first), *wanted.shape), dtype=wanted.dtype)
        answer.T[...] = first
        return answer

    def ask_for_texts(self, texts: Sequence[str], wanted: Wanted) -> list[str]:
        return [text.upper() for text in texts]


def test_rows_go_out_in_a_secret_order_and_come_back_in_the_callers() -> None:
    echo = Echo()
    ask = Ask(echo, Orders(batch=10), Transcript())
    x = np.arange(95, dtype=np.float32)
    assert np.array_equal(ask(x)[:, 0], x)
    sent = [row for request in echo.requests for row in request]
    assert sorted(sent) == x.tolist() != sent and max(map(len, echo.requests)) == 10
    assert np.array_equal(ask((x, x[:, None, None]), shape=(), dtype="int64"), x.astype(int))
    assert ask.text(["a", "b", "c"]) == ["A", "B", "C"]
    for wrong in (np.array(["a"]), np.zeros(0), np.array([1j]), (np.zeros(2), np.zeros(3))):
        with pytest.raises(ValueError, match="ask"):
            ask(wrong)


def test_a_fault_of_the_candidate_cannot_be_caught_by_the_judge() -> None:
    class Nan(Echo):
        def ask_for(self, parts: Sequence[np.ndarray], wanted: Wanted) -> np.ndarray:
            return np.full((len(parts[0]), *wanted.shape), np.nan)

    def careless(ask: Ask, split: Path, seed: int) -> dict[str, float]:
        try:
            ask(np.zeros(3))
        except Exception:
            pass
        return {"found": 1.0}

    with pytest.raises(Broken) as caught:
        judge_program.Program(careless).run(Ask(Nan(), Orders(2), Transcript()), Path(), 1)
    assert caught.value.rule == "nan"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (3.0, "need a dict"),
        ({}, "need a dict"),
        ({"cpu_seconds": 1.0}, "a name of the engine's own"),
        ({"two words": 1.0}, "no plain name"),
        ({"x": "much"}, "need a number"),
        ({"x": np.zeros((2, 2))}, "need one axis"),
        ({"x": (np.zeros(2), np.zeros(3))}, "need one axis"),
        ({"x": (np.zeros(2), np.zeros(2))}, "not all zero"),
        ({"x": np.array(["a"])}, "need numbers"),
    ],
)
def test_what_may_not_be_returned_is_named(given: object, said: str) -> None:
    with pytest.raises(JudgeFault, match=said):
        judge_program.returned(given)


def test_items_are_arrays_and_their_mean_is_the_quantity() -> None:
    found = judge_program.returned(
        {
            "mean": np.array([1.0, 2.0, 6.0]),
            "share": (np.array([0.0, 1.0]), np.array([3, 1])),
            "plain": np.float32(2),
        }
    )
    assert found.quantities == {"mean": 3.0, "share": 0.25, "plain": 2.0}
    assert sorted(found.items) == ["mean", "share"] and len(found.items["mean"]) == 3
    with pytest.raises(Broken, match="is inf"):
        judge_program.returned({"x": math.inf})


def test_a_judge_py_measures_a_run_in_the_judges_own_process(tmp_path: Path) -> None:
    bench = judged(tmp_path)
    source = wb.write(tmp_path / "source", wb.CLASSIFIER)
    smoke = judge_client.smoke(bench, source)
    assert smoke.passed, smoke.detail
    run = judge_client.train(bench, source, 5, tmp_path / "out")
    kept: list[bytes] = []
    found = judge_client.judge(
        bench, source, [(run, tmp_path / "out")], trial="t1", purpose="screen", keep=kept.append
    )
    assert found.score is not None and found.score > 0.9 and kept
    assert found.quantities["predict_cpu_seconds"] > 0
    seed = found.quantities["seed"]
    assert seed not in (5, 1) and seed == int(seed), (
        "training knows its own seed, so the judge draws with another"
    )
    again = judge_client.judge(bench, source, [(run, tmp_path / "out")], trial="t1", purpose="screen")
    assert again.per_seed[0].answers_sha256 == found.per_seed[0].answers_sha256
    assert again.quantities["seed"] == seed


def test_a_changed_judge_py_is_refused_by_name(tmp_path: Path) -> None:
    bench = judged(tmp_path)
    source = wb.write(tmp_path / "source", wb.CLASSIFIER)
    run = judge_client.train(bench, source, 5, tmp_path / "out")
    other = judged(tmp_path / "twin", JUDGE + "\n# other\n")
    assert judge_client.environment_sha256(bench.spec, bench.data) != judge_client.environment_sha256(
        other.spec, bench.data
    )
    (tmp_path / "judge.py").write_text(JUDGE.replace("hits,", "1.0,"))
    with pytest.raises(DataMissing, match=r"judge\.py: was changed"):
        judge_client.judge(bench, source, [(run, tmp_path / "out")], trial="t1", purpose="screen")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("    return {'found': 1.0 / 0}", r"judge\.py line 6 \(`return .*ZeroDivisionError"),
        ("    return {'found': 1.0}", "without asking"),
        ("    import nowhere", r"line 6 .*ModuleNotFoundError"),
        ("    raise SystemExit(0)", r"line 6 .*SystemExit"),
        ("  return", r"IndentationError"),
    ],
)
def test_a_fault_of_judge_py_names_its_line_and_is_nobody_elses(
    tmp_path: Path, broken: str, said: str
) -> None:
    lines = JUDGE.splitlines()[:5]
    bench = judged(tmp_path, "\n".join([*lines, broken]) + "\n")
    with pytest.raises(JudgeFault, match=said):
        judge_client.rehearse(bench)


def test_a_rehearsal_gives_names_and_no_label(tmp_path: Path) -> None:
    found = judge_client.rehearse(judged(tmp_path))
    assert found.quantities == ("found", "seed") and found.items == ("found",)
    assert found.shape == (3,) and [part.row for part in found.parts] == [(4,)] and found.rows == 7


@pytest.mark.parametrize(
    ("predict", "said"),
    [
        ("return [1.0] * len(inputs)", "predict returned list, need numpy.ndarray"),
        ("return np.zeros((len(inputs), 3))", "predict returned float64, need float32"),
        ("return np.zeros(len(inputs), np.float32)", "need (7, 3)"),
    ],
)
def test_a_wrong_answer_fails_the_smoke_test_in_a_sentence(tmp_path: Path, predict: str, said: str) -> None:
    bench = judged(tmp_path)
    files = {**wb.CLASSIFIER}
    files["predict.py"] = (
        files["predict.py"].split("def predict")[0] + f"def predict(model, inputs):\n    {predict}\n"
    )
    check = judge_client.smoke(bench, wb.write(tmp_path / "source", files))
    assert not check.passed and said in check.detail, check.detail


# ---- the engine's own judge functions ----


def rows(folder: Path, targets: np.ndarray) -> Path:
    folder.mkdir()
    np.save(folder / "inputs.npy", np.random.default_rng(0).random((len(targets), 2)).astype(np.float32))
    np.save(folder / "targets.npy", targets)
    return folder


def test_regression_is_what_scikit_learn_says_and_a_mean_of_items(tmp_path: Path) -> None:
    targets = np.random.default_rng(1).normal(5, 2, 50)
    split = rows(tmp_path / "s", targets)
    predicted = np.load(split / "inputs.npy")[:, 0]
    given = task_judges.regression(Ask(Echo(), Orders(9), Transcript()), split, 1)
    found = judge_program.returned(given)
    assert found.quantities["rmse"] == pytest.approx(sk.root_mean_squared_error(targets, predicted))
    assert found.quantities["mae"] == pytest.approx(sk.mean_absolute_error(targets, predicted))
    assert found.quantities["r2"] == pytest.approx(sk.r2_score(targets, predicted))
    assert all(len(items) == 50 for items in found.items.values())


def test_float_targets_are_never_cut_to_whole_numbers(tmp_path: Path) -> None:
    bench = wb.classification(tmp_path)
    path = bench.data / "public" / "labels.npy"
    np.save(path, np.load(path) + 0.5)
    from evaluators.judge.question_kinds import questions

    with pytest.raises(DataMissing, match='use \\[task\\] kind = "regression"'):
        questions(bench.spec, bench.data / "public")


def test_word_error_rate_counts_edits_over_the_words_of_the_references(tmp_path: Path) -> None:
    assert task_judges.edits("kitten", "sitting") == 3
    assert task_judges.edits([], "abc") == 3 == task_judges.edits("abc", [])
    rng = np.random.default_rng(3)
    for _ in range(50):
        one, other = (rng.integers(0, 3, rng.integers(0, 9)).tolist() for _ in range(2))
        table = {(i, 0): i for i in range(len(one) + 1)} | {(0, j): j for j in range(len(other) + 1)}
        for i, x in enumerate(one, 1):
            for j, y in enumerate(other, 1):
                table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (x != y))
        assert task_judges.edits(one, other) == table[len(one), len(other)]
    (tmp_path / "inputs.json").write_text(json.dumps(["a b", "c"]))
    (tmp_path / "references.json").write_text(json.dumps(["A x y", "C"]))
    found = judge_program.returned(task_judges.text(Ask(Echo(), Orders(9), Transcript()), tmp_path, 20))
    assert found.quantities["word_error_rate"] == 2 / 4 and found.quantities["exact_match"] == 0.5


@pytest.mark.parametrize("classes", [2, 4])
def test_more_of_a_classification_is_what_scikit_learn_says(classes: int) -> None:
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 300)
    answers = rng.normal(0, 1, (300, classes)) + 1.5 * np.eye(classes)[labels]
    shares = np.exp(answers) / np.exp(answers).sum(axis=1, keepdims=True)
    means = {name: float(of(answers, labels).means[0]) for name, of in classification_metrics.MORE.items()}
    assert means["macro_f1"] == pytest.approx(sk.f1_score(labels, answers.argmax(axis=1), average="macro"))
    assert means["log_loss"] == pytest.approx(sk.log_loss(labels, shares))
    area = sk.roc_auc_score(labels, shares[:, 1] if classes == 2 else shares, multi_class="ovr")
    assert means["auroc"] == pytest.approx(area)


def test_items_of_auroc_scatter_as_delong_says() -> None:
    """The spread of the area over 400 draws, against the mean of the items' own standard error."""
    rng, areas, errors = np.random.default_rng(8), [], []
    for _ in range(400):
        labels = rng.integers(0, 2, 120)
        answers = np.stack([np.zeros(120), rng.normal(labels, 1.0)], axis=1)
        items = classification_metrics.auroc(answers, labels)
        areas.append(items.means[0])
        errors.append(items.values[0].std() / math.sqrt(120))
    assert np.mean(errors) == pytest.approx(np.std(areas), rel=0.15)


def test_a_campaign_refuses_names_that_the_judge_does_not_give(tmp_path: Path) -> None:
    made = je.regression(tmp_path / "recipes", metric="msle")
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")
    quick.bakeoff("prepare", "friedman", env=env, cwd=tmp_path)
    for command in (("calibrate", "friedman"), ("run", "friedman", "--run", "r", "--trials", "1")):
        said = quick.call(*command, env=env, cwd=tmp_path)
        assert (
            said.returncode == 2 and "[score] metric is 'msle', but the judge gives mse, rmse" in said.stderr
        )
        assert len(said.stderr.strip().splitlines()) == 1 and not (tmp_path / "r").exists()
    settings = made / "environment.toml"
    settings.write_text(settings.read_text().replace('"judge"', '"regression"\noutputs = 1'))
    said = quick.call("calibrate", "friedman", env=env, cwd=tmp_path)
    assert said.returncode == 2 and "a regression has no 'msle'" in said.stderr and "mse" in said.stderr


FULL = """
def train(data, out, seed):
    with open(out / "weights.bin", "wb") as sink:
        try:
            while True:
                sink.write(bytes(1 << 16))
                sink.flush()
        except OSError:
            pass
    raise RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 64 vs 0")
"""


def test_an_artifact_far_over_its_cap_is_named_whatever_a_library_makes_of_it(tmp_path: Path) -> None:
    bench = judged(tmp_path)
    if not bench.isolation.tools.bwrap:
        pytest.skip("the output folder has a size of its own only with bubblewrap")
    run = judge_client.train(
        bench, wb.write(tmp_path / "source", {**wb.CLASSIFIER, "train.py": FULL}), 5, tmp_path / "out"
    )
    assert run.cause == "oversize" and "the artifact is over its cap" in run.facts.exception


@pytest.mark.parametrize(
    ("make", "name", "metric"), [(je.regression, "friedman", "mse"), (je.text, "spelling", "wer")]
)
def test_measure_py_computes_the_judge_s_figure_again(
    tmp_path: Path, make: Any, name: str, metric: str
) -> None:
    """Without the engine: `recipes/measure.py`, for the same seed as a run of the engine's."""
    made, data = make(tmp_path), tmp_path / "data"
    subprocess.run([sys.executable, made / "prepare.py", "--out", data], check=True)
    environment = read_environment(made)
    bench = Bench(environment.spec, data, best(), tmp_path / "scratch", judge_file=environment.judge_file)
    source = made / "source"
    run = judge_client.train(bench, source, 4, tmp_path / "out")
    found = judge_client.judge(bench, source, [(run, tmp_path / "out")], trial="t1", purpose="screen")
    program = quick.ROOT / "recipes" / "measure.py"
    said = subprocess.run(
        [sys.executable, program, made, "--data", data, "--only-seed", "4"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(said.stdout.splitlines()[-1])[metric] == pytest.approx(found.score, rel=1e-6)


def test_without_scatter_and_without_items_no_gain_is_confirmed() -> None:
    """A start that ignores its seed, and a judge.py that returns plain numbers: nothing to compare a gain with."""
    spec = wb.blobs(**SPEC)
    attempt = Attempt(0.05, pooled([(0.5, 0.5, 0.5)]), candidate=(0.9, 0.9), incumbent=(0.5,) * 8, pool=())
    for has_items, metric, confirmed in ((False, "found", False), (False, "total_bytes", True)):
        score = spec.score.model_copy(update={"metric": metric})
        plan = plan_for(spec.model_copy(update={"score": score}), has_items=has_items)
        assert not plan.has_items and isinstance(next_step(attempt, plan), Confirmed) is confirmed
    assert plan_for(spec).has_items


TOUCHY = JUDGE.replace(
    "    return", "    if hits.mean() > 0.9:\n        raise RuntimeError('too good')\n    return"
)


def test_an_answer_that_judge_py_does_not_stand_is_judge_py_s_fault_and_no_score(tmp_path: Path) -> None:
    bench = judged(tmp_path, TOUCHY)
    source = wb.write(tmp_path / "source", wb.CLASSIFIER)
    run = judge_client.train(bench, source, 5, tmp_path / "out")
    with pytest.raises(JudgeFault, match=r"judge\.py line 8 .*RuntimeError: too good"):
        judge_client.judge(bench, source, [(run, tmp_path / "out")], trial="t1", purpose="screen")
