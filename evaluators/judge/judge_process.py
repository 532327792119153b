"""The judge's process: holds the labels, asks the predictor, computes every number of a measurement.

Use: started by `evaluators.judge.judge_client.judge` as `python -I -B`, one JSON job on stdin, one Measurement as
JSON on stdout. It imports no candidate code and unpickles nothing; candidate bytes reach it only as
arrays of the expected size and type, or as texts of a bounded one. A job with `rehearse` runs the environment's judge
function on stand-in answers instead (`evaluators.judge.judge_rehearsal`). Limits: the end of stdin ends it at once, and
the sandbox with it; so does a judge function that has not returned `PATIENCE_S` after the predictor's wall cap.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.judge import failure_causes, judge_hashes, judge_program, judge_sitting
from evaluators.judge.accelerators import describe, use_library
from evaluators.judge.candidate_folders import indistinct_copy, read_source
from evaluators.judge.data_in_source import embedded_data, pays_for_bytes
from evaluators.judge.device_watch import Watch
from evaluators.judge.gates import judge_gate
from evaluators.judge.item_scores import NAME as ITEMS
from evaluators.judge.item_scores import Items, pack, stacked
from evaluators.judge.judge_rehearsal import rehearsal
from evaluators.judge.judge_sitting import JudgeSitting, Outcome
from evaluators.judge.leak_audits import compare, merged, sittings
from evaluators.judge.predictor_pipes import JUDGE_FAULT, Broken, Channel
from evaluators.judge.question_kinds import questions
from evaluators.judge.questions import Kept, Sitting
from evaluators.judge.sandbox.bubblewrap import MIB, Box, Limits, Server, limits_for, request
from evaluators.judge.sandbox.compiled_packages import compiled
from evaluators.judge.sandbox.prove_level import Isolation
from evaluators.judge.sandbox.supervisor_client import Session
from evaluators.judge.script_scores import check_split, checks_of, measure_script
from evaluators.judge.source_size import added_information
from evaluators.judge.uncounted_time import Bill, Reference, bill, over_budget, start_seconds
from lineage.environment_spec import ASKING, EnvironmentSpec
from lineage.errors import JudgeFault
from lineage.ids import sha256, tree_hash
from lineage.records import Check, Device, Measurement, Number, RunFacts, SeedResult, TrainRun

SKETCH, SKETCH_SEED = 4, 20_261_128
PATIENCE_S = 60.0

Asked = Sitting | JudgeSitting


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
    judge_file: Path | None = None


def read_job(job: Mapping[str, Any]) -> Job:
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
        judge_file=Path(job["judge_file"]) if job["judge_file"] else None,
    )


def predict_limits(spec: EnvironmentSpec) -> Limits:
    return limits_for(spec.budget, spec.budget.predict_cpu_s, spec.budget.predict_wall_s, writes=False)


def _box(job: Job, artifact: Path) -> Box:
    """Copies of its own for every process: neither names, times nor inodes say what it is asked for, or when."""
    folder = job.folder / secrets.token_hex(8)
    folder.mkdir()
    return Box(
        mode="predict",
        asks=job.spec.task.kind in ASKING,
        folder=str(folder),
        source=str(indistinct_copy(job.source, folder / "source")),
        fake=str(job.data / "fake"),
        data=str(indistinct_copy(artifact, folder / "staged")),
        outputs=job.spec.task.outputs,
        context=job.spec.task.context if job.spec.task.kind == "language_model" else 0,
        packages=tuple(job.spec.packages),
        masked=tuple(job.spec.masked_packages),
        python=job.spec.runtime.python,
        build=job.spec.runtime.build,
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


def ask_all(job: Job, artifact: Path, sitting: Asked) -> tuple[dict[str, Any], Broken | None]:
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
                    with _patience(job.spec):
                        sitting.hold(channel)
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


@contextlib.contextmanager
def _patience(spec: EnvironmentSpec) -> Iterator[None]:
    """Ends this process when what is inside takes longer than any predictor may live."""
    limit = spec.budget.predict_wall_s + PATIENCE_S

    def give_up() -> None:
        fail(
            f"{judge_program.FILE}: judge has not returned after {limit:g} s (budget.predict_wall_s and {PATIENCE_S:g})"
        )

    timer = threading.Timer(limit, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def measure_seed(
    job: Job, run: TrainRun, place: Path, asked: Sequence[Asked]
) -> tuple[SeedResult, Outcome | None]:
    """Quantities of one seed, or why there are none, and what its answers came to.

    Every sitting must end well; of what they cost the larger figure counts, of their answers the worse.
    """
    if run.artifact is None or run.cause is not None:
        return SeedResult(seed=run.seed, cause=run.cause or "no_artifact", numbers=run.numbers), None
    every: list[RunFacts] = []
    for sitting in asked:
        final, broken = ask_all(job, place, sitting)
        every.append(failure_causes.facts(final, job.isolation.level))
        cause, numbers = sitting_cause(job, final, broken, sitting)
        if cause is not None:
            return SeedResult(seed=run.seed, cause=cause, numbers=numbers, facts=every[-1]), None
    facts = max(every, key=lambda one: one.cpu_s)
    owed = bill(job.spec.budget, job.reference, run.facts, every)
    beyond = over_budget(job.spec, owed, run.facts)
    if beyond:
        return SeedResult(seed=run.seed, cause=str(beyond.pop("cause")), numbers=beyond, facts=facts), None
    found = outcome(job.spec, asked)
    quantities = {**found.quantities, **_costs(job, run, every, owed)}
    missing = [name for name in judge_program.wanted(job.spec) if name not in quantities]
    if missing:
        raise JudgeFault(judge_program.unknown(job.spec, missing[0], found.quantities))
    result = SeedResult(
        seed=run.seed,
        quantities=quantities,
        facts=facts,
        answers_sha256=found.sha256,
        sketch=found.sketch,
        artifact_sha256=run.artifact.sha256,
    )
    return result, found


def outcome(spec: EnvironmentSpec, asked: Sequence[Asked]) -> Outcome:
    """What the answers of one run come to: scored, compared and reduced."""
    held = [one for one in asked if isinstance(one, JudgeSitting)]
    if held:
        return judge_sitting.outcome(spec, held)
    rows = [one for one in asked if isinstance(one, Sitting)]
    checks: tuple[Check, ...] = ()
    if len(rows) > 1:
        checks = compare(spec, *rows)
        rows[0].kept = merged(*rows)
    kept, questions_of = rows[0].kept, rows[0].asked
    digest = sha256(np.ascontiguousarray(kept).tobytes())
    return Outcome(questions_of.score(kept), questions_of.items(kept), digest, sketch(kept), checks)


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


def write_items(job: Job, runs: Sequence[Mapping[str, Items] | None]) -> str:
    """Leave the artifact of the test items in the job's folder and return its hash; empty unless every run has some."""
    given = [items for items in runs if items]
    if not given or len(given) != len(job.runs):
        return ""
    names = set.intersection(*(set(items) for items in given))
    if not names:
        return ""
    try:
        held = {name: stacked([one[name] for one in given]) for name in given[0] if name in names}
    except ValueError:
        raise JudgeFault(
            f"{judge_program.FILE}: the items of two runs have other weights or another number; items are in an order "
            "that depends on neither the candidate nor the seed"
        ) from None
    data = pack([run.seed for run, _ in job.runs], held)
    (job.folder / ITEMS).write_bytes(data)
    return sha256(data)


def sitting_cause(
    job: Job, final: dict[str, Any], broken: Broken | None, sitting: Asked
) -> tuple[str | None, dict[str, Number]]:
    """Cause and numbers of one sitting; None when every answer was lawful."""
    explained, numbers = failure_causes.explain(final, predict_limits(job.spec))
    if broken is not None and broken.rule and not (broken.rule == "short_answer" and explained):
        cause = "nan" if broken.rule == "nan" else f"illegal:{broken.rule}"
        return cause, {**broken.numbers, "detail": str(broken)}
    if explained is None and not sitting.complete:
        return "illegal:early_exit", sitting.progress
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
    plans = _plans(job)
    results: list[SeedResult] = []
    seen: list[tuple[Check, ...]] = []
    answered: list[Mapping[str, Items] | None] = []
    for run, place in job.runs:
        result, found = measure_seed(job, run, place, plans(run.seed))
        results.append(result)
        seen.append(found.checks if found is not None else ())
        answered.append(found.items if found is not None else None)
    whole = Scored(results, ()).whole
    files = read_source(job.source)
    audits = audits_of([r.seed for r in results], seen) if whole else ()
    if whole and not pays_for_bytes(spec):
        audits = (*audits, embedded_data(files, job.start))
        if job.start is not None:
            audits = (*audits, added_information(spec, files, job.start, job.data))
    return Scored(results, audits, write_items(job, answered))


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


def _plans(job: Job) -> Callable[[int], Sequence[Asked]]:
    """From the seed of a run to its predictor processes; the split, or judge.py, is read once."""
    spec, split = job.spec, job.data / job.split
    if spec.task.kind in ASKING:
        program, files = judge_program.load(spec, job.judge_file), judge_hashes.manifest(job.data)["files"]
        return lambda seed: judge_sitting.sittings(
            spec, program, split, judge_program.seed_of(spec, job.split, files, seed)
        )
    asked = questions(spec, split)
    return lambda seed: sittings(asked, spec.audits)


def fail(text: str) -> None:
    """The last words of this process about a fault of judge.py."""
    sys.stderr.write(f"\n{JUDGE_FAULT}{' '.join(text.split())}\n")
    sys.stderr.flush()
    os._exit(4)


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
    # what judge.py or a package of its prints is no answer
    answers = os.dup(1)
    os.dup2(2, 1)
    job = json.loads(bytes(raw))
    try:
        answer = _rehearse(job) if job.get("rehearse") else measure(read_job(job)).model_dump_json()
    except JudgeFault as fault:
        fail(str(fault))
    with os.fdopen(answers, "w") as sink:
        sink.write(answer)
    os._exit(0)


def _rehearse(job: Mapping[str, Any]) -> str:
    spec, data = EnvironmentSpec.model_validate(job["spec"]), Path(job["data"])
    judge_hashes.check_data(data, ("public/", "sealed/"))
    with _patience(spec):
        return rehearsal(spec, data, Path(job["judge_file"]) if job["judge_file"] else None).model_dump_json()
