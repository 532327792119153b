"""The campaign flow: a lane per specialist, each starting its next trial when its last one ends.

State is derived from the store: ids are allocated by exclusive claims, begun trials without an end
are continued first, finished ones are never repeated. Whether a trial runs inside this process or as
a deployment elsewhere is one function, `run_here` or `run_deployed`; nothing else differs.
"""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from prefect import flow

from flows.artifacts import publish_campaign
from flows.budget import refusal, spent
from flows.calibrate import Calibration
from flows.config import BASELINE, CampaignConfig, now
from flows.confirm import confirm
from flows.control import paused
from flows.engine import Engine, engine_for
from flows.home import bakeoff_version
from flows.standing import book
from flows.trial import trial
from flows.wording import one_line
from flows.words import Interrupted, TrialRef
from lineage.blobs import get_blob
from lineage.errors import InfraFault, ObjectExists, UsageError
from lineage.records import Record, Row, Status
from lineage.results import get_result, put_result

PAUSE_POLL_S = 1.0


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
    under_way: set[str] = field(default_factory=set)
    faults_in_a_row: int = 0
    ended_because: str = ""
    admitting: asyncio.Lock = field(default_factory=asyncio.Lock)
    confirming: asyncio.Lock = field(default_factory=asyncio.Lock)
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
    started = await asyncio.to_thread(_first_start, engine)
    await asyncio.to_thread(_log_calibration, engine)
    settings = engine.config.settings
    # a replayed role waits for a parent of another role, so every role must be able to be at work
    at_once = len(engine.config.roles) if settings.proposer == "replay" else settings.trials_at_once
    state = Campaign(engine, run_one, confirm_one, started, asyncio.Semaphore(at_once))
    try:
        await _measure_baseline(state)
        await _lanes(state)
        await _confirm_leaders(state)
    except Interrupted:
        pass
    if engine.cancel.is_set():
        state.ended_because = "stopped by a person"
    await asyncio.to_thread(
        _log_campaign, engine, "stop" if engine.cancel.is_set() else "end", state.ended_because
    )
    if not engine.cancel.is_set():
        await publish_campaign(engine, state.ended_because)
    return state.ended_because


async def run_here(ref: TrialRef) -> Row:
    """Run a trial as a subflow of this process."""
    row: Row = await trial(ref.store, ref.campaign, ref.trial, ref.role, ref.environment)
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
            candidate = await asyncio.to_thread(lambda: book(engine.config, engine.view()).candidate())
            if candidate is None:
                return
            try:
                await state.confirm_one(state.ref(candidate, ""))
            except InfraFault as fault:
                engine.emit({"kind": "note", "text": f"confirming {candidate} is put off: {fault}"})
                return


def _first_start(engine: Engine) -> datetime:
    """When the campaign began, also over resumes; writes the start event on the first call."""
    starts = [
        row.t_started for row in engine.view().events("campaign") if row.operator == "start" and row.t_started
    ]
    if starts:
        _log_campaign(engine, "resume", "")
        return min(starts)
    return _log_campaign(engine, "start", "")


def _log_campaign(engine: Engine, what: str, why: str) -> datetime:
    at = now()
    engine.append(
        Row(
            event="campaign",
            campaign=engine.config.id,
            environment=engine.config.spec.name,
            arm=engine.config.settings.arm,
            operator=what,
            notes=why or None,
            isolation=engine.config.isolation,
            evaluator_sha256=engine.config.evaluator_sha256,
            bakeoff_version=bakeoff_version(),
            t_started=at,
            detail_json=json.dumps(_told_of(engine.config), sort_keys=True),
        )
    )
    return at


def _told_of(config: CampaignConfig) -> dict[str, Any]:
    """What a campaign event says besides its columns; where it came from stands in lineage, not only in the config."""
    told: dict[str, Any] = {"direction": config.spec.score.direction}
    if config.forked_from is not None:
        told["forked_from"] = config.forked_from.model_dump()
    if config.comparison is not None:
        told["comparison"] = config.comparison.model_dump(mode="json")
    return told


def _log_calibration(engine: Engine) -> None:
    """Enter the calibration that the campaign was created with, once: its scores are replicates of the start."""
    config = engine.config
    if not config.calibration_sha256 or engine.view().events("calibration"):
        return
    held = Calibration.model_validate_json(get_blob(engine.store, config.calibration_sha256))
    engine.append(
        Row(
            event="calibration",
            campaign=config.id,
            environment=config.spec.name,
            arm=config.settings.arm,
            scores=list(config.calibration),
            seeds=list(held.seeds),
            noise_sd=statistics.stdev(config.calibration),
            source_sha256=held.source_sha256,
            environment_sha256=held.environment_sha256,
            evaluator_sha256=held.evaluator_sha256,
            isolation=held.isolation,
            machine=held.machine,
            bakeoff_version=held.bakeoff_version,
            t_finished=held.measured_at,
            detail_json=json.dumps({"calibration_sha256": config.calibration_sha256}),
        )
    )


async def _measure_baseline(state: Campaign) -> None:
    """Trial t0000: the recipe as it is, with several seeds. Raises UsageError when it fails its own gate."""
    engine = state.engine
    row = engine.view().trial(BASELINE)
    if row is None:
        if get_result(engine.store, engine.config.id, BASELINE, "submit") is None:
            _submit(engine, BASELINE, engine.config.roles[0].name)
        row = await state.run_one(state.ref(BASELINE, engine.config.roles[0].name))
    if row.status is not Status.BASELINE:
        why = json.loads(row.detail_json).get("label") or row.numbers_json
        raise UsageError(
            f"the start of {engine.config.spec.name} does not pass on this machine: {row.status} ({row.cause}): "
            f"{one_line(why, 600)}; mend the recipe or its limits, then start a new run"
        )


def _submit(engine: Engine, trial_id: str, role: str) -> None:
    """Claim the id, then log it; a crash between the two is mended by `_open_trials`."""
    claim = Submission(trial=trial_id, role=role, at=now())
    put_result(engine.store, engine.config.id, trial_id, "submit", claim.model_dump_json().encode())
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


def _allocate(state: Campaign, role: str) -> TrialRef:
    """Claim the next id. Counts as under way from here, before another lane asks for room."""
    while True:
        trial_id = f"t{state.next_number:04d}"
        state.next_number += 1
        try:
            _submit(state.engine, trial_id, role)
        except ObjectExists:  # another owner of this campaign took the number
            continue
        state.under_way.add(trial_id)
        return state.ref(trial_id, role)


async def _lanes(state: Campaign) -> None:
    engine = state.engine
    waiting = {claim.trial: claim for claim in await asyncio.to_thread(_open_trials, state)}
    state.under_way.update(waiting)
    by_role: dict[str, list[str]] = {}
    for claim in waiting.values():
        by_role.setdefault(claim.role, []).append(claim.trial)
    lanes = [_lane(state, role.name, by_role.get(role.name, [])) for role in engine.config.roles]
    results = await asyncio.gather(*lanes, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    if not state.ended_because:  # no lane was refused a trial: each stopped because its proposer did
        why = await asyncio.to_thread(_why_not, state)
        state.ended_because = why or "no role has anything left to try"


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
        if row.status is Status.KEEP:
            await _confirm_leaders(state)


async def _admit(state: Campaign, role: str) -> TrialRef | None:
    """A new trial's id, or None when the budget has no room; one lane asks at a time, none while paused."""
    async with state.admitting:
        await _while_paused(state.engine)
        why = await asyncio.to_thread(_why_not, state)
        if why is not None:
            state.ended_because = state.ended_because or why
            return None
        return await asyncio.to_thread(_allocate, state, role)


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
        return f"{state.faults_in_a_row} faults of the machine in a row"
    without_row = sum(view.trial(trial_id) is None for trial_id in state.under_way)
    return refusal(engine.config.settings, used, without_row, state.started, now())


async def _one(state: Campaign, ref: TrialRef) -> Row:
    try:
        row = await state.run_one(ref)
    finally:
        state.under_way.discard(ref.trial)
    state.faults_in_a_row = state.faults_in_a_row + 1 if row.status is Status.HARNESS_ABORT else 0
    await asyncio.to_thread(state.engine.compact)
    state.engine.emit({"kind": "trial", "row": row})
    return row
