"""The judge's process: holds the labels, asks the predictor, computes every number of a measurement.

Use: started by `evaluators.judge.judge_client.judge` as `python -I -B`, one JSON job on stdin, one Measurement as
JSON on stdout. It imports no candidate code and unpickles nothing; candidate bytes reach it only as
float32 arrays of the expected size. Limits: the end of stdin ends it at once, and the sandbox with it.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.judge import failure_causes, judge_hashes
from evaluators.judge.accelerators import describe, use_library
from evaluators.judge.candidate_folders import indistinct_copy, read_source
from evaluators.judge.data_in_source import embedded_data, pays_for_bytes
from evaluators.judge.device_watch import Watch
from evaluators.judge.gates import judge_gate
from evaluators.judge.item_scores import NAME as ITEMS
from evaluators.judge.item_scores import pack, stacked
from evaluators.judge.leak_audits import compare, merged, sittings
from evaluators.judge.predictor_pipes import Broken, Channel
from evaluators.judge.question_kinds import questions
from evaluators.judge.questions import Kept, Questions, Sitting
from evaluators.judge.sandbox.bubblewrap import MIB, Box, Limits, Server, limits_for, request
from evaluators.judge.sandbox.compiled_packages import compiled
from evaluators.judge.sandbox.prove_level import Isolation
from evaluators.judge.sandbox.supervisor_client import Session
from evaluators.judge.script_scores import check_split, checks_of, measure_script
from evaluators.judge.source_size import added_information
from evaluators.judge.uncounted_time import Bill, Reference, bill, over_budget, start_seconds
from lineage.environment_spec import EnvironmentSpec
from lineage.ids import sha256, tree_hash
from lineage.records import Check, Device, Measurement, Number, RunFacts, SeedResult, TrainRun

SKETCH, SKETCH_SEED = 4, 20_261_128


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
    reference: Reference | None = None
    start: Mapping[str, bytes] | None = None
    server: Server | None = None


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
        start=None if job["start"] is None else {n: s.encode("latin-1") for n, s in job["start"].items()},
        reference=Reference.model_validate(job["reference"]) if job["reference"] else None,
        server=Server.model_validate(job["server"]) if job["server"] else None,
    )


def predict_limits(spec: EnvironmentSpec) -> Limits:
    return limits_for(spec.budget, spec.budget.predict_cpu_s, spec.budget.predict_wall_s, writes=False)


def _box(job: Job, artifact: Path) -> Box:
    """Copies of its own for every process: neither names, times nor inodes say what it is asked for, or when."""
    folder = job.folder / secrets.token_hex(8)
    folder.mkdir()
    return Box(
        mode="predict",
        folder=str(folder),
        source=str(indistinct_copy(job.source, folder / "source")),
        fake=str(job.data / "fake"),
        data=str(indistinct_copy(artifact, folder / "staged")),
        outputs=job.spec.task.outputs,
        context=job.spec.task.context if job.spec.task.kind == "language_model" else 0,
        packages=tuple(job.spec.packages),
        masked=tuple(job.spec.masked_packages),
        compiled=_compiled(job),
        devices=job.devices,
        limits=predict_limits(job.spec),
    )


def _compiled(job: Job) -> str:
    """The copy of the packages for a predictor whose bytes count, kept beside the prepared data; "" for the real ones.

    On a GPU they are the real ones: Triton compiles from sources.
    """
    spec = job.spec
    if not pays_for_bytes(spec) or spec.budget.gpus or not job.isolation.tools.bwrap:
        return ""
    cache = job.data.resolve().parent / ".compiled"
    return str(compiled(tuple(spec.packages), tuple(spec.masked_packages), cache))


def ask_all(job: Job, artifact: Path, sitting: Sitting) -> tuple[dict[str, Any], Broken | None]:
    """One predictor process answers all of `sitting`; the supervisor's last report, and the rule broken."""
    channel = Channel()
    broken: Broken | None = None
    try:
        box = _box(job, artifact)
        handles = [*channel.theirs.values(), job.lifeline]
        with Watch(job.devices) as watch:
            # the fork server has the packages' real files in its memory, and their prose with them
            server = None if box.compiled else job.server
            session = Session(request(box, job.isolation.tools, channel.theirs, server), handles)
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


def measure_seed(
    job: Job, run: TrainRun, place: Path, asked: tuple[Sitting, ...]
) -> tuple[SeedResult, tuple[Check, ...]]:
    """Quantities of one seed, or why there are none, and its audits.

    Every sitting must end well; of what they cost the larger figure counts, of their answers the worse, which
    `asked[0].kept` then has.
    """
    if run.artifact is None or run.cause is not None:
        return SeedResult(seed=run.seed, cause=run.cause or "no_artifact", numbers=run.numbers), ()
    every: list[RunFacts] = []
    for sitting in asked:
        final, broken = ask_all(job, place, sitting)
        every.append(failure_causes.facts(final, job.isolation.level))
        cause, numbers = sitting_cause(job, final, broken, sitting)
        if cause is not None:
            return SeedResult(seed=run.seed, cause=cause, numbers=numbers, facts=every[-1]), ()
    facts = max(every, key=lambda one: one.cpu_s)
    owed = bill(job.spec.budget, job.reference, run.facts, every)
    beyond = over_budget(job.spec, owed, run.facts)
    if beyond:
        return SeedResult(seed=run.seed, cause=str(beyond.pop("cause")), numbers=beyond, facts=facts), ()
    checks: tuple[Check, ...] = ()
    if len(asked) > 1:
        checks = compare(job.spec, *asked)
        asked[0].kept = merged(*asked)
    kept = asked[0].kept
    result = SeedResult(
        seed=run.seed,
        quantities={**asked[0].asked.score(kept), **_costs(job, run, every, owed)},
        facts=facts,
        answers_sha256=sha256(np.ascontiguousarray(kept).tobytes()),
        sketch=sketch(kept),
        artifact_sha256=run.artifact.sha256,
    )
    return result, checks


def sketch(kept: Kept) -> tuple[float, ...]:
    """A few fixed projections of the answers, each divided by their root mean square.

    Two runs that gave the same answers up to rounding have the same sketch up to rounding; of two that did not,
    all of them agree by chance about never. Signs come from a fixed generator: they hide nothing.
    """
    flat = kept.reshape(-1)
    scale = math.sqrt(float(np.mean(flat**2))) or 1.0
    signs = np.random.default_rng(SKETCH_SEED)
    return tuple(
        float(np.sum(np.where(signs.integers(0, 2, flat.size, dtype=np.int8), flat, -flat)))
        / (scale * math.sqrt(flat.size))
        for _ in range(SKETCH)
    )


def write_items(job: Job, asked: Questions, runs: Sequence[Sitting | None]) -> str:
    """Leave the artifact of the test items in the job's folder and return its hash; empty unless every run counts."""
    answered = [sitting for sitting in runs if sitting is not None]
    if not answered or len(answered) != len(job.runs):
        return ""
    given = [asked.items(sitting.kept) for sitting in answered]
    data = pack(
        [run.seed for run, _ in job.runs], {name: stacked([one[name] for one in given]) for name in given[0]}
    )
    (job.folder / ITEMS).write_bytes(data)
    return sha256(data)


def sitting_cause(
    job: Job, final: dict[str, Any], broken: Broken | None, sitting: Sitting
) -> tuple[str | None, dict[str, Number]]:
    """Cause and numbers of one sitting; None when every answer was lawful."""
    explained, numbers = failure_causes.explain(final, predict_limits(job.spec))
    if broken is not None and broken.rule and not (broken.rule == "short_answer" and explained):
        cause = "nan" if broken.rule == "nan" else f"illegal:{broken.rule}"
        return cause, {**broken.numbers, "detail": str(broken)}
    if explained is None and not sitting.complete:
        return "illegal:early_exit", {"answered": sitting.answered, "requests": len(sitting.plan)}
    return explained, numbers


def audits_of(seeds: Sequence[int], checks: Sequence[tuple[Check, ...]]) -> tuple[Check, ...]:
    """One check per audit over all runs: the one that fails or, if none does, where the answers differ most."""

    def worst(one: tuple[int, Check]) -> tuple[bool, float]:
        return not one[1].passed, float(one[1].numbers["worst"])

    found = []
    for same in zip(*checks, strict=True):
        seed, check = max(zip(seeds, same, strict=True), key=worst)
        found.append(check.model_copy(update={"detail": f"{check.detail}, the run of seed {seed}"}))
    return tuple(found)


def _costs(job: Job, run: TrainRun, every: Sequence[RunFacts], owed: Bill) -> dict[str, float]:
    """Seconds and bytes of one seed; seconds run from data release, by the supervisor's clocks.

    `cpu_seconds` and `wall_seconds` hold what start-up took beyond what is free.
    """
    assert run.artifact is not None
    train = run.facts
    cpu, wall = max(one.cpu_s for one in every), max(one.wall_s for one in every)
    start = max(one.start_cpu_s for one in every)
    return {
        "cpu_seconds": train.cpu_s + cpu + owed.start_cpu,
        "wall_seconds": train.wall_s + wall + owed.start_wall,
        "train_cpu_seconds": train.cpu_s,
        "train_wall_seconds": train.wall_s,
        "predict_cpu_seconds": cpu,
        "predict_wall_seconds": wall,
        "start_cpu_seconds": train.start_cpu_s + start,
        **start_seconds(train, every),
        "billed_cpu_seconds": owed.start_cpu,
        "billed_wall_seconds": owed.start_wall,
        "peak_mb": max(train.peak_bytes, *(one.peak_bytes for one in every)) / MIB,
        "artifact_bytes": float(run.artifact.bytes),
        "source_bytes": float(job.source_bytes),
        "total_bytes": float(run.artifact.bytes + job.source_bytes),
    }


def means(results: Sequence[SeedResult]) -> dict[str, float]:
    names = set.intersection(*(set(r.quantities) for r in results)) if results else set()
    return {n: math.fsum(r.quantities[n] for r in results) / len(results) for n in sorted(names)}


@dataclass(frozen=True)
class Scored:
    """What each run gave, the audits of all of them, and the hash of the test items; empty without items."""

    results: Sequence[SeedResult]
    audits: tuple[Check, ...]
    items_sha256: str = ""

    @property
    def whole(self) -> bool:
        """Has every run a result?"""
        return bool(self.results) and all(r.cause is None for r in self.results)


def scored_scripts(job: Job) -> Scored:
    """Runs of a script: nothing is asked, the metrics are read."""
    check_split(job)
    results = [measure_script(job, run, place) for run, place in job.runs]
    files = read_source(job.source)
    audits = checks_of(job, files)
    if job.start is not None and not pays_for_bytes(job.spec):
        audits = (*audits, added_information(job.spec, files, job.start, job.data))
    return Scored(results, audits)


def scored_answers(job: Job) -> Scored:
    """Runs whose predictors answer the questions of a split."""
    spec = job.spec
    judge_hashes.check_data(job.data, (f"{job.split}/", "fake/"))
    asked = questions(spec, job.data / job.split)
    results: list[SeedResult] = []
    seen: list[tuple[Check, ...]] = []
    answered: list[Sitting | None] = []
    for run, place in job.runs:
        pair = sittings(asked, spec.audits)
        result, checks = measure_seed(job, run, place, pair)
        results.append(result)
        seen.append(checks)
        answered.append(pair[0] if result.cause is None else None)
    whole = Scored(results, ()).whole
    files = read_source(job.source)
    audits = audits_of([r.seed for r in results], seen) if whole else ()
    if whole and not pays_for_bytes(spec):
        audits = (*audits, embedded_data(files))
        if job.start is not None:
            audits = (*audits, added_information(spec, files, job.start, job.data))
    return Scored(results, audits, write_items(job, asked, answered))


def measure(job: Job) -> Measurement:
    spec, load = job.spec, os.getloadavg()[0]
    scored = scored_scripts(job) if spec.task.kind == "script" else scored_answers(job)
    results = scored.results
    quantities = means(results) if scored.whole else {}
    gates: tuple[Check, ...] = ()
    if scored.whole:
        gates = tuple(
            judge_gate(g, [r.quantities.get(g.quantity, math.nan) for r in results]) for g in spec.gates
        )
    sizes = [run.artifact.bytes for run, _ in job.runs if run.artifact]
    return Measurement(
        trial=job.trial,
        purpose=job.purpose,
        split=job.split,
        metric=spec.score.metric,
        score=quantities.get(spec.score.metric),
        per_seed=tuple(results),
        quantities=quantities,
        gates=gates,
        audits=scored.audits if scored.whole else (),
        artifact_bytes=max(sizes, default=0),
        source_bytes=job.source_bytes,
        source_sha256=tree_hash(read_source(job.source)),
        environment_sha256=judge_hashes.environment_sha256(spec, job.data),
        evaluator_sha256=judge_hashes.evaluator_sha256(),
        isolation=job.isolation.level,
        machine=judge_hashes.machine_identity(),
        accelerator=describe(job.devices),
        load_start=load,
        load_end=os.getloadavg()[0],
        measured_at=datetime.now(UTC),
        items_sha256=scored.items_sha256,
        trust=spec.trust,
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
