"""What a trial and a campaign cost, as ratios within one run: `python -m tests.bench.speed PART ...`.

  read RUN...                       of recorded runs: CPU of a trial's processes over its measured work; its time on the clock over
                                    what the slots could have done the measured work in; runs saved by racing; time to the first keep
  campaigns ROOT ROOT [--trials 16] [--repeats 3]   `bakeoff run airbench_mini` of two checkouts in turns, the
                                    first against the second: time, keeps, confirmations, and each run as `read` tells it
  loop RUN                          the same program and seeds in a plain loop of one process (train, predict, score on the
                                    public split), against the record's CPU per trial of five runs, sandbox, audits and judge included

Each ROOT is a checkout with a virtual environment in `.venv` whose environments are prepared. Measured work is what a score
rests on: training and one prediction of each run, from data release on. Limits: CPU seconds of one machine; run it
with nothing beside.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

CPU = ("build_cpu_s", "train_cpu_s", "evaluate_cpu_s")
CLOCK = ("patch_s", "build_s", "train_s", "evaluate_s", "label_s")
LOOP = """
import json, pathlib, sys, tempfile
source, data, seeds = sys.argv[1], pathlib.Path(sys.argv[2]), json.loads(sys.argv[3])
sys.path.insert(0, source)
import numpy as np, torch, train, predict
torch.set_num_threads(1)
inputs, labels = np.load(data / "public" / "inputs.npy"), np.load(data / "public" / "labels.npy")
train.warm_up(data / "fake") if hasattr(train, "warm_up") else None
for seed in seeds:
    out = pathlib.Path(tempfile.mkdtemp())
    train.train(data / "train", out, seed)
    model = predict.load(out)
    answers = np.concatenate([predict.predict(model, inputs[at:at + 300]) for at in range(0, len(inputs), 300)])
    print(seed, float((answers.argmax(1) == labels).mean()))
"""


def trials_of(run: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trial rows with a score, with cost and measured work, and all rows."""
    rows = pd.read_parquet(run / "lineage")
    trials = rows[(rows["event"] == "trial") & rows["score"].notna()].copy()
    trials["cpu"] = trials[list(CPU)].fillna(0).sum(axis=1)
    trials["clock"] = trials[list(CLOCK)].fillna(0).sum(axis=1)
    means = trials["quantities_json"].map(json.loads)
    work = means.map(lambda q: q.get("train_cpu_seconds", 0.0) + q.get("predict_cpu_seconds", 0.0))
    trials["runs"] = trials["scores"].map(len)
    trials["work"] = work * trials["runs"]
    return trials, rows


def facts(run: Path, slots: int = 2) -> dict[str, Any]:
    """Figures of one recorded run."""
    trials, rows = trials_of(run)
    screens = trials[trials["trial"] != "t0000"]
    planned = (screens["planned_runs"] if "planned_runs" in screens else screens["runs"]).max()
    whole = screens[screens["runs"] == screens["runs"].max()]
    began = rows.loc[(rows["event"] == "campaign") & (rows["operator"] == "start"), "t_started"].min()
    keeps = rows[(rows["event"] == "trial") & (rows["status"] == "keep")]
    ended = rows[["t_started", "t_finished"]].max().max()
    return {
        "trials": len(screens),
        "keeps": len(keeps),
        "confirmed": int((rows["verdict"] == "confirmed").sum()),
        "seconds": round((ended - began).total_seconds(), 1),
        "first_keep_s": round((keeps["t_finished"].min() - began).total_seconds(), 1) if len(keeps) else None,
        "cpu_over_work": round(float((whole["cpu"] / whole["work"]).median()), 2) if len(whole) else None,
        "clock_over_work": round(float((whole["clock"] / (whole["work"] / slots)).min()), 2) if len(whole) else None,
        "runs_saved": round(1 - float(screens["runs"].sum()) / (len(screens) * float(planned)), 3)
        if len(screens)
        else None,
    }  # fmt: skip


def campaign(root: Path, environment: str, trials: int, seed: int, folder: Path) -> dict[str, Any]:
    run = folder / f"{root.name}-{seed}"
    command = [
        str(root / ".venv" / "bin" / "python"),
        "-m",
        "flows.cli",
        "run",
        environment,
        "--run",
        str(run),
    ]
    began = time.monotonic()
    done = subprocess.run(
        [*command, "--trials", str(trials), "--seed", str(seed), "--plain"],
        cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}\n{done.stderr[-2000:]}")
    return {**facts(run), "command_s": round(time.monotonic() - began, 1)}


def campaigns(told: argparse.Namespace) -> None:
    found: dict[str, list[dict[str, Any]]] = {str(root): [] for root in told.roots}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(told.repeats):
            for root in told.roots if repeat % 2 == 0 else reversed(told.roots):
                one = campaign(root.resolve(), told.environment, told.trials, 7 + repeat, Path(folder))
                found[str(root)].append(one)
                print(root, json.dumps(one), flush=True)
    first, second = (found[str(root)] for root in told.roots)
    for name in ("command_s", "keeps", "confirmed"):
        ours, theirs = (statistics.mean(one[name] for one in side) for side in (first, second))
        print(f"{name}: {ours:.1f} against {theirs:.1f}" + (f", {ours / theirs:.2f} times" if theirs else ""))


def loop(told: argparse.Namespace) -> None:
    from flows.environments.loading import load_environment
    from flows.environments.prepared_data import check_data

    trials, _ = trials_of(told.runs[0])
    environment = load_environment(told.environment)
    with tempfile.TemporaryDirectory() as folder:
        for name, data in environment.source().items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        seeds = json.dumps(list(range(told.seeds)))
        command = [sys.executable, "-c", LOOP, folder, str(check_data(environment)), seeds]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    plain = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    start = trials[trials["trial"] == "t0000"].iloc[0]
    per_run = (start["cpu"] + (start["engine_cpu_s"] or 0.0)) / start["runs"]
    ours = per_run * told.seeds
    print(f"plain loop of {told.seeds} seeds {plain:.1f} CPU-s, here {ours:.1f}: {ours / plain:.2f} times")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--environment", default="airbench_mini")
    parts = parser.add_subparsers(dest="part", required=True)
    reading = parts.add_parser("read")
    reading.add_argument("runs", nargs="+", type=Path)
    both = parts.add_parser("campaigns")
    both.add_argument("roots", nargs=2, type=Path)
    both.add_argument("--trials", type=int, default=16)
    both.add_argument("--repeats", type=int, default=3)
    plain = parts.add_parser("loop")
    plain.add_argument("runs", nargs=1, type=Path)
    plain.add_argument("--seeds", type=int, default=5)
    told = parser.parse_args()
    if told.part == "read":
        for run in told.runs:
            print(run, json.dumps(facts(run)))
    else:
        {"campaigns": campaigns, "loop": loop}[told.part](told)


if __name__ == "__main__":
    main()
