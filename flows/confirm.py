"""Confirming a leader: fresh seeds beside the incumbent until the test is decided, then the sealed split.

Runs are interleaved one by one, candidate then incumbent, so that a machine that slows down slows
both. The statistics are `evaluators.promote`; this module only runs what it asks for. What is stored of an
attempt, and where a killed one is continued, is `flows.attempts`. One attempt at a time per campaign,
because each level depends on the attempts before it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from prefect import flow

from evaluators import client
from evaluators.promote import (
    Attempt,
    Continue,
    Step,
    Unconfirmed,
    gates_hold,
    gates_out_of_reach,
    next_step,
)
from evaluators.standing import row_fields
from flows import attempts, stages
from flows.attempts import Opening
from flows.config import draw_seeds
from flows.engine import Engine, engine_of_worker
from flows.home import bakeoff_version
from flows.recording import measurement_sha
from flows.standing import book
from flows.tasks import evaluate, train
from flows.words import Patched, Trained, TrialRef
from lineage.errors import InfraFault, UsageError
from lineage.records import Measurement, Row
from lineage.results import get_result

CANDIDATE, INCUMBENT = "candidate", "incumbent"


@flow(name="confirm", flow_run_name="{environment} · confirm {trial}", persist_result=False)
async def confirm(store: str, campaign: str, trial: str, environment: str = "", epoch: int = 0) -> Row:
    """Decide one leader and seal a champion; continue where an earlier call was killed. Returns the decision.

    Raises InfraFault when the machine fails; the attempt stays open. It takes its turn among the trials of
    this process and keeps it to the end: its runs follow each other closely, and trials that come and go
    cannot keep it waiting.
    """
    engine = await asyncio.to_thread(engine_of_worker, store, campaign, epoch)
    async with engine.turns:
        engine.raise_if_cancelled()
        work = await asyncio.to_thread(_begin, engine, trial)
        row = await asyncio.to_thread(attempts.recorded, engine, work.opening, "confirmation")
        if row is None:
            step = await decide(work)
            cost = await asyncio.to_thread(attempts.cpu_of, engine, work.opening)
            row = decision(work, step).model_copy(update=cost)
        if await asyncio.to_thread(attempts.record, engine, work.opening, row):
            engine.emit({"kind": "confirm", "trial": trial, "state": row.verdict, "row": row})
        if await asyncio.to_thread(lambda: attempts.awaits_seal(engine.view(), work.opening.number)):
            await seal(work, row)
        await asyncio.to_thread(stages.drop_scratch, engine, stages.confirm_place(trial))
    return row


@dataclass
class Work:
    """One attempt: the two programs, and the replicates so far by side, in the order in which they were run."""

    engine: Engine
    opening: Opening
    ref: TrialRef
    attempt: Attempt
    programs: dict[str, Patched]
    measured: dict[str, list[Measurement]] = field(default_factory=lambda: {CANDIDATE: [], INCUMBENT: []})


def _begin(engine: Engine, trial: str) -> Work:
    """Open the attempt, or find it open."""
    opening = attempts.open_attempt(engine, trial)
    ref = TrialRef(
        store=engine.root,
        campaign=engine.config.id,
        trial=trial,
        role=opening.role,
        environment=engine.config.spec.name,
    )
    return Work(
        engine=engine,
        opening=opening,
        ref=ref,
        attempt=book(engine.config, engine.view()).open(opening.trials, opening.incumbent),
        programs={CANDIDATE: _patched(engine, trial), INCUMBENT: _patched(engine, opening.incumbent)},
    )


async def decide(work: Work) -> Step:
    """Replicates until the test is decided; a replicate without a score ends it as not confirmed."""
    plan = work.engine.config.plan
    while True:
        step = next_step(work.attempt, plan)
        if not isinstance(step, Continue):
            return step
        left = {CANDIDATE: step.candidate, INCUMBENT: step.incumbent}
        while any(count > 0 for count in left.values()):
            for side in left:
                if left[side] <= 0:
                    continue
                left[side] -= 1
                if not await _replicate(work, side):
                    return Unconfirmed("failed")
        _note_gates(work)


async def _replicate(work: Work, side: str) -> bool:
    """One more run of one side, stored or new; False when the candidate has no score."""
    done, plan = work.measured[side], work.engine.config.plan
    progress = {"run": len(work.measured[CANDIDATE]), "of": plan.looks[-1]}
    work.engine.emit({"kind": "confirm", "trial": work.ref.trial, "state": "running", **progress})
    measurement = await _measurement(work, side, len(done))
    value = measurement.per_seed[0].quantities.get(measurement.metric) if measurement is not None else None
    if measurement is None or value is None:
        if side == INCUMBENT:
            text = f"the incumbent {work.opening.incumbent} had no score while {work.ref.trial} was confirmed"
            raise InfraFault("incumbent", text)
        return False
    done.append(measurement)
    if side == CANDIDATE:
        work.attempt = replace(work.attempt, candidate=(*work.attempt.candidate, value))
    else:
        work.attempt = replace(work.attempt, incumbent=(*work.attempt.incumbent, value))
    return True


async def _measurement(work: Work, side: str, index: int) -> Measurement | None:
    """Replicate `index` of one side on the public split; None when its training failed."""
    name = f"{_purpose(work, side, index)}-measurement"
    raw = await asyncio.to_thread(get_result, work.engine.store, work.ref.campaign, work.ref.trial, name)
    if raw is not None:
        return Measurement.model_validate_json(raw)
    trained = await artifacts(work, side, index)
    if any(run.cause is not None for run in trained.runs):
        return None
    return await evaluate(work.ref, work.programs[side], trained, quiet=True)


def _purpose(work: Work, side: str, index: int) -> str:
    return f"confirm-{side}-{index + work.opening.skip}"


async def artifacts(work: Work, side: str, index: int) -> Trained:
    """The training of a replicate, with its artifacts on this machine: trained again where they are lost."""
    patched = work.programs[side]
    seeds = draw_seeds(
        work.engine.config,
        patched.source_sha256,
        f"confirm-{work.ref.trial}-{side}",
        1,
        skip=index + work.opening.skip,
    )
    return await train(work.ref, patched, _purpose(work, side, index), seeds, quiet=True)


def _note_gates(work: Work) -> None:
    """After a look: does the candidate pass every hard rule over its fresh replicates, and could it yet?"""
    plan, rules, old = work.engine.config.plan, work.engine.config.spec.gates, work.attempt
    seeds = [seed for m in work.measured[CANDIDATE] for seed in m.per_seed]
    passed = gates_hold(rules, seeds, plan.gate_looks)
    hopeless = gates_out_of_reach(rules, seeds, plan.gate_futility)
    work.attempt = replace(old, gates=(*old.gates, passed), hopeless=(*old.hopeless, hopeless))


def decision(work: Work, step: Step) -> Row:
    """The confirmation event of a decided attempt."""
    fields = row_fields(work.attempt, step, work.opening.trials)
    ours, theirs = work.measured[CANDIDATE], work.measured[INCUMBENT]
    detail = {
        **fields.pop("detail_json"),
        "incumbent": work.opening.incumbent,
        "measurements": [measurement_sha(m) for m in ours],
        "incumbent_measurements": [measurement_sha(m) for m in theirs],
    }
    return Row(
        event="confirmation",
        **_who(work),
        incumbent=work.opening.incumbent,
        seeds=[seed.seed for m in ours for seed in m.per_seed],
        source_sha256=work.programs[CANDIDATE].source_sha256,
        detail_json=json.dumps(detail, sort_keys=True),
        **fields,
    )


async def seal(work: Work, decided: Row) -> None:
    """Score the champion's confirmed artifacts once on the split that no agent ever sees a score of."""
    row = await asyncio.to_thread(attempts.recorded, work.engine, work.opening, "sealed")
    if row is None:
        public: list[Measurement] = []
        sealed: list[Measurement] = []
        for index in range(len(decided.scores)):
            made = await _measurement(work, CANDIDATE, index)
            if made is None:
                raise InfraFault(
                    "seal", f"{work.ref.trial}: replicate {index} of its confirmation is not stored"
                )
            public.append(made)
            sealed.append(await _sealed(work, CANDIDATE, index))
        row = sealed_event(work, public, sealed)
    await asyncio.to_thread(attempts.record, work.engine, work.opening, row)


async def _sealed(work: Work, side: str, index: int) -> Measurement:
    """Replicate `index` of one side on the sealed split, stored or new."""
    name = f"{_purpose(work, side, index)}-measurement-sealed"
    raw = await asyncio.to_thread(get_result, work.engine.store, work.ref.campaign, work.ref.trial, name)
    if raw is not None:
        return Measurement.model_validate_json(raw)
    trained = await artifacts(work, side, index)
    return await evaluate(work.ref, work.programs[side], trained, split="sealed", quiet=True)


def sealed_event(work: Work, public: Sequence[Measurement], sealed: Sequence[Measurement]) -> Row:
    detail = {
        "attempt": work.opening.number,
        "measurements": [measurement_sha(m) for m in sealed],
        "public_quantities": _quantities(public),
    }
    return Row(
        event="sealed",
        **_who(work),
        sealed_score=_mean([m.score for m in sealed]),
        public_score=_mean([m.score for m in public]),
        source_sha256=work.programs[CANDIDATE].source_sha256,
        quantities_json=json.dumps(_quantities(sealed), sort_keys=True),
        evaluate_cpu_s=sum(
            s.facts.cpu_s + s.facts.start_cpu_s for m in sealed for s in m.per_seed if s.facts
        ),
        detail_json=json.dumps(detail, sort_keys=True),
    )


def _patched(engine: Engine, trial: str) -> Patched:
    raw = get_result(engine.store, engine.config.id, trial, "patch")
    if raw is None:
        raise UsageError(f"{trial} never became a program, so it cannot be confirmed")
    return Patched.model_validate_json(raw)


def _who(work: Work) -> dict[str, str | None]:
    config, ref = work.engine.config, work.ref
    return {
        "campaign": config.id,
        "environment": config.spec.name,
        "arm": config.settings.arm,
        "trial": ref.trial,
        "role": ref.role or None,
        "machine": client.machine_identity(),
        "isolation": config.isolation,
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
