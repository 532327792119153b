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
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from prefect import flow

from flows.campaign.campaign_rows import first_start, log_calibration, log_campaign
from flows.campaign.confirm import confirm
from flows.campaign.confirmation_attempts import due, sweep
from flows.campaign.interventions import paused
from flows.campaign.unexpected_faults import LaneFaults, report_fault
from flows.campaign.watchdog import Watchdog, patiently, tell, watching
from flows.engine.budget import allowance, refusal, seconds_left, spent
from flows.engine.campaign_config import BASELINE, now
from flows.engine.engine import Engine, engine_for
from flows.engine.live_events import Note, RowWritten, Spending
from flows.engine.stage_records import TrialRef
from flows.machine.machine_speed import what_to_do
from flows.report.prefect_artifacts import publish_campaign
from flows.trial.client_proposals import ClientProposal, waiting
from flows.trial.flow import trial
from flows.trial.proposal_costs import Submission, reserved
from lineage.errors import InfraFault, Interrupted, ObjectExists, StoreUnavailable, Superseded, UsageError
from lineage.records import Allowance, Row, Status, Usage
from lineage.safe_text import one_line
from lineage.store.results import get_result, put_result

PAUSE_POLL_S = 1.0
ROOM_POLL_S = 0.3
CLIENT_POLL_S, REMOTE = 1.0, 3  # an object store bills each look
SPARE_THREADS = 16
FAULT_PAUSES = 3  # a machine that is still at fault after the third pause is left to a person


@dataclass
class Campaign:
    """Live state of one run of the flow; everything in it can be derived again from the store."""

    engine: Engine
    run_one: Callable[[TrialRef], Awaitable[Row]]
    confirm_one: Callable[[TrialRef], Awaitable[Row]]
    started: datetime
    turns: asyncio.Semaphore
    watch: Watchdog
    continued: datetime
    under_way: set[str] = field(default_factory=set)
    faults_in_a_row: int = 0
    fault_pauses: int = 0
    ended_because: str = ""
    admitting: asyncio.Lock = field(default_factory=asyncio.Lock)
    confirming: asyncio.Lock = field(default_factory=asyncio.Lock)
    confirmations: list[asyncio.Task[None]] = field(default_factory=list)
    next_number: int = 1
    proposals: dict[str, Usage] = field(default_factory=dict)  # cost of open trials' proposals
    faults: list[str] = field(default_factory=list)
    over: str = ""  # what the end of the time allowed cut off
    taken: set[str] = field(default_factory=set)  # clients' proposals that a trial was begun for

    def ref(self, trial_id: str, role: str) -> TrialRef:
        engine = self.engine
        return TrialRef(
            store=engine.root,
            campaign=engine.config.id,
            trial=trial_id,
            role=role,
            environment=engine.config.spec.name,
        )

    def seconds_left(self) -> float | None:
        return seconds_left(self.engine.config.settings, self.started, now(), self.continued)


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
        await patiently(watch, lambda: asyncio.to_thread(sweep, engine))
        turns = asyncio.Semaphore(at_once)
        state = Campaign(engine, run_one, confirm_one, started, turns, watch, continued)
        try:
            await _measure_baseline(state)
            await _lanes(state)
            await _confirm_leaders(state)
        except (Interrupted, Superseded):
            pass
        except Exception as fault:
            await _end(state, "fault", f"{type(fault).__name__}: {one_line(str(fault), 600)}")
            raise
        if engine.fence is not None and engine.fence.lost_to is not None:
            await asyncio.to_thread(
                engine.fence.check
            )  # raises: another owner goes on, nothing is written here
        if engine.cancel.is_set() and not state.over:
            how, why = "stop", "stopped by a person"
        else:
            how, why = "end", "; ".join(filter(None, (state.ended_because, state.over, *state.faults)))
        await _end(state, how, why)
        if state.faults:
            raise LaneFaults(state.faults)
    return why


async def _end(state: Campaign, how: str, why: str) -> None:
    engine = state.engine
    await patiently(state.watch, lambda: asyncio.to_thread(log_campaign, engine, how, why), after_stop=True)
    if how != "stop":
        await publish_campaign(engine, why)


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
    """Seal, continue or open confirmations while one is due; one attempt at a time in a campaign.

    A fault of the machine leaves the attempt undecided; it is taken up at the next keep or resume.
    """
    engine = state.engine
    if not engine.config.settings.confirm:
        return
    async with state.confirming:
        while not engine.cancel.is_set():
            left = state.seconds_left()
            if left is not None and left <= 0:
                return  # a resume takes up what is due
            next_one = await patiently(state.watch, lambda: asyncio.to_thread(due, engine))
            if next_one is None:
                return
            candidate = next_one.trial
            ref = state.ref(candidate, "")
            try:
                row = await patiently(state.watch, partial(state.confirm_one, ref))
            except InfraFault as fault:
                engine.emit(Note(f"confirming {candidate} is put off: {fault}"))
                return
            view = await asyncio.to_thread(engine.view)
            if (
                row.verdict == "confirmed" and candidate in view.ranking.champions
            ):  # the sealed split takes titles
                await asyncio.to_thread(
                    tell, engine, f"new confirmed best: {candidate}, p = {row.p_value:.2g}"
                )


async def _measure_baseline(state: Campaign) -> None:
    """Trial t0000: the recipe as it is, with several seeds. Raises UsageError when it fails its own gate."""
    engine = state.engine
    row = await patiently(state.watch, lambda: asyncio.to_thread(lambda: engine.view().trial(BASELINE)))
    if row is None:
        begun = partial(get_result, engine.store, engine.config.id, BASELINE, "submit")
        if await patiently(state.watch, lambda: asyncio.to_thread(begun)) is None:
            claim = Submission(trial=BASELINE, role=engine.config.roles[0].name, at=now())
            await patiently(state.watch, lambda: asyncio.to_thread(_submit, engine, claim))
        ref = state.ref(BASELINE, engine.config.roles[0].name)
        row = await patiently(state.watch, lambda: state.run_one(ref))
    if row.status is not Status.BASELINE:
        why = json.loads(row.detail_json).get("label") or row.numbers_json
        helps = what_to_do(engine.config.spec, row.cause, json.loads(row.numbers_json))
        raise UsageError(
            f"the start of {engine.config.spec.name} does not pass on this machine: {row.status} ({row.cause}): "
            f"{one_line(why, 600)}; {helps or 'mend the recipe or its limits'}, then start a new run"
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
            detail_json=json.dumps(
                {"client_proposal": claim.client_proposal} if claim.client_proposal else {}
            ),
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
        state.taken.add(claim.client_proposal)
        if view.trial(claim.trial) is None:
            open_now.append(claim)
        number += 1
    state.next_number = number
    return open_now


async def _allocate(state: Campaign, role: str, allowed: Allowance, proposal: str) -> TrialRef:
    """Claim the next id. Counts as under way from here, before another lane asks for room."""
    while True:
        claim = Submission(
            trial=f"t{state.next_number:04d}",
            role=role,
            at=now(),
            allowance=allowed,
            client_proposal=proposal,
        )
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
    ended = asyncio.Event()
    clients = asyncio.create_task(_client_trials(state, ended))
    results = await asyncio.gather(*lanes, return_exceptions=True)
    ended.set()
    results += await asyncio.gather(clients, return_exceptions=True)
    results += await _confirmations(state)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    if not state.ended_because:  # no lane was refused a trial: each stopped because its proposer did
        why = await asyncio.to_thread(_why_not, state)
        state.ended_because = why or "no role has anything left to try"


async def _confirmations(state: Campaign) -> list[BaseException | None]:
    """Wait for the confirmations; one that the end of the time allowed finds running is ended, and can be resumed."""
    if state.confirmations and (left := state.seconds_left()) is not None:
        _, running = await asyncio.wait(state.confirmations, timeout=max(0.0, left))
        if running and not state.engine.cancel.is_set():
            state.over = "a confirmation was under way, `bakeoff resume` continues it"
            state.engine.cancel.set()
    return await asyncio.gather(*state.confirmations, return_exceptions=True)


def _roles_of_lanes(engine: Engine) -> list[str]:
    """One lane per role; more where a person asked for more trials at once than there are roles, or more devices wait for work."""
    names = [role.name for role in engine.config.roles]
    wanted = engine.config.settings.in_flight or (engine.slots if engine.slot_kind == "gpu" else 0)
    return [names[at % len(names)] for at in range(max(len(names), wanted))]


async def _lane(state: Campaign, role: str, left_over: list[str]) -> None:
    """One specialist: continue what it had begun, then trial after trial until the budget says no."""
    for trial_id in left_over:
        async with state.turns:
            if not await _may_continue(state, trial_id):
                return
            if await _one(state, state.ref(trial_id, role)) is None:
                return
    settings = state.engine.config.settings
    if settings.proposer == "mcp" and role not in settings.proposers:
        return
    while not state.engine.cancel.is_set():
        async with state.turns:
            ref = await _admit(state, role)
            row = await _one(state, ref) if ref is not None else None
            if row is None:
                return
        if row.cause == "abandoned":  # the proposer has nothing more for this role, or its budget is spent
            state.engine.emit(Note(f"{role} ends: {row.error_excerpt}"))
            return
        _confirm_beside(state, row)


def _confirm_beside(state: Campaign, row: Row) -> None:
    """Beside the lanes: a role that just found something goes on at once."""
    if row.status is Status.KEEP:
        state.confirmations.append(asyncio.create_task(_confirm_leaders(state)))


async def _client_trials(state: Campaign, ended: asyncio.Event) -> None:
    """A trial for each proposal that a client hands in, in the order of their arrival, within the same limits.

    Ends once the lanes have `ended` and none is waiting; without lanes of its own, once the limits allow no more.
    """
    engine, settings = state.engine, state.engine.config.settings
    only_clients = settings.proposer == "mcp" and not settings.proposers
    begun: list[asyncio.Task[None]] = []
    quiet, told = time.monotonic(), False
    pause = CLIENT_POLL_S * (REMOTE if "://" in engine.root else 1)
    if only_clients:
        engine.emit(Note(f"waits for proposals of clients; each starts `bakeoff mcp {engine.root}`"))
    try:
        while not engine.cancel.is_set():
            over = ended.is_set()  # before the look: what came before the end still gets its trial
            new = await _new_proposals(state)
            state.taken.update(found.id for found in new)
            begun += [asyncio.create_task(_client_trial(state, found)) for found in new]
            if not all(task.done() for task in begun) or new:
                quiet, told = time.monotonic(), False
            elif over and not (only_clients and await _is_open(state)):
                break
            elif only_clients:
                state.watch.last = time.monotonic()  # nothing to do is no stall
                if not told and time.monotonic() - quiet > 60 * settings.idle_min:
                    told = True
                    engine.emit(Note(f"no client has handed in a proposal for {settings.idle_min:g} min"))
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.sleep(60) if over else ended.wait(), pause)
    finally:
        results = await asyncio.gather(*begun, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


async def _new_proposals(state: Campaign) -> list[ClientProposal]:
    """What no trial has taken; nothing while the store is away, which the lanes tell and wait for."""
    engine = state.engine
    try:
        return await asyncio.to_thread(waiting, engine.store, engine.config.id, state.taken)
    except StoreUnavailable:
        return []


async def _is_open(state: Campaign) -> bool:
    """May a further trial start? Without lanes of its own the campaign ends when none may."""
    why = await patiently(state.watch, lambda: asyncio.to_thread(_why_not, state))
    state.ended_because = state.ended_because or why or ""
    return why is None


async def _client_trial(state: Campaign, found: ClientProposal) -> None:
    async with state.turns:
        ref = await _admit(state, found.proposal.role, found.id)
        if ref is None:
            state.engine.emit(Note(f"{found.id} of {found.client} gets no trial: {state.ended_because}"))
            return
        row = await _one(state, ref)
    if row is not None:
        _confirm_beside(state, row)


async def _admit(state: Campaign, role: str, proposal: str = "") -> TrialRef | None:
    """A new trial's id, or None when the budget has no room; one lane asks at a time, none while paused."""
    async with state.admitting:
        await patiently(state.watch, lambda: _while_paused(state.engine))
        await _after_faults(state)
        while not state.engine.cancel.is_set():
            why = await patiently(state.watch, lambda: asyncio.to_thread(_why_not, state))
            if why is not None:
                state.ended_because = state.ended_because or why
                return None
            # a client's proposal is there already: it costs this campaign nothing
            allowed = (
                Allowance()
                if proposal
                else await patiently(state.watch, lambda: asyncio.to_thread(_allowance, state, role))
            )
            if state.engine.cancel.is_set():
                break  # a stop came while the budget was asked
            if allowed is not None:
                return await _allocate(state, role, allowed, proposal)
            await asyncio.sleep(ROOM_POLL_S)  # the money left is reserved by trials under way
        return None


async def _may_continue(state: Campaign, trial_id: str) -> bool:
    """May a trial that was begun before go on? Those that were claimed before it come first."""
    if state.engine.cancel.is_set():
        return False
    earlier = {other for other in state.under_way if other < trial_id}
    why = await patiently(state.watch, lambda: asyncio.to_thread(_why_not, state, earlier))
    if why is not None:
        state.ended_because = state.ended_because or f"{why}; {trial_id} stays open"
    return why is None and not state.engine.cancel.is_set()


def _allowance(state: Campaign, role: str) -> Allowance | None:
    """What a new trial of the role may spend; None while there is no room beside the trials under way."""
    engine, settings = state.engine, state.engine.config.settings
    worst = getattr(engine.proposer, "worst_call", None)
    if worst is None or (settings.usd is None and settings.tokens is None and settings.usd_per_role is None):
        return Allowance()
    view = engine.view()
    counted = reserved(engine, view, state.proposals)
    proposing = sum(trial_id not in state.proposals for trial_id in counted)
    roles = {row.trial: row.role for row in view.open_trials()}
    mine = sum(usage.usd for trial_id, usage in counted.items() if roles.get(trial_id) == role)
    mine += sum(row.usd for row in [*view.trials(), *view.events("campaign")] if row.role == role)
    at_once = settings.trials_at_once(engine.slots)
    return allowance(settings, spent(view, now()), mine, counted, proposing, worst(), at_once)


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
            engine.emit(Note("paused by a person; `bakeoff resume` continues"))
            told = True
        await asyncio.sleep(PAUSE_POLL_S)


def _why_not(state: Campaign, under_way: set[str] | None = None) -> str | None:
    engine = state.engine
    view = engine.view()
    used = spent(view, now())
    engine.emit(Spending(used))
    if state.faults_in_a_row >= engine.config.settings.max_infra_faults:
        return (
            f"{state.faults_in_a_row} faults of the machine in a row, also after {state.fault_pauses} pauses"
        )
    counted = state.under_way if under_way is None else under_way
    without_row = sum(view.trial(trial_id) is None for trial_id in counted)
    return refusal(engine.config.settings, used, without_row, state.started, now(), state.continued)


async def _one(state: Campaign, ref: TrialRef) -> Row | None:
    """A trial to its row. None after a fault that nobody foresaw: told at once, and the end of this lane only."""
    try:
        row = await patiently(state.watch, lambda: state.run_one(ref))
    except Superseded:
        state.engine.cancel.set()
        raise
    except Interrupted:
        raise
    except Exception as fault:
        if state.engine.cancel.is_set():
            raise Interrupted("the campaign was stopped") from fault
        told = await asyncio.to_thread(report_fault, state.engine, ref, fault)
        state.faults.append(told)
        return None
    finally:
        state.under_way.discard(ref.trial)
    if row.status is Status.HARNESS_ABORT:
        state.faults_in_a_row += 1
    else:
        state.faults_in_a_row = state.fault_pauses = 0
    ended, began = row.t_finished, row.t_started
    state.watch.progress((ended - began).total_seconds() if ended and began else None)
    await patiently(state.watch, lambda: asyncio.to_thread(state.engine.compact))
    state.engine.emit(RowWritten(row))
    return row
