"""Runs a recipe without the engine: one fresh process per seed, then mean and deviation.

Use: `python recipes/measure.py recipes/NAME --data DIR [--seeds 10] [--split public] [--source DIR]`,
with DIR as written by the recipe's prepare.py. For looking at a recipe while writing it and as a
second, independent computation of the judge's figures. Limits: no sandbox, no budget, no gate; CPU
seconds are of this machine beside whatever else it is doing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from _common import scoring


def loaded(source: Path, data: Path) -> tuple[ModuleType, ModuleType]:
    """The recipe's `train` and `predict`, warmed up as the engine does before the clock starts."""
    sys.path.insert(0, str(source))
    import predict
    import train

    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    if hasattr(train, "warm_up"):
        train.warm_up(data / "fake")
    return train, predict


class Asking:
    """What a judge.py gets as `ask`, with the candidate in the same process: no checks, rows in their own order."""

    def __init__(self, predict: ModuleType, model: object, size: int) -> None:
        self.predict, self.model, self.size = predict, model, size

    def __call__(self, rows: Any, shape: Any = (1,), dtype: str = "float32") -> np.ndarray:
        parts = rows if isinstance(rows, tuple) else (rows,)
        answers = []
        for at in range(0, len(parts[0]), self.size):
            some = tuple(np.asarray(part)[at : at + self.size] for part in parts)
            answers.append(self.predict.predict(self.model, some if isinstance(rows, tuple) else some[0]))
        return np.concatenate(answers)

    def text(self, texts: list[str], max_bytes: int = 4096) -> list[str]:
        answers = []
        for at in range(0, len(texts), self.size):
            answers += self.predict.predict(self.model, texts[at : at + self.size])
        return answers

    def refuse(self, why: str) -> None:
        raise SystemExit(f"judge.py refuses the answers: {why}")


def judged(judge: Path, ask: Asking, split: Path, seed: int) -> dict[str, float]:
    """What judge.py returns; an array counts as its mean, a pair as its weighted mean."""
    names: dict[str, Any] = {"__name__": "judge", "__file__": str(judge)}
    exec(compile(judge.read_text(encoding="utf-8"), str(judge), "exec"), names)
    found = names["judge"](ask, split, seed)
    return {
        name: float(np.average(value[0], weights=value[1]) if isinstance(value, tuple) else np.mean(value))
        for name, value in found.items()
    }


def one_run(
    recipe: tuple[ModuleType, ModuleType],
    data: Path,
    split: str,
    task: dict[str, Any],
    seed: int,
    judge: Path,
) -> dict[str, float]:
    """Train and predict once; quantities, with seconds of CPU from after the warm-up on."""
    train, predict = recipe
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        begin = time.process_time()
        train.train(data / "train", out, seed)
        trained = time.process_time()
        model = predict.load(out)
        answer: dict[str, float] = {}
        held, size = data / split, int(task["batch"])

        def ask(inputs: np.ndarray) -> np.ndarray:
            return predict.predict(model, inputs)

        if task["kind"] == "classification":
            inputs, labels = np.load(held / "inputs.npy"), np.load(held / "labels.npy")
            answer["accuracy"] = scoring.accuracy(ask, inputs, labels, size)
        elif task["kind"] == "judge":
            answer |= judged(judge, Asking(predict, model, size), held, seed)
        elif task["kind"] == "language_model":
            nbytes = json.loads((held / "meta.json").read_text(encoding="utf-8"))["bytes"]
            answer["bits_per_byte"] = scoring.bits_per_byte(ask, np.load(held / "tokens.npy"), nbytes, task)
            if (held / "items.jsonl").is_file():
                lines = (held / "items.jsonl").read_text(encoding="utf-8").splitlines()
                tasks, gold = scoring.centered(ask, [json.loads(line) for line in lines], task)
                answer |= {"centered_accuracy": statistics.mean(tasks.values()), "gold_bits_per_byte": gold}
                answer |= {f"item_{name}": value for name, value in tasks.items()}
        else:
            raise SystemExit(f"measure.py knows no task of kind {task['kind']!r}; use bakeoff calibrate")
        done = time.process_time()
        answer["artifact_bytes"] = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    answer |= {"train_cpu_s": trained - begin, "predict_cpu_s": done - trained, "cpu_seconds": done - begin}
    return answer


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path, help="environment folder, e.g. recipes/airbench_mini")
    parser.add_argument("--data", type=Path, required=True, help="folder written by prepare.py")
    parser.add_argument("--source", type=Path, help="another source folder than the recipe's own")
    parser.add_argument("--split", default="public", choices=["public", "sealed"])
    parser.add_argument("--seeds", type=int, default=10, help="seeds 1 to N")
    parser.add_argument("--only-seed", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    spec = tomllib.loads((arguments.recipe / "environment.toml").read_text(encoding="utf-8-sig"))
    source = (arguments.source or arguments.recipe / "source").resolve()
    if arguments.only_seed is not None:
        recipe = loaded(source, arguments.data)
        facts = one_run(
            recipe,
            arguments.data,
            arguments.split,
            spec["task"],
            arguments.only_seed,
            arguments.recipe / "judge.py",
        )
        print("\n" + json.dumps(facts))
        return 0
    runs = []
    command = [sys.executable, __file__, *(sys.argv[1:] if argv is None else argv), "--only-seed"]
    for seed in range(1, arguments.seeds + 1):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        child = subprocess.run(
            [*command, str(seed)], env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        runs.append(json.loads(child.stdout.splitlines()[-1]))
        print(
            f"seed {seed:3d}  " + "  ".join(f"{key} {value:.4f}" for key, value in runs[-1].items()),
            flush=True,
        )
    for key in runs[0]:
        values = [run[key] for run in runs]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{key:15s} mean {statistics.mean(values):12.4f}  sd {spread:10.4f}  n {len(values)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
