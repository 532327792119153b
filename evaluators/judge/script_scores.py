"""The judge's part of a script: run the protected evaluator in a sandbox of its own, read the metrics, add the costs.

Use: `measure_script(job, run, place)` by `evaluators.judge.judge_process`. The evaluator's sandbox holds the protected
files (`evaluators.judge.script_files`), the sealed `{out}` read-only, and the data of one split, which no other sandbox
ever has. Without an evaluator the metrics come from the training run itself: then the score is `reported`.
Limits: an evaluator that unpickles what training left runs the candidate's code; it should load weights only.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluators.judge import failure_causes, judge_hashes
from evaluators.judge.candidate_folders import indistinct_copy, read_source, write_files
from evaluators.judge.device_watch import Watch
from evaluators.judge.sandbox.bubblewrap import MIB, Box, request
from evaluators.judge.sandbox.supervisor_client import Session
from evaluators.judge.script_files import for_evaluation, is_in_place, protected_check, staged
from evaluators.judge.script_metrics import NoMetric, read_metrics
from evaluators.judge.script_training import OUT, OUTPUT, data_places, script_limits
from lineage.records import Check, RunFacts, SeedResult, TrainRun

if TYPE_CHECKING:
    from evaluators.judge.judge_process import Job


def measure_script(job: Job, run: TrainRun, place: Path) -> SeedResult:
    """Quantities of one run, or why there are none."""
    if run.artifact is None or run.cause is not None:
        return SeedResult(seed=run.seed, cause=run.cause or "no_artifact", numbers=run.numbers)
    facts, output = None, place / OUTPUT
    if job.spec.task.evaluate:
        output = job.folder / f"evaluated-{secrets.token_hex(8)}.log"
        final, caps = _evaluate(job, run, place / OUT, output)
        facts = failure_causes.facts(final, job.isolation.level)
        cause, numbers = failure_causes.explain(final, caps)
        if cause is not None:
            return SeedResult(seed=run.seed, cause=cause, numbers=numbers, facts=facts)
    try:
        found = read_metrics(job.spec.task.metrics, output, place / OUT)
    except NoMetric as fault:
        return SeedResult(seed=run.seed, cause=fault.cause, numbers=fault.numbers, facts=facts)
    return SeedResult(
        seed=run.seed,
        quantities={**found, **_costs(job, run, facts)},
        facts=facts,
        artifact_sha256=run.artifact.sha256,
    )


def check_split(job: Job) -> None:
    """Raise DataMissing unless the data that the evaluator sees are what the manifest says."""
    wanted = (f"{job.split}/", "train/") if job.spec.task.evaluate else ("train/",)
    judge_hashes.check_data(job.data, wanted, needed=False)


def checks_of(job: Job, files: Mapping[str, bytes]) -> tuple[Check, ...]:
    """The one check that every measurement of a script with protected files has."""
    return (protected_check(job.spec.task, files, job.start),) if job.spec.task.protected else ()


def _evaluate(job: Job, run: TrainRun, sealed: Path, output: Path) -> tuple[dict[str, Any], Any]:
    spec, folder = job.spec, job.folder / secrets.token_hex(8)
    (folder / "fake").mkdir(parents=True)
    data, link = folder / "staged", bool(job.isolation.tools.bwrap)
    data.mkdir()
    indistinct_copy(sealed, data / "out")
    staged(job.data / job.split, data / "eval", link=link)
    staged(job.data / "train", data / "train", link=link)
    in_place = is_in_place(job.data)
    caps = script_limits(spec, spec.budget.predict_cpu_s, spec.budget.predict_wall_s, writes=False)
    box = Box(
        mode="script",
        folder=str(folder),
        source=str(
            write_files(folder / "recipe", for_evaluation(spec.task, read_source(job.source), job.start))
        ),
        fake=str(folder / "fake"),
        data=str(data),
        packages=tuple(spec.packages),
        masked=tuple(spec.masked_packages),
        python=spec.runtime.python,
        build=spec.runtime.build,
        devices=job.devices,
        command=spec.task.evaluate,
        values={
            "out": "{released}/out",
            "eval_data": "{work}/data" if in_place else "{released}/eval",
            **data_places(job.data, "train"),
        },
        links=("train", "eval") if in_place else (),
        output=str(output),
        limits=caps,
    )
    with Watch(job.devices) as watch:
        final = Session(request(box, job.isolation.tools), [job.lifeline]).finish()
    final["device"] = watch.use
    return final, caps


def _costs(job: Job, run: TrainRun, evaluated: RunFacts | None) -> dict[str, float]:
    """Seconds and bytes of one run, from the start of each process, by the supervisor's clocks."""
    assert run.artifact is not None
    cpu, wall = run.facts.cpu_s + run.facts.start_cpu_s, run.facts.wall_s + run.facts.start_wall_s
    more = {}
    if evaluated is not None:
        more = {
            "evaluate_cpu_seconds": evaluated.cpu_s + evaluated.start_cpu_s,
            "evaluate_wall_seconds": evaluated.wall_s + evaluated.start_wall_s,
        }
    return {
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "train_cpu_seconds": cpu,
        "train_wall_seconds": wall,
        **more,
        "peak_mb": max(run.facts.peak_bytes, evaluated.peak_bytes if evaluated else 0) / MIB,
        "artifact_bytes": float(run.artifact.bytes),
        "source_bytes": float(job.source_bytes),
        "total_bytes": float(run.artifact.bytes + job.source_bytes),
    }
