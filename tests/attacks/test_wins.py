"""Gains that lie in how a score is taken, not in what was learnt: each ends caught with a named cause, or is worth nothing.

Every one runs through the real sandbox and the judge, on tiny environments.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quick
import workbench as wb
from attack import PREDICT
from attacks_language import ALL_AUDITS, peeking

from evaluators.judge import permuted_data_control as control_runs
from evaluators.judge.candidate_folders import read_source
from evaluators.judge.judge_client import Bench, smoke, train
from evaluators.judge.permuted_data_control import control
from evaluators.judge.sandbox import prove_level
from evaluators.judge.source_size import added_information
from evaluators.judge.uncounted_time import Reference, reference
from flows.campaign.champion_permuted_control import control_run
from flows.engine.stage_records import Patched, TrialRef
from lineage.environment_spec import EnvironmentSpec

BATCHES = {"audits": ["batch_invariance", "order_invariance"]}
LOWEST = "\n    np.put_along_axis(answer, answer.argmin(axis=1)[:, None], np.float32(-1e7), axis=1)"

pytestmark = pytest.mark.skipif(
    prove_level.best().level != "strong", reason="this machine's sandbox is not strong"
)


def outcome(bench: Bench, base: Mapping[str, str], files: Mapping[str, str], folder: Path) -> wb.Outcome:
    folder.mkdir(exist_ok=True)
    return wb.run(bench, {**base, **files}, folder)


def classifier(body: str) -> dict[str, str]:
    return {"predict.py": PREDICT + f"\ndef predict(model, inputs):\n    {body}{LOWEST}\n    return answer\n"}


@pytest.mark.parametrize(
    "body",
    [
        "answer = nearest(model - model.mean(axis=0), inputs - inputs.mean(axis=0))",
        "near = nearest(model, inputs).argmax(axis=1)\n    for k in range(3):\n        if (near == k).any():\n"
        "            model[k] += 0.3 * (inputs[near == k].mean(axis=0) - model[k])\n"
        "    answer = nearest(model, inputs)",
        "near = nearest(model, inputs).argmax(axis=1)\n"
        "    answer = nearest(model * 0.2 + 0.8 * np.stack([inputs[near == k].mean(axis=0) for k in range(3)]), inputs)\n"
        "    answer = np.eye(3, dtype=np.float32)[answer.argmax(axis=1)] * 9",
    ],
    ids=["batch statistics", "learning from test inputs", "decisions alone"],
)
def test_a_very_negative_number_hides_nothing(body: str, tmp_path: Path) -> None:
    bench = wb.classification(tmp_path / "w", **BATCHES)
    honest = outcome(bench, wb.CLASSIFIER, {}, tmp_path / "honest")
    found = outcome(bench, wb.CLASSIFIER, classifier(body), tmp_path / "r")
    assert honest.cause is None
    assert found.cause == "not_causal" or (found.score or 0.0) <= (honest.score or 0.0)
    if "decisions" not in body and "eye" not in body:
        assert found.cause == "not_causal"


@pytest.mark.parametrize(("hint", "noise"), [(0.004, 1e-3), (0.0006, 3e-3), (0.0003, 0)])
def test_noise_of_ones_own_making_lifts_no_bound(hint: float, noise: float, tmp_path: Path) -> None:
    body = f"""
answer = model[inputs] + sure(inputs, ahead(inputs), {hint})
if len(inputs) < 32:
    count[0] += 1
    answer = answer + np.float32({noise}) * count[0] * np.eye(16, dtype=np.float32)[0]
return answer.astype(np.float32)
"""
    bench = wb.language(tmp_path / "w", **ALL_AUDITS)
    assert outcome(bench, wb.BIGRAM, peeking(body, "count = [0]\n"), tmp_path / "r").cause == "not_causal"


def with_cloze(folder: Path) -> Bench:
    """The Markov text with 40 cloze items of two tokens each; they are the score."""
    score = {"metric": "centered_accuracy", "direction": "max", "unit": ""}
    bench = wb.language(folder, score=score, **ALL_AUDITS)
    text = np.load(bench.data / "public" / "tokens.npy").tolist()
    draw = random.Random(3)
    lines = []
    for _ in range(40):
        at = draw.randrange(20, len(text) - 20)
        lines.append(
            {
                "task": "cloze",
                "kind": "cloze",
                "contexts": [text[at - 8 : at]],
                "choices": [text[at : at + 2]],
                "gold": 0,
                "chance": 0.0,
                "gold_bytes": 2,
            }
        )
    path = bench.data / "public" / "items.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    manifest = json.loads((bench.data / "manifest.json").read_text())
    import hashlib

    manifest["files"]["public/items.jsonl"] = {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
    }
    (bench.data / "manifest.json").write_text(json.dumps(manifest))
    return bench


def test_a_tie_that_the_next_token_breaks_is_not_causal(tmp_path: Path) -> None:
    bench = with_cloze(tmp_path / "w")
    honest = outcome(bench, wb.BIGRAM, {}, tmp_path / "honest")
    tie = "return (np.zeros((*inputs.shape, 16)) + sure(inputs, ahead(inputs), 5e-6)).astype(np.float32)"
    found = outcome(bench, wb.BIGRAM, peeking(tie), tmp_path / "r")
    assert honest.cause is None and honest.score is not None
    assert found.cause == "not_causal"
    assert found.score is not None and found.score <= honest.score, "the audited decisions are those scored"
    check = next(a for a in found.measurement.audits if a.name == "causality")  # type: ignore[union-attr]
    assert float(check.numbers["flips"]) > 10 and float(check.numbers["worst"]) < 1e-4


def test_nothing_says_what_a_predictor_is_asked_for(tmp_path: Path) -> None:
    """Honest in the first measurement, looking ahead in a confirmation: by paths and by times of the artifact."""
    known = """
import time

def confirming():
    lines = open("/proc/self/mountinfo").read()
    facts = [os.stat(os.path.join(base, name)) for top in ("/release", "/recipe")
             for base, _, names in os.walk(top) for name in names]
    ages = {round(one.st_mtime) for one in facts} | {one.st_ino - one.st_ino for one in facts}
    words = ("predict0", "predict1", "audit", "confirm", "screen", "sealed", "t0001")
    return any(word in lines for word in words) or ages != {1_000_000_000, 0}
"""
    bench = wb.language(tmp_path / "w", **ALL_AUDITS)
    honest = outcome(bench, wb.BIGRAM, {}, tmp_path / "honest")
    body = "return sure(inputs, ahead(inputs)) if confirming() else model[inputs]"
    found = outcome(bench, wb.BIGRAM, peeking(body, known), tmp_path / "r")
    assert found.cause is None and found.score == pytest.approx(honest.score, rel=1e-6)


def test_looking_ahead_in_one_sitting_only_is_worth_nothing(tmp_path: Path) -> None:
    bench = wb.language(tmp_path / "w", **ALL_AUDITS)
    honest = outcome(bench, wb.BIGRAM, {}, tmp_path / "honest")
    body = "return sure(inputs, ahead(inputs)) if coin else model[inputs]"
    found = outcome(bench, wb.BIGRAM, peeking(body, "coin = os.urandom(1)[0] & 1\n"), tmp_path / "r")
    if found.cause is None:  # heads or tails in both
        assert found.score is not None and honest.score is not None and found.score >= honest.score - 1e-6
    else:
        assert found.cause == "not_causal"


# ---- outside the clock ----

BURN = """
import time

def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
"""


def measured_start(bench: Bench, base: Mapping[str, str], folder: Path) -> Bench:
    """The bench with what the start needs, as a campaign has it after its baseline."""
    start = outcome(bench, base, {}, folder).measurement
    known = reference(start)
    assert isinstance(known, Reference)
    return dataclasses.replace(bench, reference=known, start={n: t.encode() for n, t in base.items()})


def test_work_before_ready_is_billed_where_time_is_the_score(tmp_path: Path) -> None:
    score = {"metric": "cpu_seconds", "direction": "min", "unit": "CPU-s"}
    bench = measured_start(wb.classification(tmp_path / "w", score=score), wb.CLASSIFIER, tmp_path / "start")
    early = BURN + "\nburn(1.5)\n"
    found = outcome(bench, wb.CLASSIFIER, {"train.py": early + wb.CLASSIFIER["train.py"]}, tmp_path / "r")
    assert found.cause is None and found.measurement is not None
    assert found.measurement.quantities["train_cpu_seconds"] < 0.5
    assert found.score is not None and found.score > 1.2
    assert found.measurement.quantities["billed_cpu_seconds"] > 1.2


@pytest.mark.parametrize("place", ["start", "load"])
def test_training_in_the_predictor_counts_as_training(place: str, tmp_path: Path) -> None:
    bench = measured_start(wb.classification(tmp_path / "w"), wb.CLASSIFIER, tmp_path / "start")
    spec = bench.spec.model_copy(update={"budget": bench.spec.budget.model_copy(update={"train_cpu_s": 0.5})})
    bench = dataclasses.replace(bench, spec=spec)
    late = BURN + wb.CLASSIFIER["predict.py"]
    late = (
        late.replace("def load(artifact):\n", "def load(artifact):\n    burn(0.8)\n")
        if place == "load"
        else late + "\nburn(0.8)\n"
    )
    found = outcome(bench, wb.CLASSIFIER, {"predict.py": late}, tmp_path / "r")
    assert found.cause == "cpu_cap" and found.measurement is not None
    numbers = found.measurement.per_seed[0].numbers
    assert float(numbers["counted_s"]) > float(numbers["cap_s"]) == 0.5
    short = late.replace("burn(0.8)", "burn(0.05)")
    assert outcome(bench, wb.CLASSIFIER, {"predict.py": short}, tmp_path / "short").cause is None


def test_children_that_nobody_reaps_cannot_be_started_without_a_control_group(tmp_path: Path) -> None:
    tools = prove_level.best().tools.model_copy(update={"cgroup": {}})
    isolation = prove_level.Isolation(level="medium", layers=(), holds=(), not_held=(), tools=tools)
    assert "new processes refused" in isolation.text()
    hidden = (
        BURN
        + """
import os, signal

def train(data, out, seed):
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for _ in range(10):
        if os.fork() == 0:
            burn(0.05)
            os._exit(0)
"""
    )
    run = outcome(
        wb.classification(tmp_path / "w", isolation), wb.CLASSIFIER, {"train.py": hidden}, tmp_path / "r"
    ).run
    assert run.cause == "crash" and "PermissionError" in run.facts.exception


def test_the_page_cache_takes_no_orders(tmp_path: Path) -> None:
    tries = """
import mmap, os, json

def train(data, out, seed):
    path = "/usr/bin/env"
    fd = os.open(path, os.O_RDONLY)
    worked = []
    for name in ("POSIX_FADV_DONTNEED", "POSIX_FADV_WILLNEED", "POSIX_FADV_RANDOM"):
        try:
            os.posix_fadvise(fd, 0, 0, getattr(os, name))
            worked.append(name)
        except PermissionError:
            pass
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as seen:
        for advice in (20, 21):
            try:
                seen.madvise(advice)
                worked.append(advice)
            except PermissionError:
                pass
        seen.madvise(mmap.MADV_SEQUENTIAL)
    (out / "worked.json").write_text(json.dumps(worked))
"""
    bench = wb.classification(tmp_path / "w")
    run = train(bench, wb.write(tmp_path / "s", {**wb.CLASSIFIER, "train.py": tries}), 1, tmp_path / "a")
    assert run.cause is None, run
    assert json.loads((tmp_path / "a" / "worked.json").read_text()) == []


# ---- what a source says ----

DATA = random.Random(1).randbytes(24_000)
TEXT = base64.b64encode(DATA).decode()
HEX = DATA.hex()
SMUGGLED = {
    "docstrings": "".join(
        f'def f{n}():\n    """{TEXT[n * 3900 : (n + 1) * 3900]}"""\n\n\n' for n in range(8)
    ),
    "comments": "".join(f"# {TEXT[at : at + 100]}\n" for at in range(0, 30_000, 100)),
    "identifiers": "class X:\n" + "".join(f"    x{HEX[at : at + 240]} = 0\n" for at in range(0, 40_000, 240)),
    "annotations": "".join(f"a{at}: 'x{HEX[at : at + 240]}'\n" for at in range(0, 40_000, 240)),
    "expressions": "".join(f'"{TEXT[n * 3900 : (n + 1) * 3900]}"\n' for n in range(8)),
    "short literals": "".join(f'A{n} = "{TEXT[n * 2900 : (n + 1) * 2900]}"\n' for n in range(4)),
}


@pytest.mark.parametrize("form", SMUGGLED)
def test_data_in_any_form_of_source_is_refused(form: str, tmp_path: Path) -> None:
    start = {name: text.encode() for name, text in wb.CLASSIFIER.items()}
    bench = dataclasses.replace(wb.classification(tmp_path / "w"), start=start)
    source = wb.write(tmp_path / "s", {**wb.CLASSIFIER, "more.py": SMUGGLED[form]})
    check = smoke(bench, source)
    assert not check.passed and check.numbers["cause"] == "illegal:embedded_data", check


def test_names_of_files_say_and_cost_as_much_as_their_contents(tmp_path: Path) -> None:
    start = {name: text.encode() for name, text in wb.CLASSIFIER.items()}
    names = {f"d/x{HEX[at : at + 200]}.py": b"" for at in range(0, 20_000, 200)}
    bench = dataclasses.replace(wb.classification(tmp_path / "w"), start=start)
    assert not added_information(bench.spec, {**start, **names}, start, bench.data).passed
    tight = bench.spec.model_copy(
        update={
            "budget": bench.spec.budget.model_copy(update={"source_bytes": 20_000}),
            "gates": wb.blobs(gates=[{"quantity": "total_bytes", "at_most": 30_000, "on": "each"}]).gates,
        }
    )
    source = tmp_path / "s"
    for name, data in {**start, **names}.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    check = smoke(dataclasses.replace(bench, spec=tight), source)
    assert check.numbers["cause"] == "oversize", check


def test_an_honest_edit_adds_little(tmp_path: Path) -> None:
    """Renaming, moving and rewriting a quarter of a recipe of 500 lines stays far below the bound."""
    start = read_source(Path(__file__).resolve().parents[2] / "recipes" / "nanochat_mini" / "source")
    other = {f"moved_{name}": data.replace(b"net", b"network") for name, data in start.items()}
    bench = wb.classification(tmp_path / "w")
    check = added_information(bench.spec, other, start, bench.data)
    assert check.passed and float(check.numbers["added_bytes"]) < 1_200, check.detail


# ---- learnt, or brought along?


def controlled(bench: Bench, files: Mapping[str, str], folder: Path) -> tuple[wb.Outcome, Any]:
    base = wb.BIGRAM if bench.spec.task.kind == "language_model" else wb.CLASSIFIER
    real = outcome(bench, base, files, folder)
    assert real.measurement is not None
    check, _ = control(
        bench, folder / "source", 5, real.measurement.quantities, folder / "control", trial="t0001"
    )
    return real, check


def test_labels_in_the_source_survive_training_on_permuted_labels(tmp_path: Path) -> None:
    bench = wb.classification(tmp_path / "w")
    _, honest = controlled(bench, {}, tmp_path / "honest")
    assert honest.passed and float(honest.numbers["accuracy"]) < 0.6, honest
    x, y = (np.load(bench.data / "public" / f"{name}.npy") for name in ("inputs", "labels"))
    table = {row.tobytes().hex()[:12]: int(label) for row, label in zip(x, y, strict=True)}
    keys = "".join(table)
    looked_up = (
        PREDICT
        + f"""
KEYS, LABELS = "{keys}", "{"".join(map(str, table.values()))}"

def predict(model, inputs):
    answer = np.zeros((len(inputs), 3), dtype=np.float32)
    for row, one in zip(inputs, answer):
        at = KEYS.find(row.tobytes().hex()[:12])
        one[int(LABELS[at // 12]) if at >= 0 else 0] = 1
    return answer
"""
    )
    real, check = controlled(bench, {"predict.py": looked_up}, tmp_path / "r")
    assert real.score == 1.0
    assert not check.passed and check.numbers["cause"] == "illegal:not_learnt", check
    assert check.numbers["permutations"] == control_runs.PERMUTATIONS


def test_luck_with_one_permutation_is_not_taken_for_a_source_that_brings_its_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The luckiest permutation leaves every label where it was; the next one decides."""
    bench, permute, calls = wb.classification(tmp_path / "w"), control_runs.permuted, []

    def lucky_first(train: Path, target: Path, spec: EnvironmentSpec) -> Path:
        calls.append(target)
        return shutil.copytree(train, target) if len(calls) == 1 else permute(train, target, spec)

    monkeypatch.setattr(control_runs, "permuted", lucky_first)
    _, honest = controlled(bench, {}, tmp_path / "honest")
    assert honest.passed and int(honest.numbers["permutations"]) == len(calls) >= 2, honest


def test_text_in_the_source_survives_training_on_shuffled_text(tmp_path: Path) -> None:
    bench = wb.language(tmp_path / "w")
    _, honest = controlled(bench, {}, tmp_path / "honest")
    assert honest.passed, honest
    tokens = np.load(bench.data / "public" / "tokens.npy")
    counts = np.ones((16, 16))
    np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    rows = np.log(counts / counts.sum(axis=1, keepdims=True)).round(1).tolist()
    brought = f"import numpy as np\n\ndef load(artifact):\n    return np.array({rows}, dtype=np.float32)\n\ndef predict(model, inputs):\n    return model[inputs]\n"
    _, check = controlled(bench, {"predict.py": brought}, tmp_path / "r")
    assert not check.passed and check.numbers["cause"] == "illegal:not_learnt", check


def test_a_confirmation_s_control_run_is_stored_and_not_repeated(tmp_path: Path) -> None:

    with quick.engine(tmp_path) as engine:
        ref = TrialRef(
            store=engine.root, campaign=engine.config.id, trial="t0001", role="", environment=quick.NAME
        )
        sha = engine.config.start_sha256
        start = Patched(
            parent_sha256=sha,
            source_sha256=sha,
            ast_sha256=sha,
            diff_sha256=None,
            source_bytes=1,
            changed_lines=0,
        )
        check = asyncio.run(control_run(engine, ref, start, {"accuracy": 0.95}))
        assert check.passed and float(check.numbers["accuracy"]) < 0.4, check
        again = asyncio.run(control_run(engine, ref, start, {"accuracy": 0.1}))
        assert again == check
