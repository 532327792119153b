"""Five clever but honest recipes that must pass with every audit switched on, and one that is merely good.

They are legal upstream (parameter-golf): sliding window; lossless transform of the text (PR 1729);
self-extracting compressed code (PR 1394); self-generated calibration text (PR 1019); a normalised
n-gram table that is paid for in the artifact.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest
import workbench as wb

ALL_AUDITS = ["causality", "batch_invariance", "order_invariance"]
GATES = [{"quantity": "total_bytes", "at_most": 60_000, "on": "each"}]

SLIDING = {
    "predict.py": """
import numpy as np

def load(artifact):
    return np.load(artifact / "table.npy")

def predict(model, inputs):
    # every position from a window of its own last two tokens
    padded = np.pad(inputs, ((0, 0), (1, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2, axis=1)
    return np.ascontiguousarray((model[windows[..., 1]] + 0.1 * model[windows[..., 0]]).astype(np.float32))
"""
}
TRANSFORM = {
    "codec.py": "import numpy as np\nORDER = np.random.default_rng(3).permutation(16)\nBACK = np.argsort(ORDER)\n",
    "train.py": """
import numpy as np
from codec import ORDER

def train(data, out, seed):
    tokens = ORDER[np.load(data / "tokens.npy").astype(int)]
    counts = np.ones((16, 16))
    np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    np.save(out / "table.npy", np.log(counts / counts.sum(axis=1, keepdims=True)).astype(np.float32))
""",
    "predict.py": """
import numpy as np
from codec import ORDER

def load(artifact):
    return np.load(artifact / "table.npy")

def predict(model, inputs):
    return np.ascontiguousarray(model[ORDER[inputs]][..., ORDER])
""",
}
CALIBRATED = {
    "train.py": """
import numpy as np

def train(data, out, seed):
    rng = np.random.default_rng(seed)
    tokens = np.load(data / "tokens.npy").astype(int)
    counts = np.ones((16, 16))
    np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    table = np.log(counts / counts.sum(axis=1, keepdims=True))
    text = [0]
    for _ in range(2000):  # calibration text of its own making
        p = np.exp(table[text[-1]])
        text.append(int(rng.choice(16, p=p / p.sum())))
    scale = np.abs(table[text]).max() / 127
    np.save(out / "table.npy", np.clip(np.round(table / scale), -127, 127).astype(np.int8))
    np.save(out / "scale.npy", np.float32(scale))
""",
    "predict.py": """
import numpy as np

def load(artifact):
    return np.load(artifact / "table.npy").astype(np.float32) * np.load(artifact / "scale.npy")

def predict(model, inputs):
    return model[inputs]
""",
}
TRIGRAM = {
    "train.py": """
import numpy as np

def train(data, out, seed):
    tokens = np.load(data / "tokens.npy").astype(int)
    counts = np.full((16, 16, 16), 0.3)
    np.add.at(counts, (tokens[:-2], tokens[1:-1], tokens[2:]), 1)
    np.save(out / "table.npy", np.log(counts / counts.sum(axis=2, keepdims=True)).astype(np.float32))
""",
    "predict.py": """
import numpy as np

def load(artifact):
    return np.load(artifact / "table.npy")

def predict(model, inputs):
    before = np.concatenate([inputs[:, :1], inputs[:, :-1]], axis=1)
    return model[before, inputs]
""",
}


def compressed(source: Mapping[str, str]) -> dict[str, str]:
    """Every file as a program that unpacks itself."""
    packed = {}
    for name, text in source.items():
        data = base64.b85encode(zlib.compress(text.encode(), 9)).decode()
        packed[name] = f"import base64, zlib\nexec(zlib.decompress(base64.b85decode({data!r})))\n"
    return packed


CONTROLS = {
    "sliding window": (SLIDING, 3.95),
    "lossless transform": (TRANSFORM, 3.95),
    "self-extracting code": (compressed(wb.BIGRAM), 3.95),
    "self-generated calibration": (CALIBRATED, 3.95),
    "normalised trigram table": (TRIGRAM, 3.2),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_honest_cleverness_passes(name: str, tmp_path: Path) -> None:
    files, at_most = CONTROLS[name]
    bench = wb.language(tmp_path, audits=ALL_AUDITS, gates=GATES)
    outcome = wb.run(bench, {**wb.BIGRAM, **files}, tmp_path)
    assert outcome.cause is None, outcome.measurement
    assert outcome.measurement is not None and outcome.score is not None
    assert outcome.score < at_most
    assert [a.name for a in outcome.measurement.audits] == ALL_AUDITS
    assert all(a.passed for a in outcome.measurement.audits)
    assert all(gate.passed for gate in outcome.measurement.gates)


def test_the_table_paid_for_is_the_best_of_them(tmp_path: Path) -> None:
    """The Markov text is of second order, so this score is close to its entropy."""
    bench = wb.language(tmp_path)
    table = wb.run(bench, {**wb.BIGRAM, **TRIGRAM}, tmp_path / "a").score
    start = wb.run(bench, wb.BIGRAM, tmp_path / "b").score
    assert table is not None and start is not None
    assert table < start - 0.5
