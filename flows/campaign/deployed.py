"""The campaign as a deployment: trials are deployments too, run by workers on this or other machines.

`prefect deploy --all` registers what `prefect.yaml` lists; `prefect deployment run
'campaign/airbench-mini' --param store=...` starts one. The campaign flow holds no work: it hands each
trial to the `trials` work pool and reads the outcome from the store, so that a dead worker, server
or campaign loses nothing. Two work pools, because campaigns waiting in a bounded pool would hold the
places that their own trials wait for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import Annotated, Any, Literal

import httpx
from prefect import flow
from prefect.client.schemas.objects import State, StateType
from prefect.deployments.flow_runs import arun_deployment
from prefect.exceptions import PrefectHTTPStatusError
from pydantic import Field

from flows.campaign.attempts import finished, open_attempt
from flows.campaign.embedded import create_campaign
from flows.campaign.loop import drive
from flows.campaign.outputs import end_of_run
from flows.campaign.owner import Ownership, owned
from flows.engine.budget import end_of_window
from flows.engine.config import CampaignConfig, campaign_id, campaigns, load_config, now
from flows.engine.engine import Engine, close_engine, engine_for, server_name
from flows.engine.records import TrialRef
from flows.engine.settings import Settings, load_settings
from flows.environments.data import check_data, prepare
from flows.environments.loading import load_environment
from flows.machine.home import home
from flows.trial.allocation import NO_TIME, PREEMPTED
from flows.trial.recording import Progress, record
from lineage.errors import DataMissing, InfraFault, RunBusy, Superseded
from lineage.log.table import Lineage
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
SERVER_AWAY_S = 1800.0  # how long a campaign waits for a Prefect server that went away


@flow(name="campaign", flow_run_name="campaign {environment}", persist_result=False)
async def campaign(
    environment: str,
    variant: str = "",
    store: str = "",
    trials: Annotated[int, Field(ge=1, description="trials besides the baseline")] = 24,
    hours: Annotated[float | None, Field(gt=0, description="stop after this many hours")] = None,
    until: Annotated[
        str | None, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$", description="stop at HH:MM")
    ] = None,
    proposer: Literal["catalogue", "anthropic", "openai", "replay"] = "catalogue",
    arm: Literal["specialists", "generic", "single", "no_lineage", "random"] = "specialists",
    roles: list[str] | None = None,
    tokens: Annotated[int | None, Field(ge=1)] = None,
    usd: Annotated[float | None, Field(gt=0)] = None,
    in_flight: Annotated[int | None, Field(ge=1, description="trials under way at once")] = None,
    slots: Annotated[
        int | None,
        Field(ge=1, le=64, description="candidate processes at once per machine; default 1, or all its GPUs"),
    ] = None,
    isolation: Literal["strong", "medium", "weak"] = "medium",
    seed: int = 0,
    confirm: bool = True,
    tag: str = "",
    webhook: str = "",
    timezone: str = "",
    take_over: bool = False,
) -> str:
    """Run a campaign through the work pools; continue the unfinished one of this environment and arm if there is one.

    Args:
        environment: name of an environment on every worker's machine.
        variant: a variant of it, as `bakeoff environments` lists them.
        store: folder or s3://bucket/prefix that every worker reaches; default a folder under BAKEOFF_HOME.
        tag: tells campaigns of one environment and arm apart; default today's date.
        webhook: URL that gets {"text": ...} by POST at the end, on a stall, a pause and a new confirmed best.
        timezone: of `until`, such as Europe/Berlin; default that of the campaign's machine.
        take_over: continue a campaign of another machine without waiting for a sign of life.
    """
    flags: dict[str, object] = {
        "environment": environment,
        "variant": variant or None,
        "trials": trials,
        "hours": hours,
        "until": until,
        "proposer": proposer,
        "arm": arm,
        "roles": tuple(roles) if roles else None,
        "tokens": tokens,
        "usd": usd,
        "in_flight": in_flight,
        "slots": slots,
        "isolation": isolation,
        "seed": seed,
        "confirm": confirm,
        "webhook": webhook or None,
        "zone": timezone or None,
    }
    root = store or str(home() / "runs" / environment)
    identifier = await asyncio.to_thread(_open_or_create, root, flags, tag)
    holding = owned(root, identifier, take_over=take_over, server=server_name())
    ownership = await asyncio.to_thread(holding.__enter__)  # it may wait for a sign of life
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
    end = end_of_window(settings.until, now(), settings.zone)
    if end is not None:
        print(f"{engine.config.id}: until {end:%Y-%m-%d %H:%M %Z}", flush=True)


def _differences(config: CampaignConfig, asked: Settings) -> str:
    """What a continued campaign was started with, where that is not what is asked now."""
    old, new = config.settings.model_dump(), asked.model_dump()
    return ", ".join(
        f"{key} = {old[key]!r}, not {new[key]!r}"
        for key in new
        if key != "environment" and old[key] != new[key]
    )


def _open_or_create(root: str, flags: dict[str, object], tag: str) -> str:
    """The unfinished campaign of exactly this environment and arm (and tag, where one is given), else a new one."""
    environment = load_environment(str(flags["environment"]), str(flags.get("variant") or ""))
    if flags.get("slots") is None and not environment.spec.budget.gpus:
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
        if told := _differences(config, settings):
            print(f"{known}: continued as it was started: {told}; give another tag to start anew", flush=True)
        return known
    try:
        check_data(environment)
    except DataMissing:
        prepare(environment)
    return create_campaign(root, settings, tag or f"{now().astimezone():%Y%m%d-%H%M}", runs_here=False).id


def epoch_of(engine: Engine) -> int:
    return engine.fence.epoch if engine.fence is not None else 0


async def run_deployed(ref: TrialRef) -> Row:
    """Hand the trial to the work pool and wait for its row in the store.

    The idempotency key holds the number of the run: a campaign that is restarted finds the run it had started,
    and a run whose worker died is dispatched again. After `DISPATCHES` dead runs the trial ends as
    a fault of the machine.
    """
    engine = await asyncio.to_thread(engine_for, ref.store, ref.campaign)
    parameters = {**ref.model_dump(), "epoch": epoch_of(engine)}
    async for end in _sent(engine, f"{ref.campaign}/{ref.trial}", TRIAL_DEPLOYMENT, parameters):
        row = await asyncio.to_thread(lambda: engine.view().trial(ref.trial))
        if row is not None:
            return row
        engine.emit({"kind": "note", "text": _again(ref.trial, end)})
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
    """Send the same run again and again, each with its own key; the state in which each ended.

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
    """Wait so long after the end of that run; a campaign that was restarted finds old runs and does not wait again."""
    until = ended.timestamp.timestamp() + seconds
    while now().timestamp() < until:
        engine.raise_if_cancelled()
        await asyncio.sleep(min(0.5, max(0.0, until - now().timestamp())))


async def confirm_deployed(ref: TrialRef) -> Row:
    """Hand a confirmation to the work pool. Raises InfraFault when it ended without a verdict or sealed score."""
    engine = await asyncio.to_thread(engine_for, ref.store, ref.campaign)
    begun = await asyncio.to_thread(open_attempt, engine, ref.trial)
    parameters = {key: value for key, value in ref.model_dump().items() if key != "role"}
    parameters["epoch"] = epoch_of(engine)
    state = ""
    key = f"{ref.campaign}/confirm-{ref.trial}/{begun.number}"
    async for end in _sent(engine, key, CONFIRM_DEPLOYMENT, parameters):
        state = _said(end)
        if end.name in HANDED_BACK:
            engine.emit({"kind": "note", "text": _again(f"confirming {ref.trial}", end)})
        row = await asyncio.to_thread(lambda: finished(engine.view(), begun.number))
        if row is not None:
            return row
    raise InfraFault(
        "worker", f"{DISPATCHES} flow runs to confirm {ref.trial} ended as {state} without a verdict"
    )


async def _dispatch(deployment: str, parameters: dict[str, object], key: str) -> State[Any]:
    """Run it and wait for its end. While the server is away, ask again: the key finds the run that was started."""
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
