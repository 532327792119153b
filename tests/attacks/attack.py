"""What an attack is, and the pieces that attack recipes are put together from.

An attack changes one file or more of an honest tiny recipe. It may know every path on the host: `@LABELS@`
and other marks are filled in with the real ones. `causes` are the outcomes allowed; None means that it
may be scored, and then `most` bounds what it may get: the score of somebody who did not see the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import workbench as wb

CHANCE = 0.6  # three classes: guessing gets 0.33 of 120 rows, a leak 0.97 to 1.0
HONEST = 0.9  # below what the honest recipe gets


@dataclass(frozen=True)
class Attack:
    name: str
    rows: str
    files: Mapping[str, str]
    causes: tuple[str | None, ...] = (None,)
    most: float | None = None
    least: float | None = None
    least_cpu: float = 0.0
    base: Mapping[str, str] = field(default_factory=lambda: wb.CLASSIFIER)
    changes: Mapping[str, Any] = field(default_factory=dict)
    check: Callable[[wb.Outcome, Path], None] | None = None
    is_slow: bool = False


def nothing_found(outcome: wb.Outcome, artifact: Path) -> None:
    """The recipe wrote what it managed to do as JSON; it must be nothing, and it must have tried."""
    import json

    found = json.loads((artifact / "found.json").read_text())
    assert found, "the attack tried nothing"
    worked = sorted(name for name, value in found.items() if value)
    assert not worked, worked


# Trains honestly; put in front of an attack that only has to run beside it.
TRAIN = '''
import json, os, sys, time
import numpy as np

def honest(data, out):
    x, y = np.load(data / "images.npy"), np.load(data / "labels.npy")
    means = np.stack([x[y == k].mean(axis=0) for k in range(3)])
    np.save(out / "means.npy", means.astype(np.float32))

def tried(attempt):
    try:
        return bool(attempt())
    except BaseException:
        return False

def report(out, **attempts):
    """Run each attempt and write down what worked."""
    (out / "found.json").write_text(json.dumps({k: tried(f) for k, f in attempts.items()}))

def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass

def find_arrays(rows):
    """Every .npy on the machine with that many rows, as anyone may look for them."""
    found = []
    for base, folders, names in os.walk("/"):
        folders[:] = [f for f in folders if f not in ("proc", "sys", "numpy", "torch")]
        for name in names:
            path = os.path.join(base, name)
            if name.endswith(".npy") and tried(lambda: len(np.load(path)) == rows):
                found.append(path)
    return found
'''

# Answers with whatever the artifact holds, by position or by content.
PREDICT = '''
import json, os, sys, time
import numpy as np

def tried(attempt):
    try:
        return attempt()
    except BaseException:
        return None

def nearest(model, inputs):
    return (-((inputs[:, None, :] - model[None]) ** 2).sum(axis=2)).astype(np.float32)

def guess(inputs, labels):
    """One-hot answers from labels found somewhere; the first class where none were found."""
    answer = np.zeros((len(inputs), 3), dtype=np.float32)
    if labels is not None and len(labels) >= len(inputs):
        answer[np.arange(len(inputs)), np.asarray(labels)[: len(inputs)]] = 1
    else:
        answer[:, 0] = 1
    return answer

def load(artifact):
    path = artifact / "means.npy"
    return np.load(path) if path.exists() else np.zeros((3, 4), dtype=np.float32)
'''
