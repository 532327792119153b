"""Run as a program: one recipe on its fake data, in a process of its own; prints what it saw as JSON.

Use: `python environment_child.py SOURCE DATA KIND OUTPUTS CONTEXT`. Limits: no sandbox; for the contract
suite, which asserts on the printed facts.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def ask(predict: Any, model: Any, data: Path, kind: str, outputs: int, context: int) -> dict[str, Any]:
    random = np.random.default_rng(1)
    if kind == "classification":
        like = np.load(data / "public" / "inputs.npy", mmap_mode="r")
        whole = np.issubdtype(like.dtype, np.integer)
        high = int(like[:1].max()) + 1 if whole else 1
        rows = random.integers(0, high, (6, *like.shape[1:])).astype(like.dtype)
    else:
        rows = random.integers(0, outputs, (6, context), dtype=np.int64)
    answer = predict(model, rows)
    facts: dict[str, Any] = {
        "shape": list(answer.shape),
        "dtype": str(answer.dtype),
        "finite": bool(np.isfinite(answer).all()),
        "batch_gap": float(np.abs(predict(model, rows[2:3]) - answer[2:3]).max()),
        "order_gap": float(np.abs(predict(model, rows[::-1].copy())[::-1] - answer).max()),
    }
    if kind == "language_model":
        changed = rows.copy()
        changed[:, context // 2 :] = random.integers(0, outputs, changed[:, context // 2 :].shape)
        early = slice(0, context // 2)
        facts["future_gap"] = float(np.abs(predict(model, changed)[:, early] - answer[:, early]).max())
    return facts


def main() -> None:
    source, data, kind = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    sys.path.insert(0, str(source))
    import predict
    import train

    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    if hasattr(train, "warm_up"):
        train.warm_up(data / "fake")
    with tempfile.TemporaryDirectory() as folder:
        if hasattr(train, "rehearse"):
            train.rehearse(data / "fake", Path(folder))
        else:
            train.train(data / "fake", Path(folder), 7)
        written = [path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()]
        model = predict.load(Path(folder))
        facts = ask(predict.predict, model, data, kind, int(sys.argv[4]), int(sys.argv[5]))
    print("\n" + json.dumps({**facts, "written": written}))


if __name__ == "__main__":
    main()
