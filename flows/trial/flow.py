"""The trial as a Prefect flow: six tasks in order, one lineage row at the end.

Parameters are ids, so the same flow runs inside a campaign's process and as a deployment on another
machine; everything else is read from the store.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from agents.llm.transcript import agent_of, read_exchange
from flows.engine.campaign_config import BASELINE, now
from flows.engine.engine import Engine, engine_of_worker
from flows.engine.live_events import Note
from flows.engine.stage_records import Patched, TrialRef, part_name
from flows.report.formatting import trial_name
from flows.trial import stages
from flows.trial.cluster_allocation import check_time, handed_back, preemptible
from flows.trial.prefect_tasks import build, evaluate, label, patch, propose, train
from flows.trial.recording import Progress, parent_of
from flows.trial.screen_racing import look_after, parts_of
from lineage.errors import (
    BudgetSpent,
    EditRefused,
    InfraFault,
    Interrupted,
    NothingLeft,
    ProposerFault,
    ProposerRefused,
    ProposerUnusable,
)
from lineage.records import Measurement, Proposal, Row, Usage


@flow(name="trial", flow_run_name="{environment} · {role} · {trial}", persist_result=False)
async def trial(
    store: str, campaign: str, trial: str, role: str, environment: str = "", epoch: int = 0
) -> Row:
    """Run one trial to its row.

    Raises `Interrupted` when a person stopped the campaign, InfraFault on a machine without the GPUs that a run
    needs: such a flow run fails and says so, and the trial stays open for another machine.

    As a deployment it may end without a row, in a state named as in `flows.trial.cluster_allocation`: its worker's allocation
    ended, or ends too soon. The campaign sends it again.

    Args:
        store: root of the store, a folder or s3://bucket/prefix.
        campaign: id of the campaign in it.
        trial: id that the campaign allocated, e.g. t0042.
        role: the specialist whose trial it is.
        environment: only for the name of the flow run.
        epoch: of the owner that dispatched it to another process; 0 in the owner's own.
    """
    ref = TrialRef(store=store, campaign=campaign, trial=trial, role=role, environment=environment)
    engine = await asyncio.to_thread(engine_of_worker, store, campaign, epoch)
    if (begun := engine.begun.pop(trial, None)) is not None:
        begun.set()
    await asyncio.to_thread(engine.check_devices)
    progress = Progress(ref=ref, started=now())
    with preemptible(engine) as notice:
        try:
            return await _to_its_row(ref, engine, progress)
        except Interrupted as stopped:
            return await handed_back(engine, ref, notice, progress.stage, stopped)  # type: ignore[return-value]


async def _to_its_row(ref: TrialRef, engine: Engine, progress: Progress) -> Row:
    cpu = time.process_time()
    async with AsyncExitStack() as held:
        try:
            await check_time(engine, ref)
            progress.proposal = await _timed(progress, "propose", propose(ref))
            await _turn(engine, progress, held)
            await _run_stages(ref, engine, progress, progress.proposal)
        except (ProposerRefused, ProposerUnusable, NothingLeft, BudgetSpent) as fault:
            await asyncio.to_thread(_no_edit, engine, progress, fault)
        except InfraFault as fault:
            engine.raise_if_cancelled()  # a tree told to end that reports late on a busy machine is no outcome
            progress.infra, progress.infra_text = fault.what, str(fault)
        progress.engine_cpu_s = time.process_time() - cpu
        row = await label(ref, progress)
    await _rename(engine, trial_name(row, engine.config.spec))
    await asyncio.to_thread(stages.drop_scratch, engine, ref.trial)
    return row


def _no_edit(engine: Engine, progress: Progress, fault: ProposerFault) -> None:
    """A session that gave no edit still has its cost, its prompt and its exchange."""
    cause = {ProposerRefused: "refused", NothingLeft: "abandoned", BudgetSpent: "abandoned"}
    progress.refusal = EditRefused(cause.get(type(fault), "bad_edit"), str(fault))
    progress.usage = fault.usage if isinstance(fault.usage, Usage) else None
    if fault.exchange:
        progress.exchange_sha256 = engine.blob(fault.exchange)
        exchange = read_exchange(fault.exchange)
        progress.prompt_sha256 = engine.blob(str(exchange["prompt"]).encode())
        progress.agent = agent_of(exchange)
        progress.asked = (str(exchange["proposer"]), str(exchange["model"]))


async def _turn(engine: Engine, progress: Progress, held: AsyncExitStack) -> None:
    """Wait with the proposal until a slot's trial has its outcome: the edit is then applied to what leads by now."""
    asked = time.monotonic()
    await held.enter_async_context(engine.turns)
    progress.queue_s = time.monotonic() - asked
    engine.raise_if_cancelled()


async def _run_stages(ref: TrialRef, engine: Engine, progress: Progress, proposal: Proposal) -> None:
    patched = await _timed(progress, "patch", patch(ref, proposal))
    if isinstance(patched, EditRefused):
        progress.refusal = patched
        return
    progress.patched = patched
    progress.checks = await _timed(progress, "build", build(ref, patched))
    if not all(check.passed for check in progress.checks):
        return
    purpose = "calibrate" if ref.trial == BASELINE else "screen"
    seeds = stages.seeds_for(engine, patched, purpose)
    progress.planned_runs = len(seeds)
    for first, last in parts_of(engine, purpose, len(seeds)):
        name = part_name(purpose, first)
        measured = await _part(ref, engine, progress, patched, name, seeds[first:last])
        if measured is None:
            return
        if last < len(seeds):
            seen = await asyncio.to_thread(look_after, engine, ref, measured, parent_of(progress))
            progress.stopped = seen.stopped
            if seen.is_over:
                return


async def _part(
    ref: TrialRef, engine: Engine, progress: Progress, patched: Patched, name: str, seeds: tuple[int, ...]
) -> Measurement | None:
    """Train and judge some of the runs, or take up what is stored of them; the measurement of all so far.

    None when a run failed in training, which decides the trial.
    """
    known = await asyncio.to_thread(stages.finished, engine, ref, name)
    trained = known[0] if known else await _timed(progress, "train", train(ref, patched, name, seeds))
    progress.runs += trained.runs
    progress.beyond += trained.beyond
    progress.pruning = progress.pruning or trained.pruning
    if any(run.cause is not None for run in trained.runs):
        progress.measurement = None
        return None
    part = known[1] if known else await _timed(progress, "evaluate", evaluate(ref, patched, trained))
    progress.judged += (part,)
    progress.measurement = await asyncio.to_thread(
        stages.all_so_far, engine, ref, name.partition("-")[0], progress.judged
    )
    return progress.measurement


async def _timed(progress: Progress, stage: str, work: Any) -> Any:
    progress.stage = stage
    started = time.monotonic()
    try:
        return await work
    finally:
        progress.seconds[stage] = progress.seconds.get(stage, 0.0) + time.monotonic() - started


async def _rename(engine: Engine, name: str) -> None:
    """Put the outcome into the flow run's name; a display matter, so a server fault is no fault of the trial."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    try:
        async with get_client() as client:
            await client.update_flow_run(context.flow_run.id, name=name)
    except Exception as error:  # the store already has the outcome
        engine.emit(Note(f"the flow run of {name} was not renamed: {error!r}"[:300]))
