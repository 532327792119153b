"""The allocation in which a cluster's scheduler runs this worker: when it ends, and what SIGTERM means there.

SLURM tells a job its end in SLURM_JOB_END_TIME; BAKEOFF_END_TIME (UNIX seconds too) says the same elsewhere, a
Kubernetes pod with a deadline for one. A trial begins only where enough of that is left. Every scheduler announces the
end, preemption included, by SIGTERM some seconds before SIGKILL: the trial under way then ends its processes, records
the attempt as `infra:preempted` in a campaign event, which no agent sees, and leaves its flow run in a state that the
campaign answers by sending the trial to another worker.

Limits: a trial in a process of its own (deployed mode); `bakeoff run` stops as a whole on SIGTERM and is resumed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.context import FlowRunContext

from flows.engine.campaign_config import BASELINE, now
from flows.engine.engine import Engine
from flows.engine.stage_records import TrialRef
from lineage.environment_spec import EnvironmentSpec
from lineage.errors import Interrupted, UsageError
from lineage.queries import View
from lineage.records import Row

END_TIMES = ("BAKEOFF_END_TIME", "SLURM_JOB_END_TIME")
PREEMPTED = (
    "Preempted"  # names of flow run states; the campaign sends such a trial again and counts no failure
)
NO_TIME = "NoTimeLeft"
CAUSE = "infra:preempted"
MEASURED_FACTOR = 2.0  # a trial may take twice the longest one recorded so far, and never more than its caps


class NoTimeLeft(Interrupted):
    """What is left of this worker's allocation is shorter than the trial may take."""


def seconds_left(environ: Mapping[str, str] | None = None) -> float | None:
    """Seconds until this worker's allocation ends; None where nothing says that it does.

    Raises UsageError for a time that is no number.
    """
    given = os.environ if environ is None else environ
    for name in END_TIMES:
        text = given.get(name, "")
        if text:
            try:
                return float(text) - time.time()
            except ValueError:
                raise UsageError(
                    f"{name}={text!r} is not a time in UNIX seconds; set it as `date +%s` prints it"
                ) from None
    return None


def trial_caps_s(spec: EnvironmentSpec, baseline: bool = False) -> float:
    """Wall seconds that a trial takes when every part of it uses up its cap: smoke, then each run and its answers.

    A start has no wall cap of its own that is meant to be reached (it is six times the CPU cap, for busy machines);
    its CPU cap over its threads stands for it.
    """
    budget = spec.budget
    runs = spec.evaluation.calibrate_runs if baseline else spec.evaluation.runs
    start = budget.start_cpu_s / budget.threads
    return start + budget.smoke_wall_s + runs * (2 * start + budget.train_wall_s + budget.predict_wall_s)


def longest_trial_s(spec: EnvironmentSpec, view: View, baseline: bool = False) -> float:
    """What a trial may take here: by its caps, or by the longest one recorded where that says less."""
    caps = trial_caps_s(spec, baseline)
    stages = sum(np.nan_to_num(view.numbers(name)) for name in ("build_s", "train_s"))
    took = (stages + view.numbers("evaluate_s"))[np.isfinite(view.numbers("evaluate_s"))]
    return min(caps, MEASURED_FACTOR * float(took.max())) if len(took) and not baseline else caps


async def check_time(engine: Engine, ref: TrialRef) -> None:
    """Raises NoTimeLeft where a deployed trial could not end before this worker's allocation does."""
    left = seconds_left()
    if left is None or not _deployed():
        return
    view = await asyncio.to_thread(engine.view)
    needed = longest_trial_s(engine.config.spec, view, ref.trial == BASELINE)
    if left < needed:
        raise NoTimeLeft(
            f"{ref.trial} may take {needed:.0f} s and the allocation of {where()} ends in {max(left, 0):.0f} s; "
            "a worker with more time takes it, or this environment needs longer allocations"
        )


def _deployed() -> bool:
    """Is this a flow run that a worker took from a pool?"""
    context = FlowRunContext.get()
    return context is not None and context.flow_run is not None and context.flow_run.deployment_id is not None


def where() -> str:
    """This worker: its host, and its job where the scheduler says which."""
    job = os.environ.get("SLURM_JOB_ID") or os.environ.get("BAKEOFF_JOB", "")
    return socket.gethostname() + (f" (job {job})" if job else "")


@dataclass
class Notice:
    """That this process was told to end, and when; set by the signal, read when the stages have stopped."""

    at: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @property
    def came(self) -> bool:
        return self.at > 0


@contextmanager
def preemptible(engine: Engine) -> Iterator[Notice]:
    """While it is open, SIGTERM ends candidates and leaves the trial open instead of crashing the flow.

    Only a flow in a process of its own has the main thread; elsewhere the process's own handler stays. Prefect's
    handler comes back afterwards.
    """
    notice = Notice()
    if threading.current_thread() is not threading.main_thread():
        yield notice
        return

    def told(_number: int, _frame: object) -> None:
        notice.at = notice.at or time.monotonic()
        engine.cancel.set()

    before = signal.signal(signal.SIGTERM, told)
    try:
        yield notice
    finally:
        signal.signal(signal.SIGTERM, before)


def record_preemption(engine: Engine, ref: TrialRef, notice: Notice, stage: str) -> Row:
    """Append what became of this attempt. A campaign event: the trial has no outcome yet and gets one elsewhere."""
    after = notice.at - notice.began
    earlier = [row for row in engine.view().events("campaign") if _is_preemption(row, ref.trial)]
    row = Row(
        event="campaign",
        campaign=ref.campaign,
        environment=engine.config.spec.name,
        arm=engine.config.settings.arm,
        trial=ref.trial,
        attempt=len(earlier),
        role=ref.role or None,
        operator="preempted",
        cause=CAUSE,
        stage=stage,
        notes=f"SIGTERM on {where()} in {stage} after {after:.0f} s; the trial goes to another worker",
        t_started=now(),
    )
    engine.append(row)
    return row


def _is_preemption(row: Row, trial: str) -> bool:
    return row.operator == "preempted" and row.trial == trial


async def handed_back(
    engine: Engine, ref: TrialRef, notice: Notice, stage: str, stopped: Interrupted
) -> State[None]:
    """The end of a flow run that leaves its trial to another worker. Raises `stopped` again when a person stopped it."""
    if isinstance(stopped, NoTimeLeft):
        return _state(NO_TIME, str(stopped))
    if not notice.came or await _cancelled_by_a_person():
        raise stopped
    row = await asyncio.to_thread(record_preemption, engine, ref, notice, stage)
    return _state(PREEMPTED, row.notes or "")


def _state(name: str, why: str) -> State[None]:
    return State(type=StateType.CANCELLED, name=name, message=why)


async def _cancelled_by_a_person() -> bool:
    """Was this flow run cancelled in Prefect? Its runner sends the same signal."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return False
    try:
        async with get_client() as client:
            state = (await client.read_flow_run(context.flow_run.id)).state
    except Exception:  # the server is away: the signal is all that is known
        return False
    return state is not None and state.type in (StateType.CANCELLING, StateType.CANCELLED)
