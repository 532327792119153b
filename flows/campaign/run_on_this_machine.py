"""`bakeoff run` and `bakeoff resume`: open or create a campaign, run its flow here, tell what came out.

Embedded mode: this process starts a local Prefect server, runs the campaign flow with its trials as
subflows, and stops the server again. `flows.campaign.run_in_work_pools` does the same through work pools.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.catalogue.what_to_tune import lines, tunable
from evaluators.judge import judge_client
from evaluators.judge.accelerators import describe
from evaluators.judge.judge_client import Bench
from evaluators.statistics import racing
from evaluators.statistics.confirmation import plan_for
from flows.campaign.owner import owned
from flows.campaign.stop_signals import stop_on_signals
from flows.engine.budget import end_of_window
from flows.engine.campaign_config import (
    CampaignConfig,
    ComparisonCell,
    Origin,
    campaign_id,
    campaigns,
    load_config,
    new_secret,
    now,
    save_config,
)
from flows.engine.engine import close_engine, engine_for
from flows.engine.imported_record import imported_config
from flows.engine.lessons_file import read_lessons
from flows.engine.live_events import Note
from flows.engine.proposers import build_proposer, close_proposer
from flows.engine.settings import Settings, differences
from flows.environments.loading import Environment, load_environment
from flows.environments.prepared_data import check_data
from flows.environments.script_checks import check_script, check_trust
from flows.environments.source_commit import source_commit
from flows.environments.start_checks import check_start
from flows.machine.device_holds import require
from flows.machine.folders import bakeoff_version, home
from flows.machine.prefect_server import embedded_server, save_template
from flows.machine.sandbox_level import proven
from flows.measure.calibrate import fitted_here, matching
from flows.measure.judge_check import has_items
from lineage.environment_spec import Role
from lineage.errors import UsageError
from lineage.ids import tree_hash
from lineage.log.log_reader import list_campaigns
from lineage.store.blobs import put_blob, put_tree
from lineage.store.objects import Store, check_store, open_store


@dataclass(frozen=True)
class Start:
    """Where a campaign begins when that is not the recipe as it stands: a fork's source, a comparison's seeds."""

    files: Mapping[str, bytes] | None = None
    forked_from: Origin | None = None
    comparison: ComparisonCell | None = None
    secret: str = ""


def create_campaign(
    root: str, settings: Settings, tag: str = "", start: Start = Start(), runs_here: bool = True
) -> CampaignConfig:
    """Check everything that can be wrong, then write the campaign's configuration; nothing before that.

    `runs_here`: its trials run on this machine, which must have the GPUs for it. Raises the UsageError family,
    InfraFault, StoreError, IsolationRefused.
    """
    environment = load_environment(settings.environment, settings.variant)
    if runs_here:
        environment, _ = fitted_here(environment, stored_only=start.comparison is not None)
    devices = require(environment.spec, settings.gpus) if runs_here else ()
    data = check_data(environment)
    isolation = proven(settings.isolation, settings.trust_weak, environment.spec.budget.loopback)
    files = environment.source() if start.files is None else dict(start.files)
    _check_source(environment, files, settings, told=start.files is None)
    items = has_items(
        Bench(environment.spec, data, isolation, home() / "scratch", judge_file=environment.judge_file)
    )
    roles = environment.roster(settings.arm, settings.roles)
    environment_sha256 = judge_client.environment_sha256(environment.spec, data)
    calibration = matching(
        environment,
        source_sha256=tree_hash(files),
        environment_sha256=environment_sha256,
        isolation=isolation.level,
        accelerator=describe(devices[: environment.spec.budget.gpus]),
        told=lambda text: print(text, file=sys.stderr),
    )
    boxed = _checked_proposer(settings, environment, roles, files)
    lessons = read_lessons(settings.lessons)
    identifier = campaign_id(environment.spec.name, settings.arm, tag)
    store = _store_for(root, identifier, settings)
    config = CampaignConfig(
        id=identifier,
        environment=settings.environment,
        folder=str(environment.folder),
        spec=environment.spec,
        roles=roles,
        settings=settings,
        plan=plan_for(environment.spec, settings.trials, items),
        racing=racing.plan_for(environment.spec.evaluation.runs) if settings.racing else None,
        secret=start.secret or new_secret(),
        start_sha256=put_tree(store, files),
        environment_sha256=environment_sha256,
        evaluator_sha256=judge_client.evaluator_sha256(),
        isolation=isolation.level,
        isolation_layers=isolation.layers,
        isolation_not_held=isolation.not_held,
        **boxed,
        machine=judge_client.machine_identity(),
        accelerator=describe(devices),
        calibration_sha256=put_blob(store, calibration.bytes) if calibration else "",
        calibration=calibration.scores if calibration else (),
        lessons_sha256=_store_texts(store, environment, lessons),
        comparison=start.comparison,
        forked_from=start.forked_from,
        repository=source_commit(environment.folder),
        bakeoff_version=bakeoff_version(),
        created_at=now(),
    )
    save_config(store, config)
    return config


def _store_texts(store: Store, environment: Environment, lessons: bytes) -> str:
    """Put what the proposers will read into the store; the hash of the lessons, empty without any."""
    knowledge = environment.knowledge()
    if knowledge and put_tree(store, knowledge) != environment.spec.knowledge_sha256:
        raise UsageError(
            f"{environment.folder / 'knowledge'}: it was changed while the campaign was created; run again"
        )
    return put_blob(store, lessons) if lessons else ""


def _checked_proposer(
    settings: Settings, environment: Environment, roles: Sequence[Role], files: Mapping[str, bytes]
) -> dict[str, Any]:
    """Tells a missing key, price, script, record or program. What was proven of a coding agent's box."""
    if settings.proposer == "catalogue":
        found = tunable(environment.spec, roles, environment.techniques, files)
        if not any(one.numbers or one.techniques for one in found):
            raise UsageError(f"{environment.spec.name}: {'; '.join(lines(found))}")
    proposer = build_proposer(settings, environment)
    close_proposer(proposer)
    box = getattr(proposer, "box", None)
    return {} if box is None else {"agent_box_holds": box.holds, "agent_box_not_held": box.not_held}


def _store_for(root: str, identifier: str, given: Settings) -> Store:
    store = open_store(root, create=True)
    check_store(store)
    _refuse_taken(store, root, identifier, given)
    return store


def _refuse_taken(store: Store, root: str, identifier: str, given: Settings) -> None:
    """Raise UsageError when the store has this campaign, naming each setting that is given differently now."""
    if identifier not in campaigns(store):
        return
    changed = differences(load_config(store, identifier).settings, given)
    raise UsageError(
        f"{root}: campaign {identifier} is already in this store"
        + (f", with other settings: {changed}" if changed else "")
        + f"; continue it{' with its own settings' if changed else ''} with `bakeoff resume {root}`, "
        "or start another in a new directory with --run DIR"
        + (f", or branch from one of its trials with `bakeoff fork {root} TRIAL`" if changed else "")
    )


def _check_source(environment: Environment, files: dict[str, bytes], settings: Settings, told: bool) -> None:
    check_trust(environment.spec, settings.trust)
    for line in environment.left_out() if told else ():
        print(line, file=sys.stderr)
    environment.check_source(files)
    check_start(environment, files)
    if environment.spec.task.kind == "script":
        check_script(environment.spec, files, environment.folder / "source")
        return
    missing = [name for name in ("train.py", "predict.py") if name not in files]
    if missing:
        raise UsageError(
            f"{environment.folder / 'source'}: {missing[0]} is missing; a recipe needs train.py and predict.py "
            "(recipes/README.md has the contract)"
        )


def run_campaign(
    root: str,
    campaign: str,
    sinks: list[Callable[[Any], None]] | None = None,
    take_over: bool = False,
) -> str:
    """Run or continue a campaign in this process until it ends; returns why it ended.

    Ctrl-C (SIGINT), SIGTERM and SIGHUP stop it: candidates are killed at once, open trials stay open for a
    resume. Raises RunBusy when another process has it, InfraFault without the GPUs that a run needs.
    """
    config = load_config(open_store(root), campaign)
    require(config.spec, config.settings.gpus)
    with owned(root, campaign, take_over=take_over) as ownership, embedded_server(root) as url:
        save_template(root)
        engine = engine_for(root, campaign, ownership.fence)
        ownership.when_lost.append(engine.cancel.set)
        engine.sinks.extend(sinks or [])
        end = end_of_window(engine.config.settings.until, now(), engine.config.settings.timezone)
        if end is not None:
            engine.emit(Note(f"until {end:%Y-%m-%d %H:%M %Z}"))
        engine.emit(Note(f"Prefect UI: {url.removesuffix('/api')}"))
        try:
            with stop_on_signals(engine):
                return _beside(lambda: asyncio.run(_run(root, campaign)))
        finally:
            close_engine(root, campaign, compact=True)


def _beside(work: Callable[[], str]) -> str:
    """Run in a thread of its own: in the main one Prefect puts its own SIGTERM handler, which crashes the flow."""
    ended: list[str | BaseException] = []

    def run() -> None:
        try:
            ended.append(work())
        except BaseException as fault:
            ended.append(fault)

    thread = threading.Thread(target=run, name="campaign", daemon=True)
    thread.start()
    thread.join()
    if isinstance(ended[0], BaseException):
        raise ended[0]
    return ended[0]


async def _run(root: str, campaign: str) -> str:
    # prefect is imported here, after the server's URL is set
    from prefect.logging.handlers import APILogHandler

    from flows.campaign.loop import campaign as campaign_flow

    try:
        why: str = await campaign_flow(root, campaign)
        return why
    finally:
        await APILogHandler.aflush()  # before the server goes: at exit there would be nobody to take them


def only_campaign(root: str, campaign: str | None = None, imported: bool = False) -> CampaignConfig:
    """The campaign named, or the one in the store. Raises UsageError when there are none or several.

    `imported`: an imported record will do; without it one is refused, because nothing can be run from it.
    """
    store = open_store(root)
    name = campaign or _the_only_name(root, store)
    record = imported_config(store, name)
    if record is None:
        return load_config(store, name)
    if not imported:
        raise UsageError(f"{root}: {record.id} is an imported record; it can be read, not continued")
    return record


def _the_only_name(root: str, store: Store) -> str:
    """The one campaign of a store or, where there is none, its one imported record."""
    found = campaigns(store) or list_campaigns(store)
    if not found:
        raise UsageError(
            f"{root}: no campaign in this store; start one with: bakeoff run ENVIRONMENT --run {root}"
        )
    if len(found) > 1:
        config = imported_config(store, found[0]) or load_config(store, found[0])
        raise UsageError(
            f"{root}: several campaigns here ({', '.join(found)}); name one with --campaign"
            + (f", or see them together with: bakeoff compare --summary {root}" if config.comparison else "")
        )
    return found[0]


def default_run_dir(environment: str, prefix: str = "", variant: str = "") -> Path:
    """`runs/<prefix><environment>[_<variant>]-<YYYYMMDD-HHMMSS>` under the current directory."""
    name = Path(environment).name + (f"_{variant}" if variant else "")
    return Path("runs") / f"{prefix}{name}-{now().astimezone():%Y%m%d-%H%M%S}"
