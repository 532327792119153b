"""The campaign flow: a lane per specialist, each starting its next trial when its last one ends.

State is derived from the store: ids are allocated by exclusive claims, begun trials without an end
are continued first, finished ones are never repeated. Whether a trial runs inside this process or as
a deployment elsewhere is one function, `run_here` or `run_deployed`; nothing else differs.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from prefect import flow

from flows.artifacts import publish_campaign
from flows.budget import refusal, spent
from flows.campaign_events import first_start, log_calibration, log_campaign
from flows.config import BASELINE, now
from flows.confirm import confirm
from flows.control import paused
from flows.engine import Engine, engine_for
from flows.nightwatch import Watch, patiently, tell, watching
from flows.standing import book
from flows.trial import trial
from flows.wording import one_line
from flows.words import Interrupted, TrialRef
from lineage.errors import InfraFault, ObjectExists, UsageError
from lineage.records import Record, Row, Status
from lineage.results import get_result, put_result

PAUSE_POLL_S = 1.0
SPARE_THREADS = 16
FAULT_PAUSES = 3  # a machine that is still at fault after the third pause is left to a person


class Submission(Record):
    """The claim on a trial id: written once, before anything of the trial happens."""

    trial: str
    role: str
    at: datetime


@dataclass
class Campaign:
    """Live state of one run of the flow; everything in it can be derived again from the store."""

    engine: Engine
    run_one: Callable[[TrialRef], Awaitable[Row]]
    confirm_one: Callable[[TrialRef], Awaitable[Row]]
    started: datetime
    turns: asyncio.Semaphore
    watch: Watch
    continued: datetime
    under_way: set[str] = field(default_factory=set)
    faults_in_a_row: int = 0
    fault_pauses: int = 0
    ended_because: str = ""
    admitting: asyncio.Lock = field(default_factory=asyncio.Lock)
    confirming: asyncio.Lock = field(default_factory=asyncio.Lock)
    confirmations: list[asyncio.Task[None]] = field(default_factory=list)
    next_number: int = 1

    def ref(self, trial_id: str, role: str) -> TrialRef:
        engine = self.engine
        return TrialRef(
            store=engine.root,
            campaign=engine.config.id,
            trial=trial_id,
            role=role,
            environment=engine.config.spec.name,
        )


@flow(name="campaign", flow_run_name="campaign {campaign}", persist_result=False)
async def campaign(store: str, campaign: str) -> str:
    """Run or continue a campaign to its end in this process. Returns why it ended."""
    engine = await asyncio.to_thread(engine_for, store, campaign)
    return await drive(engine, run_here, confirm_here)


async def drive(
    engine: Engine,
    run_one: Callable[[TrialRef], Awaitable[Row]],
    confirm_one: Callable[[TrialRef], Awaitable[Row]],
) -> str:
    """Baseline, lanes, confirmations, end. `run_one` takes a trial to its row, here or elsewhere."""
    settings = engine.config.settings
    # a replayed role waits for a parent of another role, so every role must be able to be at work
    # asyncio's own pool has cores + 4 threads: six on two cores, where each of eight stages occupies one
    workers = ThreadPoolExecutor(SPARE_THREADS + 2 * engine.slots, thread_name_prefix="stage")
    asyncio.get_running_loop().set_default_executor(workers)
    at_once = (
        len(engine.config.roles) if settings.proposer == "replay" else settings.trials_at_once(engine.slots)
    )
    async with watching(engine) as watch:
        continued = now()
        started = await patiently(watch, lambda: asyncio.to_thread(first_start, engine))
        await patiently(watch, lambda: asyncio.to_thread(log_calibration, engine))
        turns = asyncio.Semaphore(at_once)
        state = Campaign(engine, run_one, confirm_one, started, turns, watch, continued)
        try:
            await _measure_baseline(state)
            await _lanes(state)
            await _confirm_leaders(state)
        except Interrupted:
            pass
        how, why = ("stop", "stopped by a person") if engine.cancel.is_set() else ("end", state.ended_because)
        await patiently(watch, lambda: asyncio.to_thread(log_campaign, engine, how, why))
        if not engine.cancel.is_set():
            await publish_campaign(engine, why)
    return why


async def run_here(ref: TrialRef) -> Row:
    """Run a trial as a subflow of this process.

    Flows start one after the other: of eight that began together on SQLite, one waited 140 s for the database.
    """
    engine = await asyncio.to_thread(engine_for, ref.store, ref.campaign)
    async with engine.starting:
        begun = engine.begun[ref.trial] = asyncio.Event()
        run = asyncio.ensure_future(trial(ref.store, ref.campaign, ref.trial, ref.role, ref.environment))
        run.add_done_callback(lambda _: begun.set())
        await begun.wait()
    row: Row = await run
    return row


async def confirm_here(ref: TrialRef) -> Row:
    row: Row = await confirm(ref.store, ref.campaign, ref.trial, ref.environment)
    return row


async def _confirm_leaders(state: Campaign) -> None:
    """Confirm the leader while there is one that is worth it; one attempt at a time in a campaign.

    A fault of the machine leaves the attempt undecided; it is taken up at the next keep or resume.
    """
    engine = state.engine
    if not engine.config.settings.confirm:
        return
    async with state.confirming:
        while not engine.cancel.is_set():
            candidate = await patiently(state.watch, lambda: asyncio.to_thread(_candidate, engine))
            if candidate is None:
                return
            ref = state.ref(candidate, "")
            try:
                row = await patiently(state.watch, partial(state.confirm_one, ref))
            except InfraFault as fault:
                engine.emit({"kind": "note", "text": f"confirming {candidate} is put off: {fault}"})
                return
            if row.verdict == "confirmed":
                await asyncio.to_thread(
                    tell, engine, f"new confirmed best: {candidate}, p = {row.p_value:.2g}"
                )


def _candidate(engine: Engine) -> str | None:
    return book(engine.config, engine.view()).candidate()


async def _measure_baseline(state: Campaign) -> None:
    """Trial t0000: the recipe as it is, with several seeds. Raises UsageError when it fails its own gate."""
    engine = state.engine
    row = engine.view().trial(BASELINE)
    if row is None:
        if get_result(engine.store, engine.config.id, BASELINE, "submit") is None:
            claim = Submission(trial=BASELINE, role=engine.config.roles[0].name, at=now())
            await patiently(state.watch, lambda: asyncio.to_thread(_submit, engine, claim))
        ref = state.ref(BASELINE, engine.config.roles[0].name)
        row = await patiently(state.watch, lambda: state.run_one(ref))
    if row.status is not Status.BASELINE:
        why = json.loads(row.detail_json).get("label") or row.numbers_json
        raise UsageError(
            f"the start of {engine.config.spec.name} does not pass on this machine: {row.status} ({row.cause}): "
            f"{one_line(why, 600)}; mend the recipe or its limits, then start a new run"
        )


def _submit(engine: Engine, claim: Submission) -> None:
    """Claim the id, then log it; a crash between the two is mended by `_open_trials`. The same claim may come twice."""
    put_result(engine.store, engine.config.id, claim.trial, "submit", claim.model_dump_json().encode())
    _log_submission(engine, claim)


def _log_submission(engine: Engine, claim: Submission) -> None:
    engine.append(
        Row(
            event="submitted",
            campaign=engine.config.id,
            environment=engine.config.spec.name,
            arm=engine.config.settings.arm,
            trial=claim.trial,
            role=claim.role,
            t_started=claim.at,
        )
    )


def _open_trials(state: Campaign) -> list[Submission]:
    """Trials that were begun and have no end, oldest first; also sets the next free number."""
    engine = state.engine
    view = engine.view()
    logged = {row.trial for row in view.events("submitted")}
    open_now: list[Submission] = []
    number = 1
    while (raw := get_result(engine.store, engine.config.id, f"t{number:04d}", "submit")) is not None:
        claim = Submission.model_validate_json(raw)
        if claim.trial not in logged:
            _log_submission(engine, claim)
        if view.trial(claim.trial) is None:
            open_now.append(claim)
        number += 1
    state.next_number = number
    return open_now


async def _allocate(state: Campaign, role: str) -> TrialRef:
    """Claim the next id. Counts as under way from here, before another lane asks for room."""
    while True:
        claim = Submission(trial=f"t{state.next_number:04d}", role=role, at=now())
        state.next_number += 1
        try:
            await patiently(state.watch, partial(asyncio.to_thread, _submit, state.engine, claim))
        except ObjectExists:  # another owner of this campaign took the number
            continue
        state.under_way.add(claim.trial)
        return state.ref(claim.trial, role)


async def _lanes(state: Campaign) -> None:
    engine = state.engine
    opened = await patiently(state.watch, lambda: asyncio.to_thread(_open_trials, state))
    waiting = {claim.trial: claim for claim in opened}
    state.under_way.update(waiting)
    by_role: dict[str, list[str]] = {}
    for claim in waiting.values():
        by_role.setdefault(claim.role, []).append(claim.trial)
    lanes = [_lane(state, role, by_role.pop(role, [])) for role in _roles_of_lanes(engine)]
    results = await asyncio.gather(*lanes, return_exceptions=True)
    results += await asyncio.gather(*state.confirmations, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    if not state.ended_because:  # no lane was refused a trial: each stopped because its proposer did
        why = await asyncio.to_thread(_why_not, state)
        state.ended_because = why or "no role has anything left to try"


def _roles_of_lanes(engine: Engine) -> list[str]:
    """One lane per role; more where a person asked for more trials at once than there are roles, or more devices wait for work."""
    names = [role.name for role in engine.config.roles]
    wanted = engine.config.settings.in_flight or (engine.slots if engine.slot_kind == "gpu" else 0)
    return [names[at % len(names)] for at in range(max(len(names), wanted))]


async def _lane(state: Campaign, role: str, left_over: list[str]) -> None:
    """One specialist: continue what it had begun, then trial after trial until the budget says no."""
    for trial_id in left_over:
        async with state.turns:
            await _one(state, state.ref(trial_id, role))
    while not state.engine.cancel.is_set():
        async with state.turns:
            ref = await _admit(state, role)
            if ref is None:
                return
            row = await _one(state, ref)
        if row.cause == "abandoned":  # the proposer has nothing more for this role, or its budget is spent
            state.engine.emit({"kind": "note", "text": f"{role} ends: {row.error_excerpt}"})
            return
        if row.status is Status.KEEP:  # beside the lanes: a role that just found something goes on at once
            state.confirmations.append(asyncio.create_task(_confirm_leaders(state)))


async def _admit(state: Campaign, role: str) -> TrialRef | None:
    """A new trial's id, or None when the budget has no room; one lane asks at a time, none while paused."""
    async with state.admitting:
        await patiently(state.watch, lambda: _while_paused(state.engine))
        await _after_faults(state)
        why = await patiently(state.watch, lambda: asyncio.to_thread(_why_not, state))
        if why is not None:
            state.ended_because = state.ended_because or why
            return None
        return await _allocate(state, role)


async def _after_faults(state: Campaign) -> None:
    """After so many faults of the machine in a row wait, longer each time, then try one more trial."""
    settings = state.engine.config.settings
    if state.faults_in_a_row < settings.max_infra_faults or state.fault_pauses >= FAULT_PAUSES:
        return
    wait = settings.fault_pause_s * 5**state.fault_pauses
    state.fault_pauses += 1
    why = f"{state.faults_in_a_row} faults of the machine in a row"
    state.watch.waiting_for = why
    await asyncio.to_thread(tell, state.engine, f"paused for {wait:.0f} s: {why}")
    until = time.monotonic() + wait
    while time.monotonic() < until:
        state.engine.raise_if_cancelled()
        await asyncio.sleep(min(0.2, wait))
    state.watch.waiting_for = ""
    state.faults_in_a_row = settings.max_infra_faults - 1


async def _while_paused(engine: Engine) -> None:
    told = False
    while await asyncio.to_thread(lambda: paused(engine.view())):
        engine.raise_if_cancelled()
        if not told:
            engine.emit({"kind": "note", "text": "paused by a person; `bakeoff resume` lets it go on"})
            told = True
        await asyncio.sleep(PAUSE_POLL_S)


def _why_not(state: Campaign) -> str | None:
    engine = state.engine
    view = engine.view()
    used = spent(view, now())
    engine.emit({"kind": "budget", "spent": used, "settings": engine.config.settings})
    if state.faults_in_a_row >= engine.config.settings.max_infra_faults:
        return (
            f"{state.faults_in_a_row} faults of the machine in a row, also after {state.fault_pauses} pauses"
        )
    without_row = sum(view.trial(trial_id) is None for trial_id in state.under_way)
    return refusal(engine.config.settings, used, without_row, state.started, now(), state.continued)


async def _one(state: Campaign, ref: TrialRef) -> Row:
    try:
        row = await patiently(state.watch, lambda: state.run_one(ref))
    finally:
        state.under_way.discard(ref.trial)
    if row.status is Status.HARNESS_ABORT:
        state.faults_in_a_row += 1
    else:
        state.faults_in_a_row = state.fault_pauses = 0
    ended, began = row.t_finished, row.t_started
    state.watch.progress((ended - began).total_seconds() if ended and began else None)
    await patiently(state.watch, lambda: asyncio.to_thread(state.engine.compact))
    state.engine.emit({"kind": "trial", "row": row})
    return row
