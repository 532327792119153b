"""Runs a full-size recipe for a minute on synthetic files of the right shape, on the GPU at hand.

Use: `python -m tests.bench.full_size NAME --repo CLONE [--seconds 60]`, NAME one of parameter_golf,
nanochat_d12, airbench96 and CLONE a clone of its public repository. Prints one JSON line of timings, which
say that the path works and how fast, and nothing about scores. Limits: needs CUDA, and what the fetched
files import (sentencepiece, torchvision, filelock); no sandbox, no judge.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _common import fetch, shards, workspace
from environment_stand_ins import RECIPES, load_prepare

CHILD = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np, torch
import predict, train
data, out, shape, high = Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4]), int(sys.argv[5])
facts = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
def timed(name, call, *arguments):
    began = time.monotonic()
    answer = call(*arguments)
    facts[name] = round(time.monotonic() - began, 2)
    return answer
if __name__ == "__main__":
    timed("warm_up_s", train.warm_up, data / "fake")
    timed("train_s", train.train, data / "train", out, 1)
    facts["train_peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    model = timed("load_s", predict.load, out)
    rows = np.random.default_rng(0).integers(0, high, shape).astype(np.uint8 if high == 256 else np.int64)
    timed("first_answer_s", predict.predict, model, rows)
    answer = timed("answer_s", predict.predict, model, rows)
    facts |= {"rows": len(rows), "shape": list(answer.shape), "finite": bool(np.isfinite(answer).all())}
    facts["artifact_mb"] = round(sum(p.stat().st_size for p in out.iterdir()) / 1e6, 2)
    print("\\n" + json.dumps(facts))
"""


def synthetic_data(name: str, module: object, folder: Path) -> None:
    random = np.random.default_rng(0)
    for part in ("train", "fake"):
        (folder / part).mkdir(parents=True)
    if name == "airbench96":
        for part in ("train", "fake"):
            images = random.integers(0, 256, (50_000, 32, 32, 3), dtype=np.uint8)
            module.write_torch(folder / part / "train.pt", images, random.integers(0, 10, 50_000))  # type: ignore[attr-defined]
        return
    words, stem, start = (1024, "fineweb_train", 1) if name == "parameter_golf" else (32_759, "shard", 32_759)
    for number in range(8):
        for part, count in (("train", 4_000_000), ("fake", 300_000)):
            tokens = random.integers(0, words, count)
            tokens[::500] = start
            shards.write(folder / part / f"{stem}_{number:06d}.bin", tokens)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=["parameter_golf", "nanochat_d12", "airbench96"])
    parser.add_argument("--repo", type=Path, required=True, help="a clone of the public repository")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, where it is timed")
    parser.add_argument("--rows", type=int, default=64, help="of one prediction request")
    arguments = parser.parse_args(argv)
    environment = RECIPES / arguments.name
    task = tomllib.loads((environment / "environment.toml").read_text("utf-8"))["task"]
    module = load_prepare(environment)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = fetch.repository_files(module.REPOSITORY, arguments.repo, folder, "pass --repo")
        workspace.write_start(folder, found)
        workspace.check_units(environment, folder)
        shutil.copytree(environment / "source", folder / "source", dirs_exist_ok=True)
        fixed = folder / "source" / "fixed.py"
        if fixed.is_file():
            text = workspace.with_constants(fixed.read_text("utf-8"), {"TRAIN_SECONDS": arguments.seconds})
            fixed.write_text(text, "utf-8")
        synthetic_data(arguments.name, module, folder)
        (folder / "out").mkdir()
        (folder / "child.py").write_text(CHILD, "utf-8")
        shape = (
            [arguments.rows, 32, 32, 3]
            if task["kind"] == "classification"
            else [arguments.rows, task["context"]]
        )
        high = 256 if task["kind"] == "classification" else task["outputs"]
        command = [
            sys.executable,
            str(folder / "child.py"),
            *(str(folder / part) for part in ("source", "", "out")),
        ]
        done = subprocess.run([*command, json.dumps(shape), str(high)], check=False)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
