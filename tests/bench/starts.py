"""What a trial costs beside its measured work, forked and started, and whether the score is the same.

    python -m tests.bench.starts airbench_mini [--runs 5] [--equivalence 10]

Needs `bakeoff prepare NAME`. Each path is a trial of the start recipe: smoke, RUNS trainings one after another, the
judge. Measured work: training and prediction of every run, from data release to the end, without the second sitting.
Candidate CPU: all that the candidates' processes used, starts and audits included; a fork server's import is shown
apart, because a campaign pays it once. Equivalence: EQUIVALENCE seeds, each on both paths; two one-sided tests at 0.05
of the mean difference, which has to lie within half of the noise (the standard deviation of started runs).
Limits: other work on the machine widens both; the ratio is of CPU time and depends on that less than the wall clock.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from statsmodels.stats.weightstats import ttost_paired

from evaluators.judge import judge_client
from evaluators.judge.candidate_folders import read_source
from evaluators.judge.judge_client import Bench
from evaluators.judge.sandbox import prove_level
from evaluators.judge.uncounted_time import TIMES
from flows.environments.loading import load_environment
from flows.environments.prepared_data import check_data
from flows.measure.standalone import measure, smoke
from lineage.records import Measurement

PATHS = {"forked": "1", "started": "0"}
MARGIN = 0.5  # of the noise of one run


def bench_of(name: str, path: str, folder: Path) -> Bench:
    os.environ["BAKEOFF_PREPARED"] = PATHS[path]
    environment = load_environment(name)
    isolation = prove_level.best()
    if isolation.prepared is not (path == "forked"):
        raise SystemExit(f"runs are not forked here: {isolation.prepared_fault}")
    (folder / path).mkdir(exist_ok=True)
    return Bench(environment.spec, check_data(environment), isolation, folder / path)


def measured_work(found: Measurement) -> float:
    return sum(
        one.quantities["train_cpu_seconds"] + one.quantities["predict_cpu_seconds"] for one in found.per_seed
    )


def trial(name: str, path: str, runs: int, folder: Path) -> tuple[float, float]:
    """Candidate CPU and wall seconds of a trial, each as a multiple of its measured work."""
    bench = bench_of(name, path, folder)
    files = read_source(load_environment(name).folder / "source")
    server = judge_client.judge_server(bench)
    began = time.monotonic()
    check = smoke(bench, files, 1)
    done = measure(bench, files, range(runs), trial="bench", purpose="screen", slots=1)
    wall = time.monotonic() - began
    assert done.measurement is not None and done.measurement.score is not None, (check, done)
    work = measured_work(done.measurement)
    training = sum(run.facts.cpu_s + run.facts.start_cpu_s for run in done.runs)
    sittings = 2 if bench.spec.audits else 1
    answers = sittings * sum(
        s.facts.cpu_s + s.facts.start_cpu_s for s in done.measurement.per_seed if s.facts
    )
    spent = training + answers + float(check.numbers["cpu_s"])
    imports = f", import {server.cpu_s:.1f} CPU-s once" if server else ""
    print(
        f"  {path:8} measured work {work:6.2f}  candidates {spent:6.2f} CPU-s (training {training:.2f}, answers "
        f"{answers:.2f}, smoke {float(check.numbers['cpu_s']):.2f}{imports}): {spent / work:.2f} times; wall {wall:.1f} s"
    )
    return spent / work, wall / work


def equivalence(name: str, runs: int, folder: Path) -> None:
    """Two one-sided tests on the score of the start, each seed on both paths, one after the other in changing order.

    Where time is the score only the training is run, which is nearly all of it.
    """
    spec = load_environment(name).spec
    scores: dict[str, list[float]] = {path: [] for path in PATHS}
    for seed in range(runs):
        for path in sorted(PATHS, reverse=bool(seed % 2)):
            bench = bench_of(name, path, folder)
            scores[path].append(
                _training(bench, seed, folder) if spec.score.metric in TIMES else _score(bench, seed)
            )
    print(f"  {sentence(scores['forked'], scores['started'])}", flush=True)


def _training(bench: Bench, seed: int, folder: Path) -> float:
    source = load_environment(bench.spec.name).folder / "source"
    with tempfile.TemporaryDirectory(dir=folder) as out:
        run = judge_client.train(bench, source, seed, Path(out))
    assert run.cause is None, run
    return run.facts.cpu_s if bench.spec.score.metric == "cpu_seconds" else run.facts.wall_s


def _score(bench: Bench, seed: int) -> float:
    files = read_source(load_environment(bench.spec.name).folder / "source")
    done = measure(bench, files, [seed], trial="bench", purpose="screen", slots=1)
    assert done.measurement is not None and done.measurement.score is not None, done
    return done.measurement.score


def sentence(forked: Sequence[float], started: Sequence[float]) -> str:
    noise = statistics.stdev(started)
    gaps = [one - other for one, other in zip(forked, started, strict=True)]
    gap = statistics.fmean(gaps)
    told = f"forked {statistics.fmean(forked):.4f}, started {statistics.fmean(started):.4f}, difference {gap:+.4f}"
    if not any(gaps):
        return f"{told}: every one of {len(gaps)} seeds has the same score on both paths"
    p = float(ttost_paired(np.array(forked), np.array(started), -MARGIN * noise, MARGIN * noise)[0])
    verdict = "equivalent" if p < 0.05 else "not shown to be equivalent"
    return (
        f"{told} ({gap / noise:+.2f} of the noise {noise:.4f}, paired sd {statistics.stdev(gaps):.4f}); "
        f"{len(gaps)} seeds, TOST p {p:.3f}: {verdict}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--equivalence", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        for name in arguments.names:
            print(f"{name}, {arguments.runs} runs, load {os.getloadavg()[0]:.1f}")
            if not arguments.runs:
                equivalence(name, arguments.equivalence, Path(made).resolve())
                continue
            ratios = {path: trial(name, path, arguments.runs, Path(made).resolve()) for path in PATHS}
            cpu, wall = (ratios["forked"][k] / ratios["started"][k] for k in (0, 1))
            print(f"  forked / started: CPU {cpu:.2f}, wall {wall:.2f}")
            if arguments.equivalence:
                equivalence(name, arguments.equivalence, Path(made).resolve())


if __name__ == "__main__":
    main()
