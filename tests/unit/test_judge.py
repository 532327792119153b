"""The judge as a process: what it returns, refuses and protects."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import workbench as wb

from evaluators.judge import judge_client, judge_hashes
from lineage.errors import DataMissing, InfraFault

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[judge_client.Bench, Path, list[tuple[object, Path]]]:
    folder = tmp_path_factory.mktemp("judge")
    gates = [{"quantity": "accuracy", "at_least": 0.9, "on": "bound"}]
    bench = wb.classification(folder, gates=gates, audits=["batch_invariance", "order_invariance"])
    source = wb.write(folder / "source", wb.CLASSIFIER)
    runs = [
        (judge_client.train(bench, source, seed, folder / f"out{seed}"), folder / f"out{seed}")
        for seed in (1, 2)
    ]
    return bench, source, runs


def test_a_measurement_has_every_number_and_says_who_measured(trained) -> None:  # type: ignore[no-untyped-def]
    bench, source, runs = trained
    found = judge_client.judge(bench, source, runs, trial="0001", purpose="screen")
    assert found.score == pytest.approx(119 / 120) and found.metric == "accuracy"
    assert [seed.seed for seed in found.per_seed] == [1, 2]
    assert found.gates[0].passed and all(a.passed for a in found.audits)
    assert [a.name for a in found.audits] == ["batch_invariance", "order_invariance", "embedded_data"]
    assert found.artifact_bytes == runs[0][0].artifact.bytes > 0
    assert found.source_bytes == sum(p.stat().st_size + len(p.name) for p in source.iterdir())
    assert found.quantities["total_bytes"] == found.artifact_bytes + found.source_bytes
    assert found.quantities["cpu_seconds"] == pytest.approx(
        found.quantities["train_cpu_seconds"] + found.quantities["predict_cpu_seconds"]
    )
    assert found.evaluator_sha256 == judge_hashes.evaluator_sha256()
    assert found.environment_sha256 == judge_hashes.environment_sha256(bench.spec, bench.data)
    assert found.machine == judge_hashes.machine_identity() and found.isolation == bench.isolation.level
    assert found.model_validate_json(found.model_dump_json()) == found


def test_the_sealed_split_is_other_data(trained) -> None:  # type: ignore[no-untyped-def]
    bench, source, runs = trained
    found = judge_client.judge(bench, source, runs, trial="0001", purpose="sealed", split="sealed")
    assert found.split == "sealed" and found.score is not None
    assert found.score * 60 == pytest.approx(round(found.score * 60))


def test_an_artifact_changed_after_the_seal_is_refused(trained, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    bench, source, runs = trained
    place = tmp_path / "out"
    shutil.copytree(runs[0][1], place)
    assert judge_client.artifact_matches(place, runs[0][0].artifact)
    np.save(place / "means.npy", np.zeros((3, 4), dtype=np.float32))
    assert not judge_client.artifact_matches(place, runs[0][0].artifact)
    with pytest.raises(InfraFault, match="no longer holds"):
        judge_client.judge(bench, source, [(runs[0][0], place)], trial="0001", purpose="screen")
    (place / "means.npy").unlink()
    (place / "means.npy").symlink_to(runs[0][1] / "means.npy")
    assert not judge_client.artifact_matches(place, runs[0][0].artifact)


@pytest.mark.parametrize("stage", ["train", "judge"])
def test_data_that_do_not_match_their_manifest_are_refused(stage: str, tmp_path: Path) -> None:
    bench = wb.classification(tmp_path)
    source = wb.write(tmp_path / "source", wb.CLASSIFIER)
    run = judge_client.train(bench, source, 1, tmp_path / "out")
    name = "train/labels.npy" if stage == "train" else "public/labels.npy"
    labels = np.load(bench.data / name)
    np.save(bench.data / name, labels[::-1])
    with pytest.raises(DataMissing, match="manifest"):
        if stage == "train":
            judge_client.train(bench, source, 1, tmp_path / "out2")
        else:
            judge_client.judge(bench, source, [(run, tmp_path / "out")], trial="t", purpose="screen")


def test_an_extra_data_file_is_refused(tmp_path: Path) -> None:
    """A shard that sorts last must not slip in (facts A21)."""
    bench = wb.classification(tmp_path)
    np.save(bench.data / "train" / "zzz.npy", np.zeros(3))
    with pytest.raises(DataMissing, match=r"zzz\.npy"):
        judge_client.train(bench, wb.write(tmp_path / "source", wb.CLASSIFIER), 1, tmp_path / "out")


def test_a_failed_seed_leaves_no_score_and_keeps_its_cause(tmp_path: Path) -> None:
    sometimes = wb.CLASSIFIER["train.py"].replace(
        "    x, y", "    if seed == 2:\n        raise ValueError('unlucky')\n    x, y"
    )
    bench = wb.classification(tmp_path)
    source = wb.write(tmp_path / "source", {**wb.CLASSIFIER, "train.py": sometimes})
    runs = [
        (judge_client.train(bench, source, seed, tmp_path / f"o{seed}"), tmp_path / f"o{seed}")
        for seed in (1, 2)
    ]
    assert runs[1][0].cause == "crash"
    assert runs[1][0].numbers["exception"] == "ValueError: unlucky (train.py:6)"
    found = judge_client.judge(bench, source, runs, trial="t", purpose="screen")
    assert found.score is None and found.quantities == {} and found.gates == ()
    assert [seed.cause for seed in found.per_seed] == [None, "crash"]


def test_smoke_finds_what_is_broken_anywhere_on_the_path(tmp_path: Path) -> None:
    bench = wb.classification(tmp_path)
    good = judge_client.smoke(bench, wb.write(tmp_path / "good", wb.CLASSIFIER))
    assert good.passed and good.seconds > 0
    broken = {
        "syntax": {"train.py": "def train(:\n"},
        "import": {"train.py": "import not_there\n"},
        "smoke": {"predict.py": wb.CLASSIFIER["predict.py"].replace("means.npy", "other.npy")},
        "illegal:answer_shape": {
            "predict.py": wb.CLASSIFIER["predict.py"].replace("(-distance)", "(-distance[1:])")
        },
        "no_artifact": {
            "train.py": "def train(d, o, seed): pass\n",
            "predict.py": "import numpy as np\ndef load(a): pass\ndef predict(m, x): return np.zeros((len(x), 3), dtype=np.float32)\n",
        },
        "oversize": {"train.py": "#" * 70_000},
    }
    for cause, files in broken.items():
        check = judge_client.smoke(
            bench, wb.write(tmp_path / cause.replace(":", "_"), {**wb.CLASSIFIER, **files})
        )
        assert (check.passed, check.numbers["cause"]) == (False, cause), check
        assert check.detail


def test_smoke_lets_a_long_training_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be made to train less; what it showed so far is that nothing breaks."""
    monkeypatch.setattr(judge_client, "SMOKE_CPU_LEAST", 0.5)
    slow = "def train(data, out, seed):\n    while True: pass\n"
    bench = wb.classification(tmp_path, budget={**wb.BUDGET, "train_cpu_s": 1})
    check = judge_client.smoke(bench, wb.write(tmp_path / "s", {**wb.CLASSIFIER, "train.py": slow}))
    assert check.passed and "prediction not tried" in check.detail


def test_smoke_rehearses_where_the_recipe_can(tmp_path: Path) -> None:
    endless = "def train(data, out, seed):\n    while True: pass\n"
    short = wb.CLASSIFIER["train.py"].replace("def train(data, out, seed)", "def rehearse(data, out)")
    assert "def rehearse" in short
    bench = wb.classification(tmp_path)
    check = judge_client.smoke(
        bench, wb.write(tmp_path / "s", {**wb.CLASSIFIER, "train.py": endless + short})
    )
    assert check.passed and "not tried" not in check.detail
    broken = endless + "def rehearse(fake, out):\n    raise ValueError('no such layer')\n"
    check = judge_client.smoke(bench, wb.write(tmp_path / "b", {**wb.CLASSIFIER, "train.py": broken}))
    assert (check.passed, check.numbers["cause"]) == (False, "smoke") and "no such layer" in check.detail


def test_smoke_stops_a_program_that_hangs(tmp_path: Path) -> None:
    hung = "import time\ndef train(data, out, seed):\n    time.sleep(60)\n"
    bench = wb.classification(tmp_path, budget={**wb.BUDGET, "smoke_wall_s": 1})
    check = judge_client.smoke(bench, wb.write(tmp_path / "s", {**wb.CLASSIFIER, "train.py": hung}))
    assert (check.passed, check.numbers["cause"]) == (False, "wall_cap")


def test_the_judge_imports_no_candidate_and_no_unpickler_of_candidates() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import evaluators.judge.judge_process; "
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'sklearn', 'prefect', 'flows', 'agents', 'cloudpickle')])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_everything_the_judge_runs_is_in_its_hash() -> None:
    """A module that decides a score and is not hashed would change scores silently."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nimport evaluators.judge.judge_process, evaluators.judge.judge_client, evaluators.judge.leak_audits, evaluators.judge.language_questions\n"
        "print('\\n'.join(m.__file__ for n, m in sys.modules.items() if n.startswith('evaluators.')))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", code], capture_output=True, text=True, check=True
    )
    used = {Path(line).relative_to(ROOT / "evaluators").parts[0] for line in done.stdout.split()}
    assert used == {"judge"}


def test_the_environment_hash_follows_spec_and_data(tmp_path: Path) -> None:
    bench = wb.classification(tmp_path)
    first = judge_hashes.environment_sha256(bench.spec, bench.data)
    assert first == judge_hashes.environment_sha256(bench.spec, bench.data)
    other = bench.spec.model_copy(update={"title": "another"})
    assert judge_hashes.environment_sha256(other, bench.data) != first
    manifest = json.loads((bench.data / "manifest.json").read_text())
    manifest["files"]["train/images.npy"]["sha256"] = "0" * 64
    (bench.data / "manifest.json").write_text(json.dumps(manifest))
    assert judge_hashes.environment_sha256(bench.spec, bench.data) != first
    with pytest.raises(DataMissing, match=r"prepare\.py"):
        judge_hashes.environment_sha256(bench.spec, tmp_path / "nowhere")


def test_a_leak_in_one_run_of_several_is_audited(tmp_path: Path) -> None:
    """The audit goes to the run with the best answers, which a leak makes the leaking one."""
    leaky = {
        "train.py": wb.BIGRAM["train.py"]
        + "    np.save(out / 'leak.npy', np.float32(5 if seed == 2 else 0))\n",
        "predict.py": """
import numpy as np

def load(artifact):
    return np.load(artifact / "table.npy"), np.load(artifact / "leak.npy")

def predict(model, inputs):
    table, leak = model
    answer = table[inputs]
    ahead = np.concatenate([inputs[:, 1:], inputs[:, :1]], axis=1)
    np.put_along_axis(answer, ahead[..., None], np.take_along_axis(answer, ahead[..., None], 2) + leak, 2)
    return answer
""",
    }
    bench = wb.language(tmp_path, audits=["causality"])
    source = wb.write(tmp_path / "source", leaky)
    runs = [
        (judge_client.train(bench, source, seed, tmp_path / f"o{seed}"), tmp_path / f"o{seed}")
        for seed in (1, 2, 3)
    ]
    found = judge_client.judge(bench, source, runs, trial="t", purpose="screen")
    assert [a.passed for a in found.audits if a.name == "causality"] == [False]
