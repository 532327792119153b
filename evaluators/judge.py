"""The judge's process: holds the labels, asks the predictor, computes every number of a measurement.

Use: started by `evaluators.client.judge` as `python -I -B`, one JSON job on stdin, one Measurement as
JSON on stdout. It imports no candidate code and unpickles nothing; candidate bytes reach it only as
float32 arrays of the expected size. Limits: the end of stdin ends it at once, and the sandbox with it.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evaluators import endings, identity
from evaluators.accelerators import describe, use_library
from evaluators.audits import compare, second_sitting
from evaluators.device_watch import Watch
from evaluators.exchange import Broken, Channel
from evaluators.gates import judge_gate
from evaluators.literals import embedded_data, pays_for_bytes
from evaluators.questions import Questions, Sitting, ordinary
from evaluators.sandbox.box import MIB, Box, Limits, limits_for, request
from evaluators.sandbox.prove import Isolation
from evaluators.sandbox.session import Session
from evaluators.tasks import questions
from evaluators.workplace import read_source, stage
from lineage.ids import tree_hash
from lineage.records import Check, Device, Measurement, Number, RunFacts, SeedResult, TrainRun
from lineage.spec import EnvironmentSpec

QUALITY = {"accuracy": 1, "bits_per_byte": -1, "centered_accuracy": 1}  # +1: higher is better


@dataclass(frozen=True)
class Job:
    spec: EnvironmentSpec
    data: Path
    isolation: Isolation
    devices: tuple[Device, ...]
    folder: Path
    source: Path
    source_bytes: int
    runs: tuple[tuple[TrainRun, Path], ...]
    trial: str
    purpose: Any
    split: Any
    lifeline: int


def read_job(raw: bytes) -> Job:
    job = json.loads(raw)
    use_library(job["driver_library"])
    return Job(
        spec=EnvironmentSpec.model_validate(job["spec"]),
        data=Path(job["data"]),
        isolation=Isolation.model_validate(job["isolation"]),
        devices=tuple(Device.model_validate(device) for device in job["devices"]),
        folder=Path(job["folder"]),
        source=Path(job["source"]),
        source_bytes=job["source_bytes"],
        runs=tuple((TrainRun.model_validate(r["run"]), Path(r["place"])) for r in job["runs"]),
        trial=job["trial"],
        purpose=job["purpose"],
        split=job["split"],
        lifeline=job["lifeline"],
    )


def predict_limits(spec: EnvironmentSpec) -> Limits:
    return limits_for(spec.budget, spec.budget.predict_cpu_s, spec.budget.predict_wall_s, writes=False)


def _box(job: Job, folder: Path, artifact: Path) -> Box:
    folder.mkdir()
    data = stage(artifact, folder / "staged", link=bool(job.isolation.tools.bwrap))
    return Box(
        mode="predict",
        folder=str(folder),
        source=str(job.source),
        fake=str(job.data / "fake"),
        data=str(data),
        outputs=job.spec.task.outputs,
        context=job.spec.task.context if job.spec.task.kind == "language_model" else 0,
        packages=tuple(job.spec.packages),
        masked=tuple(job.spec.masked_packages),
        devices=job.devices,
        limits=predict_limits(job.spec),
    )


def ask_all(job: Job, folder: Path, artifact: Path, sitting: Sitting) -> tuple[dict[str, Any], Broken | None]:
    """One predictor process answers all of `sitting`; the supervisor's last report, and the rule broken."""
    channel = Channel()
    broken: Broken | None = None
    try:
        box = _box(job, folder, artifact)
        handles = [*channel.theirs.values(), job.lifeline]
        with Watch(job.devices) as watch:
            session = Session(request(box, job.isolation.tools, channel.theirs), handles)
            channel.give_away()
            try:
                if session.released():
                    for rows, shape, take in sitting.requests():
                        take(channel.ask(rows, shape))
                    session.tell("stop")
            except Broken as error:
                broken = error
                if error.rule:
                    session.tell("stop")
            final = session.finish()
        final["device"] = watch.use
        if broken is None and final["end"] == "exit" and channel.leftovers():
            broken = Broken("extra_bytes", "bytes after the last answer")
    finally:
        channel.close()
    return final, broken


def measure_seed(job: Job, index: int, run: TrainRun, place: Path, sitting: Sitting) -> SeedResult:
    """Quantities of one seed, or why there are none."""
    if run.artifact is None or run.cause is not None:
        return SeedResult(seed=run.seed, cause=run.cause or "no_artifact", numbers=run.numbers)
    final, broken = ask_all(job, job.folder / f"predict{index}", place, sitting)
    facts = endings.facts(final, job.isolation.level)
    cause, numbers = why(job, final, broken, sitting)
    if cause is not None:
        return SeedResult(seed=run.seed, cause=cause, numbers=numbers, facts=facts)
    quantities = {**sitting.asked.score(sitting.kept), **_costs(job, run, facts)}
    return SeedResult(seed=run.seed, quantities=quantities, facts=facts)


def why(
    job: Job, final: dict[str, Any], broken: Broken | None, sitting: Sitting
) -> tuple[str | None, dict[str, Number]]:
    """Cause and numbers of one sitting; None when every answer was lawful."""
    explained, numbers = endings.explain(final, predict_limits(job.spec))
    if broken is not None and broken.rule and not (broken.rule == "short_answer" and explained):
        cause = "nan" if broken.rule == "nan" else f"illegal:{broken.rule}"
        return cause, {**broken.numbers, "detail": str(broken)}
    if explained is None and not sitting.complete:
        return "illegal:early_exit", {"answered": sitting.answered, "requests": len(sitting.plan)}
    return explained, numbers


def audit(job: Job, asked: Questions, sittings: Sequence[Sitting | None]) -> tuple[Check, ...]:
    """Ask a fresh predictor again, of the run whose answers were best: a leak in any run makes it that one."""
    scores = {i: asked.score(sitting.kept) for i, sitting in enumerate(sittings) if sitting is not None}
    if not scores or not job.spec.audits:
        return ()
    best = {_best(scores, name) for name in QUALITY if name in next(iter(scores.values()))}
    checks: list[Check] = []
    for index in sorted(best):
        first = sittings[index]
        assert first is not None
        checks += _audit_run(job, asked, index, first)
    return tuple(checks)


def _best(scores: dict[int, dict[str, float]], name: str) -> int:
    return max(scores, key=lambda index: QUALITY[name] * scores[index][name])


def _audit_run(job: Job, asked: Questions, index: int, first: Sitting) -> tuple[Check, ...]:
    run, place = job.runs[index]
    second = second_sitting(asked, first)
    final, broken = ask_all(job, job.folder / f"audit{index}", place, second)
    cause, numbers = why(job, final, broken, second)
    if cause is not None:
        detail = f"the predictor of seed {run.seed} failed when it was asked again: {cause}"
        return (Check(name="audit", passed=False, numbers={**numbers, "cause": cause}, detail=detail),)
    checks = compare(job.spec.audits, asked, first, second)
    return tuple(c.model_copy(update={"detail": f"{c.detail}, the run of seed {run.seed}"}) for c in checks)


def _costs(job: Job, run: TrainRun, facts: RunFacts) -> dict[str, float]:
    """Seconds and bytes of one seed; seconds run from data release, by the supervisor's clocks."""
    assert run.artifact is not None
    train = run.facts
    return {
        "cpu_seconds": train.cpu_s + facts.cpu_s,
        "wall_seconds": train.wall_s + facts.wall_s,
        "train_cpu_seconds": train.cpu_s,
        "train_wall_seconds": train.wall_s,
        "predict_cpu_seconds": facts.cpu_s,
        "predict_wall_seconds": facts.wall_s,
        "start_cpu_seconds": train.start_cpu_s + facts.start_cpu_s,
        "peak_mb": max(train.peak_bytes, facts.peak_bytes) / MIB,
        "artifact_bytes": float(run.artifact.bytes),
        "source_bytes": float(job.source_bytes),
        "total_bytes": float(run.artifact.bytes + job.source_bytes),
    }


def means(results: Sequence[SeedResult]) -> dict[str, float]:
    names = set.intersection(*(set(r.quantities) for r in results)) if results else set()
    return {n: math.fsum(r.quantities[n] for r in results) / len(results) for n in sorted(names)}


def measure(job: Job) -> Measurement:
    spec, load = job.spec, os.getloadavg()[0]
    identity.check_data(job.data, (f"{job.split}/", "fake/"))
    asked = questions(spec, job.data / job.split)
    results: list[SeedResult] = []
    sittings: list[Sitting | None] = []
    for index, (run, place) in enumerate(job.runs):
        sitting = ordinary(asked)
        results.append(measure_seed(job, index, run, place, sitting))
        sittings.append(sitting if results[-1].cause is None else None)
    whole = bool(results) and all(r.cause is None for r in results)
    quantities = means(results) if whole else {}
    checks: tuple[Check, ...] = ()
    if whole:
        checks = tuple(
            judge_gate(g, [r.quantities.get(g.quantity, math.nan) for r in results]) for g in spec.gates
        )
    files = read_source(job.source)
    audits = audit(job, asked, sittings) if whole else ()
    if whole and not pays_for_bytes(spec):
        audits = (*audits, embedded_data(files))
    sizes = [run.artifact.bytes for run, _ in job.runs if run.artifact]
    return Measurement(
        trial=job.trial,
        purpose=job.purpose,
        split=job.split,
        metric=spec.score.metric,
        score=quantities.get(spec.score.metric),
        per_seed=tuple(results),
        quantities=quantities,
        gates=checks,
        audits=audits,
        artifact_bytes=max(sizes, default=0),
        source_bytes=job.source_bytes,
        source_sha256=tree_hash(files),
        environment_sha256=identity.environment_sha256(spec, job.data),
        evaluator_sha256=identity.evaluator_sha256(),
        isolation=job.isolation.level,
        machine=identity.machine_identity(),
        accelerator=describe(job.devices),
        load_start=load,
        load_end=os.getloadavg()[0],
        measured_at=datetime.now(UTC),
    )


def _die_with_engine() -> None:
    """Blocks until stdin ends; then nobody is left to take the answer."""
    while os.read(0, 4096):
        pass
    os._exit(3)


def main() -> None:
    raw = bytearray()
    while not raw.endswith(b"\n"):
        data = os.read(0, 1 << 16)
        if not data:
            return
        raw += data
    threading.Thread(target=_die_with_engine, daemon=True).start()
    answer = measure(read_job(bytes(raw))).model_dump_json()
    sys.stdout.write(answer)
    sys.stdout.flush()
    os._exit(0)
