"""The campaign as a deployment: trials are deployments too, run by workers on this or other machines.

`prefect deploy --all` registers what `prefect.yaml` lists; `prefect deployment run
'campaign/airbench-mini' --param store=...` starts one. The campaign flow does no work itself: it sends each
trial to the `trials` work pool and reads the outcome from the store, so that a dead worker, server
or campaign loses nothing. There are two work pools, because campaigns in a bounded pool would occupy the
places that their own trials wait for.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
from prefect import flow
from prefect.client.schemas.objects import State, StateType
from prefect.deployments.flow_runs import arun_deployment
from prefect.exceptions import PrefectHTTPStatusError

from flows.campaign.confirmation_attempts import finished, open_attempt
from flows.campaign.loop import drive
from flows.campaign.outputs import end_of_run
from flows.campaign.owner import Ownership, owned
from flows.campaign.run_on_this_machine import create_campaign
from flows.engine.budget import end_of_window
from flows.engine.campaign_config import campaign_id, campaigns, load_config, now
from flows.engine.engine import Engine, close_engine, engine_for, server_name
from flows.engine.live_events import Note
from flows.engine.settings import Settings, differences, load_settings, parameters
from flows.engine.stage_records import TrialRef
from flows.environments.loading import load_environment
from flows.environments.prepared_data import check_data, prepare
from flows.machine.folders import home
from flows.trial.cluster_allocation import NO_TIME, PREEMPTED
from flows.trial.recording import Progress, record
from lineage.errors import DataMissing, InfraFault, RunBusy, Superseded, UsageError
from lineage.log.log_reader import Lineage
from lineage.records import Row
from lineage.store.objects import open_store

TRIAL_DEPLOYMENT = {"cpu": "trial/cpu", "gpu": "trial/gpu"}
CONFIRM_DEPLOYMENT = {"cpu": "confirm/confirm-cpu", "gpu": "confirm/confirm-gpu"}
DISPATCHES = 3
HANDED_BACK = (PREEMPTED, NO_TIME)
FIRST_PAUSE_S, LONGEST_PAUSE_S = (
    5.0,
    60.0,
)  # before a run is offered again to workers that had too little time
POLL_SECONDS = 1.0
SERVER_AWAY_S = 1800.0  # how long a campaign waits for a Prefect server that does not answer


def _with_settings(flow_function: Callable[..., Awaitable[str]]) -> Callable[..., Awaitable[str]]:
    """Give the flow a parameter for every setting; Prefect reads types from the signature, help from the docstring."""
    own = inspect.signature(flow_function, eval_str=True)
    mine = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    signature = own.replace(parameters=[*(p.replace(kind=p.KEYWORD_ONLY) for p in mine), *parameters()])
    flow_function.__signature__ = signature  # type: ignore[attr-defined]
    parameters_help = "".join(
        f"\n    {name}: {field.description}" for name, field in Settings.model_fields.items()
    )
    flow_function.__doc__ = inspect.cleandoc(flow_function.__doc__ or "") + parameters_help
    return flow_function


@flow(name="campaign", flow_run_name="campaign {environment}", persist_result=False)
@_with_settings
async def campaign(store: str = "", tag: str = "", take_over: bool = False, **settings: Any) -> str:
    """Run a campaign through the work pools; continue the unfinished one of this environment and arm if there is one.

    Besides these, every setting of `flows.engine.settings` is a parameter. `slots`: 0 means 1 without GPUs here.
    A campaign that is continued must be given the settings that it was started with.

    Args:
        store: folder or s3://bucket/prefix that every worker reaches; default a folder under BAKEOFF_HOME.
        tag: distinguishes campaigns of one environment and arm; default the date and time.
        take_over: take a campaign over from another machine without waiting for its owner's beacon.
    """
    environment = str(settings["environment"])
    flags = {name: value for name, value in settings.items() if value not in ("", (), {}, None)}
    root = store or str(home() / "runs" / environment)
    identifier = await asyncio.to_thread(_open_or_create, root, flags, tag)
    holding = owned(root, identifier, take_over=take_over, server=server_name())
    ownership = await asyncio.to_thread(holding.__enter__)  # it may wait for the old owner's beacon
    why = "ended by a fault"
    try:
        engine = await asyncio.to_thread(engine_for, root, identifier, ownership.fence)
        ownership.when_lost.append(engine.cancel.set)
        _tell_window(engine)
        why = await drive(engine, run_deployed, confirm_deployed)
    except (Superseded, RunBusy):
        why = ""  # another process has the campaign: it writes the report
        raise
    finally:
        await asyncio.to_thread(_close, root, identifier, holding)
        if why:
            await asyncio.to_thread(end_of_run, root, identifier, why)
    return why


def _close(root: str, identifier: str, holding: AbstractContextManager[Ownership]) -> None:
    try:
        close_engine(root, identifier, compact=True)
    finally:
        holding.__exit__(None, None, None)


def _tell_window(engine: Engine) -> None:
    settings = engine.config.settings
    end = end_of_window(settings.until, now(), settings.timezone)
    if end is not None:
        print(f"{engine.config.id}: until {end:%Y-%m-%d %H:%M %Z}", flush=True)


def _open_or_create(root: str, flags: dict[str, object], tag: str) -> str:
    """Find the unfinished campaign of exactly this environment and arm (and tag, if given), or create one; return its id."""
    environment = load_environment(str(flags["environment"]), str(flags.get("variant") or ""))
    if not flags.get("slots") and not environment.spec.budget.gpus:
        flags = {**flags, "slots": 1}
    settings, _ = load_settings(flags)
    store = open_store(root, create=True)
    wanted = campaign_id(environment.spec.name, settings.arm, tag)
    for known in campaigns(store):
        config = load_config(store, known)
        same = (config.spec.name, config.settings.arm) == (environment.spec.name, settings.arm)
        if not same or config.comparison or config.forked_from or (tag and known != wanted):
            continue
        view = Lineage(store, known).refresh()
        if any(row.operator == "end" for row in view.events("campaign")[-1:]):
            continue
        if changed := differences(config.settings, settings):
            raise UsageError(
                f"{root}: the unfinished campaign {known} was started with other settings: {changed}; "
                "give these to continue it, or another tag or store to start a new one"
            )
        return known
    try:
        check_data(environment)
    except DataMissing:
        prepare(environment)
    return create_campaign(root, settings, tag or f"{now().astimezone():%Y%m%d-%H%M}", runs_here=False).id


def epoch_of(engine: Engine) -> int:
    return engine.fence.epoch if engine.fence is not None else 0


async def run_deployed(ref: TrialRef) -> Row:
    """Send the trial to the work pool and wait for its row in the store.

    The idempotency key contains the number of the run: a restarted campaign finds the run that it had started,
    and a run whose worker died is sent again. After `DISPATCHES` dead runs the trial ends as
    a fault of the machine.
    """
    engine = await asyncio.to_thread(engine_for, ref.store, ref.campaign)
    parameters = {**ref.model_dump(), "epoch": epoch_of(engine)}
    async for end in _sent(engine, f"{ref.campaign}/{ref.trial}", TRIAL_DEPLOYMENT, parameters):
        row = await asyncio.to_thread(lambda: engine.view().trial(ref.trial))
        if row is not None:
            return row
        engine.emit(Note(_again(ref.trial, end)))
    text = f"{DISPATCHES} flow runs ended without an outcome"
    progress = Progress(ref=ref, started=now(), infra="worker", infra_text=text)
    return await asyncio.to_thread(record, engine, progress)


def _again(trial: str, end: State[Any]) -> str:
    if end.name in HANDED_BACK:
        return f"{trial}: {end.message or end.name}"
    return f"{trial}: its flow run ended as {_said(end)} without a row; sent again"


def _said(end: State[Any]) -> str:
    """The state's name, and why it failed."""
    return f"{end.name} ({end.message})" if end.is_failed() and end.message else str(end.name)


async def _sent(
    engine: Engine, key: str, deployments: dict[str, str], parameters: dict[str, object]
) -> AsyncIterator[State[Any]]:
    """Send the same run until one gives a result, each with its own key; yield the state in which each ended.

    Ends after `DISPATCHES` runs that died. A run that was preempted is sent again at once and is no failure; one that
    found too little time left on its worker is sent again with growing pauses, until a worker with enough takes it.
    """
    sent = died = refused = 0
    while died < DISPATCHES:
        state = await _dispatch(deployments[engine.slot_kind], parameters, f"{key}/{sent}")
        yield state
        sent += 1
        if state.name == NO_TIME:
            refused += 1
            await _pause(engine, state, min(FIRST_PAUSE_S * 2 ** (refused - 1), LONGEST_PAUSE_S))
        elif state.name != PREEMPTED:
            died += 1


async def _pause(engine: Engine, ended: State[Any], seconds: float) -> None:
    """Wait until `seconds` after the end of that run; a restarted campaign does not wait again for old runs."""
    until = ended.timestamp.timestamp() + seconds
    while now().timestamp() < until:
        engine.raise_if_cancelled()
        await asyncio.sleep(min(0.5, max(0.0, until - now().timestamp())))


async def confirm_deployed(ref: TrialRef) -> Row:
    """Send a confirmation to the work pool and wait for its verdict. Raises InfraFault when it ended without a verdict or sealed score."""
    engine = await asyncio.to_thread(engine_for, ref.store, ref.campaign)
    begun = await asyncio.to_thread(open_attempt, engine, ref.trial)
    parameters = {key: value for key, value in ref.model_dump().items() if key != "role"}
    parameters["epoch"] = epoch_of(engine)
    state = ""
    key = f"{ref.campaign}/confirm-{ref.trial}/{begun.number}"
    async for end in _sent(engine, key, CONFIRM_DEPLOYMENT, parameters):
        state = _said(end)
        if end.name in HANDED_BACK:
            engine.emit(Note(_again(f"confirming {ref.trial}", end)))
        row = await asyncio.to_thread(lambda: finished(engine.view(), begun.number))
        if row is not None:
            return row
    raise InfraFault(
        "worker", f"{DISPATCHES} flow runs to confirm {ref.trial} ended as {state} without a verdict"
    )


async def _dispatch(deployment: str, parameters: dict[str, object], key: str) -> State[Any]:
    """Run it and wait for its end. While the server does not answer, try again: the key finds the run already started."""
    wait, give_up = 1.0, time.monotonic() + SERVER_AWAY_S
    while True:
        try:
            run = await arun_deployment(
                deployment,
                parameters=parameters,
                idempotency_key=key,
                timeout=None,
                poll_interval=POLL_SECONDS,
                as_subflow=True,
            )
        except (httpx.TransportError, PrefectHTTPStatusError) as away:
            denied = isinstance(away, PrefectHTTPStatusError) and away.response.status_code < 500
            if denied or time.monotonic() > give_up:
                raise
            await asyncio.sleep(wait)
            wait = min(2 * wait, 30.0)
            continue
        return run.state or State(type=StateType.CRASHED, name="unknown")
