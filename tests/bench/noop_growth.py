"""A lineage grown by the real stages to a thousand trials, with the children's answers recorded from a real trial.

`grown(folder, trials)` -> cost per trial around trial 10 and around the last one. `stages_alone(engine, n)` runs n
trials one after the other without Prefect, as `tests.bench.campaign` does for its loop.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lineage.records import Check, Measurement, Row, TrainRun
from tests.bench.noop_campaign import make

NEAR = 8  # trials either side that a figure is the median of


def window(values: Sequence[float], at: int) -> float:
    """Median around the `at`-th value."""
    return statistics.median(values[max(0, at - 1 - NEAR) : at + NEAR])


class Recorded:
    """The judge's client with real answers for the baseline and the first trial, and those again ever after."""

    def __init__(self) -> None:
        self.check: Check | None = None
        self.run: TrainRun | None = None
        self.measurement: Measurement | None = None
        self.trials = 0

    def install(self) -> None:
        from evaluators.judge import judge_client

        real_smoke, real_train, real_judge = judge_client.smoke, judge_client.train, judge_client.judge

        def smoke(bench: Any, source: Path, **kwargs: Any) -> Check:
            self.check = self.check or real_smoke(bench, source, **kwargs)
            return self.check

        def train(bench: Any, source: Path, seed: int, out: Path, *args: Any) -> TrainRun:
            if self.measurement is None:
                self.run = real_train(bench, source, seed, out, *args)
                return self.run
            assert self.run is not None
            return self.run.model_copy(update={"seed": seed})

        def judge(bench: Any, source: Path, runs: Any, *, trial: str, **kwargs: Any) -> Measurement:
            if self.measurement is None:
                real = real_judge(bench, source, runs, trial=trial, **kwargs)
                if trial != "t0000":
                    self.measurement = real
                return real
            self.trials += 1
            score = (self.measurement.score or 0.0) * (
                1 + 1e-5 * (self.trials // 40)
            )  # a keep every 40 trials
            return self.measurement.model_copy(update={"trial": trial, "score": score})

        judge_client.smoke, judge_client.train, judge_client.judge = smoke, train, judge  # type: ignore[assignment]


def one(engine: Any, number: int, role: str) -> tuple[Row, dict[str, float]]:
    """A trial through the plain stages; its row and the CPU milliseconds of each part."""
    from flows.campaign.loop import Campaign, Submission, _submit, _why_not
    from flows.engine.campaign_config import BASELINE, now
    from flows.engine.stage_records import TrialRef
    from flows.trial import stages
    from flows.trial.recording import Progress, record

    cost: dict[str, float] = {}
    clock = time.process_time()

    def lap(name: str) -> None:
        nonlocal clock
        cost[name] = 1000 * (time.process_time() - clock)
        clock = time.process_time()

    if number:
        began = now()
        state = Campaign(engine, None, None, began, None, None, began)  # type: ignore[arg-type]
        _why_not(state)
        _submit(engine, Submission(trial=f"t{number:04d}", role=role, at=began))
    trial = f"t{number:04d}" if number else BASELINE
    ref = TrialRef(store=engine.root, campaign=engine.config.id, trial=trial, role=role)
    lap("admit")
    progress = Progress(ref=ref, started=now())
    progress.proposal = stages.propose(engine, ref)
    lap("propose")
    progress.patched = stages.patch(engine, ref, progress.proposal)
    lap("patch")
    progress.checks = stages.build(engine, ref, progress.patched)
    lap("build")
    purpose = "screen" if number else "calibrate"
    seeds = stages.seeds_for(engine, progress.patched, purpose)
    trained = stages.train(engine, ref, progress.patched, purpose, seeds)
    progress.runs = trained.runs
    lap("train")
    progress.measurement = stages.evaluate(engine, ref, progress.patched, trained)
    lap("evaluate")
    row = record(engine, progress)
    lap("label")
    stages.drop_scratch(engine, ref.trial)
    engine.compact()
    lap("compact")
    return row, cost


def stages_alone(engine: Any, trials: int) -> list[Row]:
    role = engine.config.roles[0].name
    return [one(engine, number, role)[0] for number in range(trials + 1)]


def grown(folder: Path, trials: int) -> dict[str, Any]:
    """Cost around trial 10 and around the last: whole, by stage, wall, and a proposal of the embedded proposer."""
    from agents.catalogue.proposer import CatalogueProposer
    from flows.engine.engine import engine_for
    from flows.engine.stage_records import TrialRef
    from flows.trial import stages

    root, identifier = make(folder, "growth", trials, 1, 1)
    engine = engine_for(root, identifier)
    Recorded().install()
    role = engine.config.roles[0].name
    catalogue: list[float] = []
    costs: list[dict[str, float]] = []
    walls: list[float] = []
    for number in range(trials + 1):
        began = time.perf_counter()
        _, cost = one(engine, number, role)
        walls.append(1000 * (time.perf_counter() - began))
        costs.append(cost)
        if number == 10 or number == trials:
            ref = TrialRef(store=root, campaign=identifier, trial=f"t{number + 1:04d}", role=role)
            proposer = CatalogueProposer(engine.environment.techniques, "")
            several = []
            for _ in range(5):
                clock = time.process_time()
                proposer.propose(stages._request(engine, ref))
                several.append(1000 * (time.process_time() - clock))
            catalogue.append(statistics.median(several))
    whole = [sum(cost.values()) for cost in costs[1:]]
    lines = {"stages alone, CPU ms": [window(whole, 10), window(whole, trials)]}
    lines["stages alone, wall ms"] = [window(walls[1:], 10), window(walls[1:], trials)]
    for name in costs[1]:
        values = [cost[name] for cost in costs[1:]]
        lines[f"- {name}, CPU ms"] = [window(values, 10), window(values, trials)]
    lines["a proposal of the catalogue, CPU ms"] = catalogue
    size = sum(path.stat().st_size for path in Path(root).rglob("*") if path.is_file())
    return {"trials": trials, "lines": lines, "bytes_per_trial": size / trials}
