"""The six stages as Prefect tasks: retries for faults of ours, a worker thread each, no logic.

A stage blocks (it waits for processes), so it runs in a thread and the event loop stays free for the
other trials of the campaign.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Any, TypeVar

from prefect import State, Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun

from flows.engine.engine import Engine, engine_for
from flows.engine.live_events import StageStarted
from flows.engine.stage_records import Patched, Trained, TrialRef
from flows.machine.folders import home
from flows.report.prefect_artifacts import publish_trial
from flows.trial import stages
from flows.trial.recording import Progress, record
from lineage.errors import EditRefused, InfraFault
from lineage.records import Check, Measurement, Proposal, Row

T = TypeVar("T")
INFRA_RETRIES = 2
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


def _is_infra(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """A device that stayed in use was waited for already; a fault of judge.py is the same each time."""
    return isinstance(state.data, InfraFault) and state.data.what not in ("busy_accelerator", "judge_program")


RETRIED: dict[str, Any] = {
    "retries": INFRA_RETRIES,
    "retry_delay_seconds": 1,
    "retry_condition_fn": _is_infra,
}


async def _stage(ref: TrialRef, name: str, work: Callable[[Engine], T], quiet: bool = False) -> T:
    engine = engine_for(ref.store, ref.campaign)
    if name != "label":  # what was measured is still recorded after a stop; nothing else begins
        engine.raise_if_cancelled()
    if not quiet:
        engine.emit(StageStarted(ref.trial, ref.role, name))
    try:
        return await asyncio.to_thread(work, engine)
    except OSError as error:
        if error.errno in DISK:
            text = f"{name}: {error.strerror}: {error.filename or 'scratch space'}; free space under {home()}"
            raise InfraFault("disk", text) from error
        raise


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
async def train(
    ref: TrialRef, patched: Patched, purpose: str, seeds: tuple[int, ...], quiet: bool = False
) -> Trained:
    """`quiet`: no stage event, for the many short runs of a confirmation."""
    return await _stage(
        ref, "train", lambda engine: stages.train(engine, ref, patched, purpose, seeds), quiet
    )


@task(name="evaluate", cache_policy=NO_CACHE, persist_result=False, **RETRIED)
async def evaluate(
    ref: TrialRef, patched: Patched, trained: Trained, split: str = "public", quiet: bool = False
) -> Measurement:
    return await _stage(
        ref, "evaluate", lambda engine: stages.evaluate(engine, ref, patched, trained, split), quiet
    )


@task(name="label", cache_policy=NO_CACHE, persist_result=False)
async def label(ref: TrialRef, progress: Progress) -> Row:
    row = await _stage(ref, "label", lambda engine: record(engine, progress))
    await publish_trial(engine_for(ref.store, ref.campaign), row)
    return row
