"""Attacks on the language-model judge: looking ahead, claims about normalisation, partial scoring."""

from __future__ import annotations

from pathlib import Path

import workbench as wb
from attack import Attack

ALL_AUDITS = {"audits": ["causality", "batch_invariance", "order_invariance"]}
BIGRAM_SCORE = 3.95  # bits per byte; the honest table gets 3.88, a leak far less
PEEK = """
import os
import numpy as np

def load(artifact):
    return np.load(artifact / "table.npy")

def ahead(inputs):
    return np.concatenate([inputs[:, 1:], inputs[:, :1]], axis=1)

def sure(inputs, tokens, by=20.0):
    answer = np.zeros((*inputs.shape, 16), dtype=np.float32)
    np.put_along_axis(answer, tokens[..., None], by, axis=2)
    return answer

"""


def peeking(body: str, before: str = "") -> dict[str, str]:
    lines = "\n".join("    " + line for line in body.strip().splitlines())
    return {"predict.py": f"{PEEK}{before}\ndef predict(model, inputs):\n{lines}\n"}


def mean_gain_is_told(outcome: wb.Outcome, artifact: Path) -> None:
    assert outcome.measurement is not None
    check = next(a for a in outcome.measurement.audits if a.name == "causality")
    assert float(check.numbers["mean_gain_bits"]) > 0.001


def lm(
    name: str,
    rows: str,
    files: dict[str, str],
    causes: tuple[str | None, ...] = ("not_causal",),
    **more: object,
) -> Attack:
    return Attack(name, rows, files, causes, base=wb.BIGRAM, changes=ALL_AUDITS, **more)  # type: ignore[arg-type]


ATTACKS = [
    lm(
        "the next token is the answer",
        "B2-14 A10",
        peeking("return sure(inputs, ahead(inputs))"),
        check=mean_gain_is_told,
    ),
    lm(
        "a small peek everywhere",
        "A10 A11",
        peeking("return model[inputs] + sure(inputs, ahead(inputs), 0.05)"),
    ),
    lm(
        "a hint so small that each is within tolerance",
        "A10",
        peeking("return model[inputs] + sure(inputs, ahead(inputs), 0.004)"),
    ),
    lm(
        "mean over a chunk",
        "A11",
        peeking(
            "answer = model[inputs]\nfor t in range(0, 16, 4):\n    answer[:, t:t + 4] += answer[:, t:t + 4].mean(axis=1, keepdims=True)\nreturn answer"
        ),
    ),
    lm(
        "mixing along the row by Fourier transform",
        "A11",
        peeking("a = model[inputs]\nreturn (a + 0.3 * np.fft.fft(a, axis=1).real).astype(np.float32)"),
    ),
    lm(
        "a peek in long rows only",
        "A12",
        peeking("return sure(inputs, ahead(inputs)) if inputs.shape[1] >= 16 else model[inputs]"),
    ),
    lm(
        "a peek in the second half",
        "A12 A36",
        peeking("answer = model[inputs]\nanswer[:, 8:] = sure(inputs, ahead(inputs))[:, 8:]\nreturn answer"),
    ),
    lm(
        "a peek after some requests",
        "A12 B2-29",
        peeking(
            "seen.append(1)\nreturn sure(inputs, ahead(inputs)) if len(seen) > 1 else model[inputs]",
            "seen = []",
        ),
    ),
    lm(
        "a peek remembered by prefix",
        "B4-cache",
        peeking(
            "answer = np.empty((*inputs.shape, 16), dtype=np.float32)\npeek = sure(inputs, ahead(inputs))\nfor i, row in enumerate(inputs):\n    for t in range(16):\n        key = row[: t + 1].tobytes()\n"
            "        answer[i, t] = cache.setdefault(key, peek[i, t])\nreturn answer",
            "cache = {}",
        ),
    ),
    lm(
        "a leak across rows",
        "A13 A37",
        peeking(
            "return (model[inputs] + 0.2 * model[inputs].mean(axis=0, keepdims=True)).astype(np.float32)"
        ),
    ),
    lm(
        "the previous document's last token",
        "A37",
        peeking("answer = model[inputs]\nanswer[1:, 0] += model[inputs[:-1, -1]]\nreturn answer"),
    ),
    lm(
        "training on the text under test",
        "A4 A5 B2-12",
        peeking(
            "answer = model[inputs].copy()\nfor row in inputs:\n    for a, b in zip(row[:-1], row[1:]):\n        model[a, b] += 0.05\nreturn answer"
        ),
    ),
    lm(
        "a second pass with what the first one saw",
        "A5 A6 B2-13",
        peeking("for row in inputs:\n    np.add.at(model, (row[:-1], row[1:]), 0.5)\nreturn model[inputs]"),
    ),
    lm(
        "probabilities that sum to 277",
        "A8 A9 B2-13",
        peeking("return model[inputs] + np.float32(5.6)"),
        (None,),
        least=BIGRAM_SCORE,
        most=3.8,
    ),
    lm(
        "enormous answers",
        "A8",
        peeking("return np.full((*inputs.shape, 16), 3e38, dtype=np.float32)"),
        (None,),
        most=3.9,
    ),
    lm(
        "certain of the wrong thing",
        "A8",
        peeking("return sure(inputs, inputs * 0, 3e38)"),
        (None,),
        most=4.0,
    ),
    lm(
        "one number per token",
        "B2-13 A22",
        peeking("return model[inputs].max(axis=2)"),
        ("illegal:answer_shape",),
    ),
    lm("a smaller vocabulary", "A9 A16", peeking("return model[inputs][..., :8]"), ("illegal:answer_shape",)),
    lm(
        "part of the text only",
        "A20",
        peeking("if len(seen) > 1:\n    os._exit(0)\nseen.append(1)\nreturn model[inputs]", "seen = []"),
        ("illegal:early_exit",),
    ),
    lm(
        "revised answers afterwards",
        "A6",
        peeking("os.write(6, sure(inputs, ahead(inputs)).tobytes())\nreturn model[inputs]"),
        ("illegal:extra_bytes",),
    ),
    lm(
        "random noise to hide a peek",
        "B4-noise",
        peeking(
            "rng = np.random.default_rng()\nreturn (model[inputs] + sure(inputs, ahead(inputs), 0.05) + 0.05 * rng.standard_normal((*inputs.shape, 16))).astype(np.float32)"
        ),
    ),
]
