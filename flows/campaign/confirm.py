"""Confirming a leader: fresh seeds beside the incumbent until the test is decided, then the sealed split.

Runs start in alternating order, candidate then incumbent, as many at once as slots are free, so that a machine that
slows down slows both; results count in that order whichever ends first. The statistics are `evaluators.statistics.confirmation`; this module only runs what it asks for. What is stored of an
attempt, and where a killed one is continued, is `flows.campaign.confirmation_attempts`. One attempt at a time per campaign,
because each level depends on the attempts before it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from prefect import flow

from evaluators.judge import judge_client
from evaluators.statistics.confirmation import (
    Attempt,
    Confirmed,
    ConfirmPlan,
    Continue,
    Step,
    Unconfirmed,
    gates_out_of_reach,
    gates_pass,
    next_step,
)
from evaluators.statistics.confirmation_book import row_fields
from evaluators.statistics.confirmation_inputs import (
    Read,
    SealedRuns,
    chance_of,
    failure_rate,
    is_fixed,
    look_at_sealed,
    seeds_of,
)
from evaluators.statistics.label import run_cause, run_numbers, status_of
from evaluators.statistics.lawful_measurement import Fault, deterministic, fault_of, stated
from flows.campaign import confirmation_attempts
from flows.campaign.champion_permuted_control import control_run
from flows.campaign.confirmation_attempts import Opening
from flows.engine.campaign_config import BASELINE, draw_seeds
from flows.engine.confirmation_state import book, reader
from flows.engine.engine import Engine, engine_of_worker
from flows.engine.live_events import ConfirmationEnded, Confirming, Note
from flows.engine.stage_records import Patched, Trained, TrialRef
from flows.machine.folders import bakeoff_version
from flows.measure.parallel_runs import in_order
from flows.report.device_facts import as_detail, device_columns, device_runs
from flows.report.formatting import title_lost
from flows.report.slot_time import as_detail as as_slots
from flows.report.slot_time import slot_columns
from flows.trial import stages
from flows.trial.cluster_allocation import check_time, handed_back, preemptible
from flows.trial.prefect_tasks import evaluate, train
from flows.trial.recording import measurement_sha
from lineage.errors import InfraFault, Interrupted, UsageError
from lineage.records import Check, Measurement, Row, Status, TrainRun
from lineage.store.blobs import get_blob
from lineage.store.results import get_result

CANDIDATE, INCUMBENT = "candidate", "incumbent"


@flow(name="confirm", flow_run_name="{environment} · confirm {trial}", persist_result=False)
async def confirm(store: str, campaign: str, trial: str, environment: str = "", epoch: int = 0) -> Row:
    """Decide one leader and seal a champion; continue where an earlier call was killed. Returns the decision.

    Raises InfraFault when the machine fails; the attempt stays open. It takes its turn among the trials of
    this process and keeps it to the end: its runs follow each other closely, and trials that come and go
    cannot keep it waiting.
    """
    engine = await asyncio.to_thread(engine_of_worker, store, campaign, epoch)
    await asyncio.to_thread(engine.check_devices)
    ref = TrialRef(store=store, campaign=campaign, trial=trial, role="", environment=environment)
    with preemptible(engine) as notice:
        try:
            await check_time(engine, ref)
            return await _decide(engine, trial)
        except Interrupted as stopped:
            return await handed_back(engine, ref, notice, "confirm", stopped)  # type: ignore[return-value]


async def _decide(engine: Engine, trial: str) -> Row:
    async with engine.turns:
        engine.raise_if_cancelled()
        work = await asyncio.to_thread(_begin, engine, trial)
        row = await asyncio.to_thread(confirmation_attempts.recorded, engine, work.opening, "confirmation")
        if row is None:
            step = await decide(work)
            if isinstance(step, Confirmed) and plan_of(work).rules >= 2:
                step = await controlled(work, step)
            runs, measured = await asyncio.to_thread(confirmation_attempts.replicates, engine, work.opening)
            row = decision(work, step, runs, measured)
        if await asyncio.to_thread(confirmation_attempts.record, engine, work.opening, row):
            engine.emit(ConfirmationEnded(trial))
        if await asyncio.to_thread(
            lambda: confirmation_attempts.awaits_seal(engine.view(), work.opening.number)
        ):
            await seal(work, row)
        await asyncio.to_thread(stages.drop_scratch, engine, stages.confirm_place(trial))
    return row


@dataclass(frozen=True)
class Failure:
    """A replicate without a lawful score, by the program's own fault."""

    seed: int
    fault: Fault


@dataclass
class Work:
    """One attempt: the two programs, and the replicates so far by side, in the order in which they were run.

    `earlier`: measurements from before the attempt, of the candidate its first one, of the incumbent all fresh ones.
    `seeded`: runs of the start or of the incumbent depend on the seed, so the candidate's must.
    """

    engine: Engine
    opening: Opening
    ref: TrialRef
    attempt: Attempt
    programs: dict[str, Patched]
    read: Read
    seeded: bool
    earlier: dict[str, list[Measurement]]
    measured: dict[str, list[Measurement]] = field(default_factory=lambda: {CANDIDATE: [], INCUMBENT: []})
    control: Check | None = None
    failed: dict[str, list[Failure]] = field(default_factory=lambda: {CANDIDATE: [], INCUMBENT: []})

    @property
    def start_is_incumbent(self) -> bool:
        return self.opening.incumbent == BASELINE


def _begin(engine: Engine, trial: str) -> Work:
    """Open the attempt, or find it open."""
    opening = confirmation_attempts.open_attempt(engine, trial)
    ref = TrialRef(
        store=engine.root,
        campaign=engine.config.id,
        trial=trial,
        role=opening.role,
        environment=engine.config.spec.name,
    )
    standing = book(engine.config, engine.view())
    before: dict[str, list[str | None]] = {
        CANDIDATE: [row.measurement_sha256] if (row := engine.view().trial(trial)) is not None else [],
        INCUMBENT: list(standing.evidence(opening.incumbent)),
    }
    return Work(
        engine=engine,
        opening=opening,
        ref=ref,
        attempt=standing.open(opening.trials, opening.incumbent, trial),
        programs={CANDIDATE: _patched(engine, trial), INCUMBENT: _patched(engine, opening.incumbent)},
        read=reader(engine.store),
        seeded=standing.must_depend(opening.incumbent),
        earlier={side: [_stored(engine, sha) for sha in shas if sha] for side, shas in before.items()},
    )


def _stored(engine: Engine, sha: str) -> Measurement:
    return Measurement.model_validate_json(get_blob(engine.store, sha))


async def decide(work: Work) -> Step:
    """Replicates until the test is decided; a candidate's replicate without a lawful score ends it as not confirmed.

    A run of the incumbent that fails by its own fault counts against the incumbent: a champion loses its title and the
    candidate is confirmed against the one before it; the start, which nothing can replace yet, runs another seed, and
    its rate of failures is recorded. Campaigns with `rules` 1 put the attempt off instead, as they always did.
    """
    plan = work.engine.config.plan
    while True:
        step = next_step(work.attempt, plan)
        if not isinstance(step, Continue):
            return step
        left = {CANDIDATE: step.candidate, INCUMBENT: step.incumbent}
        while any(count > 0 for count in left.values()):
            ended = await _replicates(work, left)
            if ended is not None:
                return ended
        await asyncio.to_thread(_note_look, work)


async def _replicates(work: Work, left: dict[str, int]) -> Unconfirmed | None:
    """Run what is left of both sides, and take it off `left`; how the attempt ends, where a failure ends it."""
    turns = _alternating(work, left)
    jobs = [partial(_run_of, work, side, index) for side, index in turns]
    async with aclosing(in_order(work.engine.slots, jobs)) as results:
        at = 0
        async for measurement, fault in results:
            side, index = turns[at]
            at += 1
            left[side] -= _count(work, side, index, measurement, fault)
            if work.failed[CANDIDATE]:
                return Unconfirmed(_reason(work) if plan_of(work).rules >= 2 else "failed")
            failures = len(work.failed[INCUMBENT])
            if failures and (not work.start_is_incumbent or failures > plan_of(work).looks[-1]):
                return Unconfirmed("incumbent_failed")
    return None


def _alternating(work: Work, left: Mapping[str, int]) -> list[tuple[str, int]]:
    """Side and index of the next runs: candidate, incumbent, candidate, and so on while both have some left."""
    first = {side: len(work.measured[side]) + len(work.failed[side]) for side in left}
    return [(side, first[side] + at) for at in range(max(left.values())) for side in left if at < left[side]]


async def controlled(work: Work, step: Confirmed) -> Step:
    """The step, unless what it confirms scores as well on training data that teach nothing."""
    real = _quantities(work.measured[CANDIDATE])
    work.control = await control_run(work.engine, work.ref, work.programs[CANDIDATE], real)
    if work.control.passed:
        return step
    cause = str(work.control.numbers.get("cause", "illegal:not_learnt"))
    work.failed[CANDIDATE].append(Failure(0, Fault(cause, stated(work.control.numbers), work.control.detail)))
    return Unconfirmed("not_learnt", step.looks)


def _reason(work: Work) -> str:
    """A program that broke a rule is disqualified; one that crashed or was stopped at a cap has failed."""
    cause = work.failed[CANDIDATE][0].fault.cause
    return "unlawful" if status_of(cause) in (Status.DISQUALIFIED, Status.SIZE_BLOCKED) else "failed"


async def _run_of(work: Work, side: str, index: int) -> tuple[Measurement | None, Fault | None]:
    work.engine.emit(Confirming(work.ref.trial, len(work.measured[CANDIDATE]), plan_of(work).looks[-1]))
    return await _measurement(work, side, index)


def _count(work: Work, side: str, index: int, measurement: Measurement | None, fault: Fault | None) -> bool:
    """Take up a run of one side; False when it has no lawful score, which is then noted."""
    done, plan = work.measured[side], plan_of(work)
    value = measurement.per_seed[0].quantities.get(measurement.metric) if measurement is not None else None
    if measurement is not None and (plan.rules >= 2 or value is None):
        fault = fault_of(
            measurement,
            work.engine.config.spec,
            seeded=work.seeded and side == CANDIDATE,
            beside=seeds_of([*work.earlier[side], *done]),
            replicate=True,
        )
    if measurement is None or value is None or fault is not None:
        fault = fault or Fault("infra:no_score", {}, "a replicate has no score although nothing failed")
        if fault.is_infra or (side == INCUMBENT and plan.rules < 2):
            text = f"the {side} had no score while {work.ref.trial} was confirmed: {fault.text}"
            raise InfraFault(side, text)
        seed = _seed(work, side, index)
        work.failed[side].append(Failure(seed, fault))
        _tell(work, side, fault)
        return False
    done.append(measurement)
    if side == CANDIDATE:
        work.attempt = replace(work.attempt, candidate=(*work.attempt.candidate, value))
    else:
        work.attempt = replace(work.attempt, incumbent=(*work.attempt.incumbent, value))
    return True


def _tell(work: Work, side: str, fault: Fault) -> None:
    whose = work.ref.trial if side == CANDIDATE else f"the incumbent {work.opening.incumbent}"
    text = f"{whose} failed on a fresh seed ({fault.cause}: {fault.text})"
    work.engine.emit(Note(text[:400]))


async def _measurement(work: Work, side: str, index: int) -> tuple[Measurement | None, Fault | None]:
    """Replicate `index` of one side on the public split; a fault where its training failed."""
    name = f"{_purpose(work, side, index)}-measurement"
    raw = await asyncio.to_thread(get_result, work.engine.store, work.ref.campaign, work.ref.trial, name)
    if raw is not None:
        return Measurement.model_validate_json(raw), None
    trained = await artifacts(work, side, index)
    spec = work.engine.config.spec
    for run in trained.runs:
        cause = run_cause(spec, run)
        if cause is not None:
            numbers, text = run_numbers(spec, run, cause)
            return None, Fault(cause, stated(numbers), text, "run")
    return await evaluate(work.ref, work.programs[side], trained, quiet=True), None


def _purpose(work: Work, side: str, index: int) -> str:
    return f"confirm-{side}-{index + work.opening.skip}"


async def artifacts(work: Work, side: str, index: int) -> Trained:
    """The training of a replicate, with its artifacts on this machine: trained again where they are lost."""
    seeds = (_seed(work, side, index),)
    return await train(work.ref, work.programs[side], _purpose(work, side, index), seeds, quiet=True)


def _seed(work: Work, side: str, index: int) -> int:
    purpose, source = f"confirm-{work.ref.trial}-{side}", work.programs[side].source_sha256
    return draw_seeds(work.engine.config, source, purpose, 1, skip=index + work.opening.skip)[0]


def _note_look(work: Work) -> None:
    """Before a look: does the candidate pass every hard rule over its fresh replicates, and could it yet? What can the
    test items do by chance, and would further runs only repeat these?
    """
    plan, rules, old = work.engine.config.plan, work.engine.config.spec.gates, work.attempt
    seeds = [seed for m in work.measured[CANDIDATE] for seed in m.per_seed]
    passed = gates_pass(rules, seeds, plan.gate_looks)
    hopeless = gates_out_of_reach(rules, seeds, plan.gate_futility)
    work.attempt = replace(old, gates=(*old.gates, passed), hopeless=(*old.hopeless, hopeless))
    if plan.has_items:
        ours, theirs = work.measured[CANDIDATE], [*work.earlier[INCUMBENT], *work.measured[INCUMBENT]]
        chance = chance_of(ours, theirs, plan, work.read)
        fixed = is_fixed(ours, theirs)
        work.attempt = replace(work.attempt, items=(*old.items, chance), fixed=(*old.fixed, fixed))


def decision(work: Work, step: Step, runs: Sequence[TrainRun], measured: Sequence[Measurement]) -> Row:
    """The confirmation event of a decided attempt; `runs` and `measured` are all that it cost, repeated runs too."""
    on_devices = device_runs((), runs, measured)
    uses = work.engine.uses_of(stages.confirm_place(work.ref.trial))
    fields = row_fields(work.attempt, step, work.opening.trials)
    ours, theirs = work.measured[CANDIDATE], work.measured[INCUMBENT]
    detail = {
        **fields.pop("detail_json"),
        "incumbent": work.opening.incumbent,
        "measurements": [measurement_sha(m) for m in ours],
        "incumbent_measurements": [measurement_sha(m) for m in theirs],
        **({} if work.engine.config.spec.has_sealed_split else {"no_sealed_split": True}),
        **({"control": work.control.model_dump(mode="json")} if work.control is not None else {}),
        **_failures(work),
        **({"device_runs": as_detail(on_devices)} if on_devices else {}),
        **({"slots": as_slots(uses)} if uses else {}),
    }
    broken = work.failed[CANDIDATE][0].fault if work.failed[CANDIDATE] else None
    return Row(
        event="confirmation",
        **_who(work),
        incumbent=work.opening.incumbent,
        status=Status.DISQUALIFIED if isinstance(step, Unconfirmed) and step.reason == "unlawful" else None,
        cause=broken.cause if broken is not None else None,
        numbers_json=json.dumps(broken.numbers if broken is not None else {}, sort_keys=True),
        deterministic=deterministic(seeds_of([*work.earlier[CANDIDATE], *ours]))
        if plan_of(work).rules > 1
        else None,
        seeds=[seed.seed for m in ours for seed in m.per_seed],
        source_sha256=work.programs[CANDIDATE].source_sha256,
        detail_json=json.dumps(detail, sort_keys=True),
        **confirmation_attempts.cpu_of(runs, measured),
        **device_columns(on_devices),
        **slot_columns(uses, runs, measured),
        **fields,
    )


def plan_of(work: Work) -> ConfirmPlan:
    return work.engine.config.plan


def _failures(work: Work) -> dict[str, Any]:
    """Runs that failed by a program's own fault; of the incumbent also the rate over all its fresh runs so far."""
    told = {
        side: [{"seed": f.seed, "cause": f.fault.cause, "text": f.fault.text} for f in failures]
        for side, failures in work.failed.items()
    }
    found: dict[str, Any] = {}
    if told[CANDIDATE]:
        found["failures"] = told[CANDIDATE]
    if told[INCUMBENT]:
        standing = book(work.engine.config, work.engine.view())
        failed = len(told[INCUMBENT]) + standing.failures.get(work.opening.incumbent, 0)
        runs = failed + len(standing.pool(work.opening.incumbent)) + len(work.measured[INCUMBENT])
        found["incumbent_failures"] = told[INCUMBENT]
        found["incumbent_failure_rate"] = [failed, runs, *failure_rate(failed, runs)]
    return found


async def seal(work: Work, decided: Row) -> None:
    """Score champion and incumbent on the split that no agent ever sees a score of, with the confirmed artifacts."""
    row = await asyncio.to_thread(confirmation_attempts.recorded, work.engine, work.opening, "sealed")
    if row is None:
        runs = {CANDIDATE: len(decided.scores)}
        if plan_of(work).rules >= 2:
            runs[INCUMBENT] = len(json.loads(decided.detail_json)["incumbent_scores"])
        scored = await _both_splits(work, runs)
        row = await asyncio.to_thread(sealed_event, work, scored)
    await asyncio.to_thread(confirmation_attempts.record, work.engine, work.opening, row)
    if row.sealed_verdict == "reversed":
        text = f"{work.ref.trial} loses its title: {title_lost(row)}"
        work.engine.emit(Note(text))


async def _both_splits(
    work: Work, runs: Mapping[str, int]
) -> dict[str, list[tuple[Measurement, Measurement]]]:
    """(public, sealed) measurements of each side: of so many first replicates as have a score."""
    public = {side: await _with_score(work, side, count) for side, count in runs.items()}
    turns = [
        (side, *public[side][at])
        for at in range(max(runs.values()))
        for side in runs
        if at < len(public[side])
    ]
    found: dict[str, list[tuple[Measurement, Measurement]]] = {side: [] for side in runs}
    jobs = [partial(_sealed, work, side, index) for side, index, _ in turns]
    async with aclosing(in_order(work.engine.slots, jobs)) as results:
        at = 0
        async for sealed in results:
            side, _, seen = turns[at]
            at += 1
            found[side].append((seen, sealed))
    return found


async def _with_score(work: Work, side: str, count: int) -> list[tuple[int, Measurement]]:
    """Index and public measurement of the first `count` replicates of one side that have a score."""
    found: list[tuple[int, Measurement]] = []
    index = 0
    while len(found) < count:
        public, _ = await _measurement(work, side, index)
        if public is not None and public.score is not None:
            found.append((index, public))
        elif index > count + plan_of(work).looks[-1]:
            raise InfraFault("seal", f"{work.ref.trial}: replicates of its confirmation are not stored")
        index += 1
    return found


async def _sealed(work: Work, side: str, index: int) -> Measurement:
    """Replicate `index` of one side on the sealed split, stored or new."""
    name = f"{_purpose(work, side, index)}-measurement-sealed"
    raw = await asyncio.to_thread(get_result, work.engine.store, work.ref.campaign, work.ref.trial, name)
    if raw is not None:
        return Measurement.model_validate_json(raw)
    trained = await artifacts(work, side, index)
    return await evaluate(work.ref, work.programs[side], trained, split="sealed", quiet=True)


def sealed_event(work: Work, scored: dict[str, list[tuple[Measurement, Measurement]]]) -> Row:
    """The sealed event: scores, and with `rules` 2 the gain over the start and the verdict."""
    public, sealed = ([pair[at] for pair in scored[CANDIDATE]] for at in (0, 1))
    detail: dict[str, Any] = {
        "attempt": work.opening.number,
        "measurements": [measurement_sha(m) for m in sealed],
        "public_quantities": _quantities(public),
    }
    uses = work.engine.uses_of(stages.confirm_place(work.ref.trial))
    if uses:
        detail["slots"] = as_slots(uses)
    columns: dict[str, Any] = {}
    if INCUMBENT in scored:
        view, store = work.engine.view(), work.engine.store
        theirs = [[pair[at] for pair in scored[INCUMBENT]] for at in (0, 1)]
        detail |= {
            "incumbent": work.opening.incumbent,
            "public_measurements": [measurement_sha(m) for m in public],
            "incumbent_measurements": [measurement_sha(m) for m in theirs[1]],
            "incumbent_public_measurements": [measurement_sha(m) for m in theirs[0]],
        }
        this = SealedRuns(work.ref.trial, work.opening.incumbent, (public, sealed), (theirs[0], theirs[1]))
        columns, more = look_at_sealed(
            this, view.events("sealed"), plan_of(work), work.engine.config.spec, work.seeded,
            lambda sha: Measurement.model_validate_json(get_blob(store, sha)), work.read,
        )  # fmt: skip
        detail |= more
    return Row(
        event="sealed",
        **_who(work),
        incumbent=work.opening.incumbent if columns else None,
        sealed_score=_mean([m.score for m in sealed]),
        public_score=_mean([m.score for m in public]),
        source_sha256=work.programs[CANDIDATE].source_sha256,
        quantities_json=json.dumps(_quantities(sealed), sort_keys=True),
        evaluate_cpu_s=sum(
            s.facts.cpu_s + s.facts.start_cpu_s for m in sealed for s in m.per_seed if s.facts
        ),
        detail_json=json.dumps(detail, sort_keys=True),
        **slot_columns(uses, (), [pair[1] for pairs in scored.values() for pair in pairs]),
        **columns,
    )


def _patched(engine: Engine, trial: str) -> Patched:
    raw = get_result(engine.store, engine.config.id, trial, "patch")
    if raw is None:
        raise UsageError(f"{trial} never became a program, so it cannot be confirmed")
    return Patched.model_validate_json(raw)


def _who(work: Work) -> dict[str, Any]:
    config, ref = work.engine.config, work.ref
    return {
        "campaign": config.id,
        "environment": config.spec.name,
        "arm": config.settings.arm,
        "trial": ref.trial,
        "role": ref.role or None,
        "machine": judge_client.machine_identity(),
        "isolation": config.isolation,
        "trust": config.spec.trust,
        "environment_sha256": config.environment_sha256,
        "evaluator_sha256": config.evaluator_sha256,
        "bakeoff_version": bakeoff_version(),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _quantities(measurements: Sequence[Measurement]) -> dict[str, float]:
    names = {name for m in measurements for name in m.quantities}
    means = {name: _mean([m.quantities.get(name) for m in measurements]) for name in sorted(names)}
    return {name: value for name, value in means.items() if value is not None}
