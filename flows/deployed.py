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
from contextlib import AbstractContextManager
from typing import Annotated, Literal

import httpx
from prefect import flow
from prefect.deployments.flow_runs import arun_deployment
from prefect.exceptions import PrefectHTTPStatusError
from pydantic import Field

from flows.attempts import finished, open_attempt
from flows.budget import end_of_window
from flows.campaign import drive
from flows.config import CampaignConfig, campaign_id, campaigns, load_config, now
from flows.data import check_data, prepare
from flows.engine import Engine, close_engine, engine_for, server_name
from flows.environments import load_environment
from flows.finish import end_of_run
from flows.home import home
from flows.owner import Ownership, owned
from flows.recording import Progress, record
from flows.run import create_campaign
from flows.settings import Settings, load_settings
from flows.words import TrialRef
from lineage.errors import DataMissing, InfraFault, RunBusy, Superseded
from lineage.records import Row
from lineage.store import open_store
from lineage.table import Lineage

TRIAL_DEPLOYMENT = {"cpu": "trial/cpu", "gpu": "trial/gpu"}
CONFIRM_DEPLOYMENT = {"cpu": "confirm/confirm-cpu", "gpu": "confirm/confirm-gpu"}
DISPATCHES = 3
POLL_SECONDS = 1.0
SERVER_AWAY_S = 1800.0  # how long a campaign waits for a Prefect server that went away


@flow(name="campaign", flow_run_name="campaign {environment}", persist_result=False)
async def campaign(
    environment: str,
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
    slots: Annotated[int, Field(ge=1, le=64, description="candidate processes at once per machine")] = 1,
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
        store: folder or s3://bucket/prefix that every worker reaches; default a folder under BAKEOFF_HOME.
        tag: tells campaigns of one environment and arm apart; default today's date.
        webhook: URL that gets {"text": ...} by POST at the end, on a stall, a pause and a new confirmed best.
        timezone: of `until`, such as Europe/Berlin; default that of the campaign's machine.
        take_over: continue a campaign of another machine without waiting for a sign of life.
    """
    flags = {
        "environment": environment,
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
    settings, _ = load_settings(flags)
    environment = load_environment(settings.environment)
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
    return create_campaign(root, settings, tag or f"{now().astimezone():%Y%m%d-%H%M}").id


def epoch_of(engine: Engine) -> int:
    return engine.fence.epoch if engine.fence is not None else 0


async def run_deployed(ref: TrialRef) -> Row:
    """Hand the trial to the work pool and wait for its row in the store.

    The idempotency key holds the attempt: a campaign that is restarted finds the run it had started,
    and a run whose worker died is dispatched again. After `DISPATCHES` dead runs the trial ends as
    a fault of the machine.
    """
    engine = await asyncio.to_thread(engine_for, ref.store, ref.campaign)
    for attempt in range(DISPATCHES):
        key = f"{ref.campaign}/{ref.trial}/{attempt}"
        state = await _dispatch(
            TRIAL_DEPLOYMENT[engine.slot_kind], {**ref.model_dump(), "epoch": epoch_of(engine)}, key
        )
        row = await asyncio.to_thread(lambda: engine.view().trial(ref.trial))
        if row is not None:
            return row
        engine.emit(
            {"kind": "note", "text": f"{ref.trial}: its flow run ended as {state} without a row; sent again"}
        )
    text = f"{DISPATCHES} flow runs ended without an outcome"
    progress = Progress(ref=ref, started=now(), infra="worker", infra_text=text)
    return await asyncio.to_thread(record, engine, progress)


async def confirm_deployed(ref: TrialRef) -> Row:
    """Hand a confirmation to the work pool. Raises InfraFault when it ended without a verdict or sealed score."""
    engine = await asyncio.to_thread(engine_for, ref.store, ref.campaign)
    begun = await asyncio.to_thread(open_attempt, engine, ref.trial)
    parameters = {key: value for key, value in ref.model_dump().items() if key != "role"}
    parameters["epoch"] = epoch_of(engine)
    state = ""
    for attempt in range(DISPATCHES):
        key = f"{ref.campaign}/confirm-{ref.trial}/{begun.number}/{attempt}"
        state = await _dispatch(CONFIRM_DEPLOYMENT[engine.slot_kind], parameters, key)
        row = await asyncio.to_thread(lambda: finished(engine.view(), begun.number))
        if row is not None:
            return row
    raise InfraFault(
        "worker", f"{DISPATCHES} flow runs to confirm {ref.trial} ended as {state} without a verdict"
    )


async def _dispatch(deployment: str, parameters: dict[str, object], key: str) -> str:
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
        return (run.state.name if run.state else None) or "unknown"
