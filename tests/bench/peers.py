"""CPU per trial of the same evaluator here, in a plain loop and under openevolve's runner: `python -m tests.bench.peers RUN`.

RUN is a recorded campaign of `airbench_mini` made on this machine. A trial is the start recipe with five seeds: trained,
asked once, scored on the public split. The plain loop is one process that imports torch once. openevolve (from its wheel,
with a model on loopback that moves one number which nothing reads) calls the same evaluator in its worker, which imports
torch once for all its iterations; its whole CPU, the engine's too, is divided by its evaluations. Here: the CPU of all
processes of the start's trial, sandbox, audits and judge included, for as many runs. Needs `pip install --target
FOLDER openevolve dacite flask` and `--openevolve FOLDER`. Limits: CPU seconds of one machine; run it with nothing beside.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from flows.environments.loading import load_environment
from flows.environments.prepared_data import check_data
from tests.bench.speed import LOOP, trials_of
from tests.fakes.messages_server import FakeMessages
from tests.fakes.script import Json, Script, Step, text

EVALUATOR = """
import importlib.util, json, pathlib, shutil, sys, tempfile
import numpy as np, torch
torch.set_num_threads(1)
SOURCE, DATA, SEEDS = pathlib.Path({source!r}), pathlib.Path({data!r}), {seeds}
inputs, labels = np.load(DATA / "public" / "inputs.npy"), np.load(DATA / "public" / "labels.npy")

def evaluate(path):
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(SOURCE, folder, dirs_exist_ok=True)
        shutil.copy(path, pathlib.Path(folder) / "optim.py")
        for name in [p.stem for p in SOURCE.glob("*.py")]:
            sys.modules.pop(name, None)
        sys.path.insert(0, folder)
        try:
            import train, predict
            train.warm_up(DATA / "fake") if hasattr(train, "warm_up") else None
            right = []
            for seed in SEEDS:
                out = pathlib.Path(tempfile.mkdtemp(dir=folder))
                train.train(DATA / "train", out, seed)
                model = predict.load(out)
                answers = np.concatenate(
                    [predict.predict(model, inputs[at : at + 300]) for at in range(0, len(inputs), 300)]
                )
                right.append(float((answers.argmax(1) == labels).mean()))
        finally:
            sys.path.remove(folder)
    return {{"combined_score": float(np.mean(right))}}
"""
CONFIG = """max_iterations: {iterations}
checkpoint_interval: {iterations}
log_level: WARNING
random_seed: 1
max_code_length: 200000
diff_based_evolution: true
llm:
  api_base: "{url}/v1"
  api_key: "none"
  models: [{{name: "fake", weight: 1.0}}]
  timeout: 60
  retries: 1
database: {{num_islands: 1, population_size: 100, archive_size: 20}}
evaluator: {{timeout: 600, cascade_evaluation: false, parallel_evaluations: 1, max_retries: 0}}
"""
MARK = "UNREAD = 0"


def children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def plain_loop(source: Path, data: Path, seeds: int) -> float:
    """CPU seconds of one trial."""
    before = children_cpu_s()
    command = [sys.executable, "-c", LOOP, str(source), str(data), json.dumps(list(range(seeds)))]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    return children_cpu_s() - before


def moves() -> Script:
    """An edit that makes every program new and changes nothing that is run."""
    numbers = itertools.count(1)
    last = [0]

    def answer(body: Json) -> Step:
        old, last[0] = body["messages"][-1]["content"].rpartition("UNREAD = ")[2].split()[0], next(numbers)
        return text(f"<<<<<<< SEARCH\nUNREAD = {old}\n=======\nUNREAD = {last[0]}\n>>>>>>> REPLACE\n")

    return answer


def openevolve(wheel: Path, source: Path, data: Path, seeds: int, iterations: int, folder: Path) -> float:
    """CPU seconds per evaluation, of the first program and of each iteration. Raises SystemExit if one is missing."""
    program = (source / "optim.py").read_text("utf-8")
    (folder / "initial.py").write_text(
        f"# EVOLVE-BLOCK-START\n{MARK}\n# EVOLVE-BLOCK-END\n{program}".replace(
            "from __future__ import annotations\n", ""
        )
    )
    (folder / "evaluator.py").write_text(
        EVALUATOR.format(source=str(source), data=str(data), seeds=list(range(seeds)))
    )
    with FakeMessages(moves()) as server:
        (folder / "config.yaml").write_text(CONFIG.format(iterations=iterations, url=server.url))
        before = children_cpu_s()
        done = subprocess.run(
            [
                sys.executable, "-m", "openevolve.cli", "initial.py", "evaluator.py", "--config", "config.yaml",
                "--iterations", str(iterations), "--output", "out",
            ],
            cwd=folder, capture_output=True, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(wheel), "OPENAI_API_KEY": "none"},
        )  # fmt: skip
        used = children_cpu_s() - before
    programs = {path.name for path in (folder / "out").rglob("programs/*.json")}
    if done.returncode or len(programs) != iterations + 1:
        raise SystemExit(
            f"openevolve kept {len(programs)} programs of {iterations + 1}\n{(done.stdout + done.stderr)[-3000:]}"
        )
    return used / (iterations + 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument(
        "--openevolve", type=Path, required=True, help="folder that `pip install --target` filled"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=8)
    given = parser.parse_args()
    environment = load_environment("airbench_mini")
    data = check_data(environment)
    with tempfile.TemporaryDirectory() as name:
        source, folder = Path(name) / "source", Path(name) / "peer"
        folder.mkdir()
        for path, content in environment.source().items():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_bytes(content)
        loop = plain_loop(source, data, given.seeds)
        peer = openevolve(given.openevolve, source, data, given.seeds, given.iterations, folder)
    trials, _ = trials_of(given.run)
    whole = trials[trials["runs"] >= given.seeds]
    ours = float(((whole["cpu"] + whole["engine_cpu_s"].fillna(0)) / whole["runs"]).median()) * given.seeds
    cheaper = min(loop, peer)
    print(
        f"CPU-s per trial of {given.seeds} runs: plain loop {loop:.1f}, openevolve {peer:.1f} (mean of {given.iterations + 1}), "
        f"here {ours:.1f} (median of {len(whole)} trials): {ours / cheaper:.2f} times the cheaper one"
    )


if __name__ == "__main__":
    main()
