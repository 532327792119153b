"""Attacks on a judge.py: by the order of requests, on its file, with texts over their cap, with a state between requests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import workbench as wb

from evaluators.judge import judge_client
from evaluators.judge.judge_client import Bench
from lineage.ids import sha256
from lineage.records import Measurement, TrainRun

HITS = """
import numpy as np

def judge(ask, split, seed):
    x, labels = np.load(split / "inputs.npy"), np.load(split / "labels.npy")
    return {"found": ask(x, shape=(3,)).argmax(axis=1) == labels}
"""
EPISODE = """
import numpy as np

def judge(ask, split, seed):
    '''A corridor: the candidate must answer the number of steps so far, which only a state can know.'''
    right = [int(ask(np.zeros((1, 1)), (), dtype="int64")[0]) == step for step in range(20)]
    return {"found": np.array(right)}
"""
TEXTS = """
def judge(ask, split, seed):
    return {"found": float(sum(map(len, ask.text(["a", "bb", "ccc"], max_bytes=10))))}
"""
ACTIONS = """
import numpy as np

def judge(ask, split, seed):
    action = int(ask(np.zeros((1, 1)), (), dtype="int64")[0])
    if action not in (0, 1):
        ask.refuse(f"an action is 0 or 1, got {action}")
    return {"found": float(action)}
"""
BY_CONTENT = wb.CLASSIFIER["predict.py"]
LOAD = "import os, sys\nimport numpy as np\n\ndef load(artifact):\n    return {'count': 0, 'sum': 0.0, 'at': artifact}\n\n"


def judged(folder: Path, judge: str, **changes: Any) -> Bench:
    """Blobs whose public rows are in order of their labels, as prepare.py may well leave them."""
    settings = {
        "score": {"metric": "found", "direction": "max", "unit": ""},
        "task": {"kind": "judge", "batch": 30},
        "judge_sha256": sha256(judge.encode()),
    }
    bench = wb.classification(folder, **(settings | changes))
    (folder / "judge.py").write_text(judge)
    for split in ("public", "sealed"):
        place = bench.data / split
        order = np.argsort(np.load(place / "labels.npy"), kind="stable")
        for name in ("inputs", "labels"):
            np.save(place / f"{name}.npy", np.load(place / f"{name}.npy")[order])
    manifest = bench.data / "manifest.json"
    held = json.loads(manifest.read_text())
    for name, facts in held["files"].items():
        facts["sha256"] = sha256((bench.data / name).read_bytes())
    manifest.write_text(json.dumps(held))
    return replace(bench, judge_file=folder / "judge.py")


def attack(bench: Bench, folder: Path, files: Mapping[str, str]) -> tuple[TrainRun, Measurement | None]:
    source = wb.write(folder / "source", {**wb.CLASSIFIER, **files})
    run = judge_client.train(bench, source, 77, folder / "artifact")
    if run.artifact is None:
        return run, None
    return run, judge_client.judge(bench, source, [(run, folder / "artifact")], trial="t1", purpose="screen")


def cause(measured: Measurement | None) -> str | None:
    assert measured is not None
    failed = [str(audit.numbers.get("cause")) for audit in measured.audits if not audit.passed]
    return measured.per_seed[0].cause or next(iter(failed), None)


BY_ORDER = (
    LOAD
    + """
def predict(model, inputs):
    rows = np.arange(model["count"], model["count"] + len(inputs))
    model["count"] += len(inputs)
    return np.eye(3, dtype=np.float32)[np.minimum(rows * 3 // 120, 2)]
"""
)


def test_answers_by_request_order_are_worth_a_guess_and_an_audit_names_them(tmp_path: Path) -> None:
    _, measured = attack(judged(tmp_path / "a", HITS), tmp_path / "a", {"predict.py": BY_ORDER})
    assert measured is not None and measured.score is not None and measured.score < 0.6, (
        "in the order of the split it would be 0.9"
    )
    bench = judged(tmp_path / "b", HITS, audits=["order_invariance", "batch_invariance"])
    _, measured = attack(bench, tmp_path / "b", {"predict.py": BY_ORDER})
    assert cause(measured) == "not_causal"


LEARNS = (
    LOAD.replace("load(artifact)", "load(artifact, means=None)")
    + """
def predict(model, inputs):
    means = np.load(model["at"] / "means.npy")
    model["count"] += len(inputs)
    model["sum"] = model["sum"] + inputs.sum(axis=0)
    shifted = inputs - 0.5 * model["sum"] / model["count"]
    return -((shifted[:, None, :] - means[None]) ** 2).sum(axis=2).astype(np.float32)
"""
)
COMPANY = (
    LOAD
    + """
def predict(model, inputs):
    means = np.load(model["at"] / "means.npy")
    return -((inputs[:, None, :] - means[None] - inputs.mean(axis=0)) ** 2).sum(axis=2).astype(np.float32)
"""
)


@pytest.mark.parametrize(
    ("predict", "audit"),
    [(LEARNS, "order_invariance"), (LEARNS, "batch_invariance"), (COMPANY, "batch_invariance")],
    ids=["state-order", "state-company", "company"],
)
def test_rows_that_are_answered_by_their_company_or_history_are_named(
    tmp_path: Path, predict: str, audit: str
) -> None:
    _, measured = attack(judged(tmp_path, HITS, audits=[audit]), tmp_path, {"predict.py": predict})
    assert cause(measured) == "not_causal"


def test_an_honest_program_passes_both_audits_with_items(tmp_path: Path) -> None:
    bench = judged(tmp_path, HITS, audits=["order_invariance", "batch_invariance"])
    _, measured = attack(bench, tmp_path, {"predict.py": BY_CONTENT})
    assert measured is not None and cause(measured) is None
    assert measured.score is not None and measured.score > 0.9 and measured.items_sha256
    assert [audit.numbers["rows"] for audit in measured.audits[:2]] == [30, 120]


def test_a_state_between_requests_is_lawful_where_no_audit_is_named(tmp_path: Path) -> None:
    counts = LOAD + (
        "\ndef predict(model, seen):\n    model['count'] += 1\n"
        "    return np.full(len(seen), model['count'] - 1, dtype=np.int64)\n"
    )
    _, measured = attack(judged(tmp_path, EPISODE), tmp_path, {"predict.py": counts})
    assert measured is not None and measured.score == 1.0


SEARCH = """
import json, os
import numpy as np

def found(marks):
    for base, folders, names in os.walk("/"):
        folders[:] = [f for f in folders if f not in ("proc", "sys")]
        for name in names:
            if name in marks:
                return os.path.join(base, name)
    return ""

def opened(path):
    try:
        return open(path).read()
    except OSError:
        return ""

def train(data, out, seed):
    x, y = np.load(data / "images.npy"), np.load(data / "labels.npy")
    np.save(out / "means.npy", np.stack([x[y == k].mean(axis=0) for k in range(3)]).astype(np.float32))
    seen = {"opened": opened("@JUDGE@"), "walked": found(["judge.py", "judge_program.py"]), "tried": True}
    (out / "found.json").write_text(json.dumps(seen))
"""


def test_judge_py_is_not_there_for_a_candidate(tmp_path: Path) -> None:
    bench = judged(tmp_path, HITS)
    run, measured = attack(bench, tmp_path, {"train.py": SEARCH.replace("@JUDGE@", str(bench.judge_file))})
    assert run.cause is None and cause(measured) is None
    seen = json.loads((tmp_path / "artifact" / "found.json").read_text())
    assert seen == {"opened": "", "walked": "", "tried": True}


FORGED = "\ndef predict(model, texts):\n    os.write(6, {bytes})\n    os._exit(0)\n"
LENGTH = "(10**12).to_bytes(8, 'little') * 3"
NEGATIVE = "b'\\xff' * 24"
NOT_UTF8 = "b''.join(n.to_bytes(8, 'little') for n in (1, 1, 1)) + b'\\xff\\xfe\\xfd'"


@pytest.mark.parametrize(
    ("predict", "wanted"),
    [
        ("\ndef predict(model, texts):\n    return ['x' * 11 for _ in texts]\n", "illegal:answer_size"),
        ("\ndef predict(model, texts):\n    return ['\\u20ac' * 4 for _ in texts]\n", "illegal:answer_size"),
        ("\ndef predict(model, texts):\n    return 'abc'\n", "illegal:answer_type"),
        ("\ndef predict(model, texts):\n    return texts[:1]\n", "illegal:answer_shape"),
        ("\ndef predict(model, texts):\n    return ['\\ud800' for _ in texts]\n", "illegal:answer_text"),
        (FORGED.format(bytes=LENGTH), "illegal:answer_size"),
        (FORGED.format(bytes=NEGATIVE), "illegal:answer_size"),
        (FORGED.format(bytes=NOT_UTF8), "illegal:answer_text"),
        (FORGED.format(bytes="b'abc'"), "illegal:short_answer"),
    ],
    ids=["long", "long-bytes", "no-list", "too-few", "surrogate", "forged-length", "negative", "not-utf8", "short"],
)  # fmt: skip
def test_texts_are_bounded_by_the_judge(tmp_path: Path, predict: str, wanted: str) -> None:
    _, measured = attack(judged(tmp_path, TEXTS), tmp_path, {"predict.py": LOAD + predict})
    assert cause(measured) == wanted


def test_an_unlawful_action_is_the_candidates_fault_and_not_the_machines(tmp_path: Path) -> None:
    wild = LOAD + "\ndef predict(model, seen):\n    return np.full(len(seen), 7, dtype=np.int64)\n"
    _, measured = attack(judged(tmp_path, ACTIONS), tmp_path, {"predict.py": wild})
    assert cause(measured) == "illegal:answer_refused"
    assert measured is not None and "an action is 0 or 1, got 7" in str(measured.per_seed[0].numbers)


def test_numbers_that_are_not_finite_and_more_than_was_asked_for(tmp_path: Path) -> None:
    nan = LOAD + "\ndef predict(model, x):\n    return np.full((len(x), 3), np.nan, dtype=np.float32)\n"
    _, measured = attack(judged(tmp_path / "a", HITS), tmp_path / "a", {"predict.py": nan})
    assert cause(measured) == "nan"
    more = LOAD + (
        "\ndef predict(model, x):\n    os.write(6, b'more' * 3)\n    return np.zeros((len(x), 3), dtype=np.float32)\n"
    )
    _, measured = attack(judged(tmp_path / "b", HITS), tmp_path / "b", {"predict.py": more})
    assert str(cause(measured)).startswith(("illegal:extra_bytes", "nan", "illegal:short_answer"))
