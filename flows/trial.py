"""The trial as a Prefect flow: six tasks in order, one lineage row at the end.

The tasks hold no logic: they run a stage of `flows.stages` in a worker thread, with the retries that
Prefect gives for faults of ours (InfraFault), and emit events for the display. Parameters are ids, so
the same flow runs inside a campaign's process and as a deployment on another machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

from prefect import State, Task, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import TaskRun
from prefect.context import FlowRunContext

from flows import stages
from flows.artifacts import publish_trial
from flows.config import BASELINE, now
from flows.engine import Engine, engine_for
from flows.names import trial_name
from flows.recording import Progress, record
from flows.words import Patched, Trained, TrialRef
from lineage.errors import (
    BakeoffError,
    BudgetSpent,
    EditRefused,
    InfraFault,
    NothingLeft,
    ProposerRefused,
    ProposerUnusable,
)
from lineage.records import Check, Measurement, Proposal, Row

T = TypeVar("T")
INFRA_RETRIES = 2


def _is_infra(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    try:
        state.result()
    except InfraFault:
        return True
    except Exception:
        return False
    return False


RETRIED: dict[str, Any] = {
    "retries": INFRA_RETRIES,
    "retry_delay_seconds": 1,
    "retry_condition_fn": _is_infra,
}


async def _stage(ref: TrialRef, name: str, work: Callable[[Engine], T]) -> T:
    engine = engine_for(ref.store, ref.campaign)
    engine.emit({"kind": "stage", "trial": ref.trial, "role": ref.role, "stage": name, "state": "running"})
    return await asyncio.to_thread(work, engine)


@task(name="propose", cache_policy=NO_CACHE, persist_result=False)
async def propose(ref: TrialRef) -> Proposal:
    return await _stage(ref, "propose", lambda engine: stages.propose(engine, ref))


@task(name="patch", cache_policy=NO_CACHE, persist_result=False)
async def patch(ref: TrialRef, proposal: Proposal) -> Patched | EditRefused:
    """An edit that is refused is an outcome of the trial, not a failure of the task."""
    try:
        return await _stage(ref, "patch", lambda engine: stages.patch(engine, ref, proposal))
    except EditRefused as refusal:
        return refusal


@task(name="build", cache_policy=NO_CACHE, persist_result=False, **RETRIED)
async def build(ref: TrialRef, patched: Patched) -> tuple[Check, ...]:
    return await _stage(ref, "build", lambda engine: stages.build(engine, ref, patched))


@task(name="train", cache_policy=NO_CACHE, persist_result=False, **RETRIED)
async def train(ref: TrialRef, patched: Patched, purpose: str, seeds: tuple[int, ...]) -> Trained:
    return await _stage(ref, "train", lambda engine: stages.train(engine, ref, patched, purpose, seeds))


@task(name="evaluate", cache_policy=NO_CACHE, persist_result=False, **RETRIED)
async def evaluate(ref: TrialRef, patched: Patched, trained: Trained, split: str = "public") -> Measurement:
    return await _stage(ref, "evaluate", lambda engine: stages.evaluate(engine, ref, patched, trained, split))


@task(name="label", cache_policy=NO_CACHE, persist_result=False)
async def label(ref: TrialRef, progress: Progress) -> Row:
    row = await _stage(ref, "label", lambda engine: record(engine, progress))
    await publish_trial(engine_for(ref.store, ref.campaign), row)
    return row


@flow(name="trial", flow_run_name="{environment} · {role} · {trial}", persist_result=False)
async def trial(store: str, campaign: str, trial: str, role: str, environment: str = "") -> Row:
    """Run one trial to its row. Raises only `Interrupted`, when a person stopped the campaign.

    Args:
        store: root of the store, a folder or s3://bucket/prefix.
        campaign: id of the campaign in it.
        trial: id that the campaign allocated, e.g. t0042.
        role: the specialist whose trial it is.
        environment: only for the name of the flow run.
    """
    ref = TrialRef(store=store, campaign=campaign, trial=trial, role=role, environment=environment)
    engine = await asyncio.to_thread(engine_for, store, campaign)
    progress = Progress(ref=ref, started=now())
    cpu = time.process_time()
    try:
        await _run_stages(ref, engine, progress)
    except (ProposerRefused, ProposerUnusable) as fault:
        cause = "refused" if isinstance(fault, ProposerRefused) else "bad_edit"
        progress.refusal = EditRefused(cause, str(fault))
        progress.spent = _spent(engine, fault)
    except (NothingLeft, BudgetSpent) as end:
        progress.refusal = EditRefused("abandoned", str(end))
    except InfraFault as fault:
        progress.infra, progress.infra_text = fault.what, str(fault)
    progress.engine_cpu_s = time.process_time() - cpu
    row = await label(ref, progress)
    await _rename(engine, trial_name(row, engine.config.spec))
    await asyncio.to_thread(stages.drop_scratch, engine, ref.trial)
    return row


async def _run_stages(ref: TrialRef, engine: Engine, progress: Progress) -> None:
    progress.proposal = await _timed(progress, "propose", propose(ref))
    patched = await _timed(progress, "patch", patch(ref, progress.proposal))
    if isinstance(patched, EditRefused):
        progress.refusal = patched
        return
    progress.patched = patched
    progress.checks = await _timed(progress, "build", build(ref, patched))
    if not all(check.passed for check in progress.checks):
        return
    purpose = "calibrate" if ref.trial == BASELINE else "screen"
    seeds = stages.seeds_for(engine, patched, purpose)
    trained = await _timed(progress, "train", train(ref, patched, purpose, seeds))
    progress.runs = trained.runs
    if any(run.cause is not None for run in trained.runs):
        return
    progress.measurement = await _timed(progress, "evaluate", evaluate(ref, patched, trained))


async def _timed(progress: Progress, stage: str, work: Any) -> Any:
    progress.stage = stage
    started = time.monotonic()
    try:
        return await work
    finally:
        progress.seconds[stage] = time.monotonic() - started


def _spent(engine: Engine, fault: BakeoffError) -> dict[str, Any]:
    """What a call that gave no edit cost, and where its exchange is kept."""
    usage, exchange = getattr(fault, "usage", None), getattr(fault, "exchange", None)
    spent: dict[str, Any] = {}
    if usage is not None:
        spent["usage"] = usage.model_dump()
    if exchange:
        spent["exchange_sha256"] = engine.blob(exchange)
    return spent


async def _rename(engine: Engine, name: str) -> None:
    """Put the outcome into the flow run's name; a display matter, so a server fault is no fault of the trial."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    try:
        async with get_client() as client:
            await client.update_flow_run(context.flow_run.id, name=name)
    except Exception as error:  # the store already has the outcome
        engine.emit({"kind": "note", "text": f"the flow run of {name} was not renamed: {error!r}"[:300]})
