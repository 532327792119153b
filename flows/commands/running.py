"""Commands that run something: run, resume, stop."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flows.commands.chosen_run import absolute, open_view, run_root
from flows.commands.options import (
    AS_JSON,
    CAMPAIGN,
    CONFIG,
    ENVIRONMENT,
    NO_SETTINGS,
    PLAIN,
    RUN,
    print_json,
    setting_options,
)

if TYPE_CHECKING:
    from flows.engine.campaign_config import CampaignConfig

EXAMPLE_RUN = """Examples:

  bakeoff run airbench_mini --trials 16

  bakeoff run airbench_mini --run s3://bucket/night --until 07:00 --proposer anthropic --usd 20
"""


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLE_RUN)(run)
    app.command(epilog="Example: bakeoff resume runs/first")(resume)
    app.command(epilog="Example: bakeoff stop runs/first")(stop)


@setting_options()
def run(
    environment: str = ENVIRONMENT,
    run_dir: str = typer.Option(
        None, "--run", help="run directory or s3:// URI; default runs/<environment>-<time>"
    ),
    config: Path | None = CONFIG,
    replay: str | None = typer.Option(
        None, "--replay", help="replay the proposals of a recorded run, offline"
    ),
    plain: bool = PLAIN,
    given: dict[str, Any] = NO_SETTINGS,
) -> None:
    """Start a campaign on an environment and run it to its end."""
    from evaluators.judge.sandbox.strengthening_advice import weaker
    from flows.campaign.run_on_this_machine import create_campaign, default_run_dir
    from flows.engine.proposers import replay_flags
    from flows.engine.settings import load_settings
    from flows.machine.sandbox_level import proven

    if replay:
        record = _record_of(replay)
        given = {**replay_flags(record), **given, "proposer": "replay", "script": record}
    settings, sources = load_settings({**given, "environment": environment}, config)
    root = absolute(run_dir or str(default_run_dir(environment, variant=settings.variant)))
    campaign = create_campaign(root, settings)
    chosen = ", ".join(
        f"{k}={getattr(settings, k)!r}" for k, source in sources.items() if source != "default"
    )
    print(
        f"campaign {campaign.id} in {root}\nsettings: {chosen}; isolation proven: {campaign.isolation}",
        file=sys.stderr,
    )
    if campaign.agent_box_holds:
        print(f"agent's box proven: {', '.join(campaign.agent_box_holds)}", file=sys.stderr)
    elif campaign.agent_box_not_held:
        print("agent: trusted, it runs without a box and can read and change what you can", file=sys.stderr)
    if lost := weaker(proven(settings.isolation, settings.trust_weak, campaign.spec.budget.loopback)):
        print(lost, file=sys.stderr)
    run_with_display(root, campaign, plain)


def resume(
    run: str | None = RUN,
    campaign: str | None = CAMPAIGN,
    take_over: bool = typer.Option(
        False, "--take-over", help="take it over from another machine without waiting for its owner's beacon"
    ),
    plain: bool = PLAIN,
) -> None:
    """Continue a campaign that was paused, stopped or killed: no trial is lost, none is run twice."""
    from flows.campaign.interventions import intervene, paused
    from flows.machine.run_lock import holder_of

    root = run_root(run)
    store, config, view = open_view(root, campaign)
    if paused(view):
        intervene(store, config, "unpause")
        if holder_of(root, config.id) is not None:
            print(f"{config.id}: resumed in the process that runs it")
            return
    run_with_display(root, config, plain, take_over)


def stop(run: str | None = RUN, campaign: str | None = CAMPAIGN, as_json: bool = AS_JSON) -> None:
    """Ask the campaign's process on this machine to stop: it ends its candidates and keeps the record."""
    from flows.campaign.interventions import stop_campaign
    from flows.campaign.run_on_this_machine import only_campaign

    root = run_root(run)
    facts = stop_campaign(root, only_campaign(root, campaign).id)
    print_json(facts) if as_json else print(facts["text"])


def run_with_display(root: str, config: CampaignConfig, plain: bool, take_over: bool = False) -> None:
    """Run or continue a campaign here, shown live on a terminal; KeyboardInterrupt when a person stopped it.

    Report and summary are written however it ends, unless another process owns the campaign.
    """
    from flows.campaign.outputs import end_of_run
    from flows.campaign.run_on_this_machine import run_campaign
    from flows.report.terminal.display import Display
    from lineage.errors import RunBusy, Superseded
    from lineage.log.log_reader import Lineage
    from lineage.safe_text import one_line
    from lineage.store.objects import open_store

    interactive = sys.stdout.isatty() and not plain
    with Display(config.spec, config.settings, title=config.id, live=interactive) as display:
        view = Lineage(open_store(root), config.id, config.spec.score.direction).refresh()
        display.remember(view.rows())
        fault: BaseException | None = None
        try:
            why = run_campaign(root, config.id, [display.on], take_over)
        except (RunBusy, Superseded):
            raise  # another process has the campaign: it writes the report
        except BaseException as raised:
            fault, why = raised, one_line(f"{type(raised).__name__}: {raised}", 400)
    try:
        print(end_of_run(root, config.id, why))
    except Exception as unwritten:  # the fault that ended the campaign matters more
        if fault is None:
            raise
        print(f"report and summary were not written: {unwritten}", file=sys.stderr)
    if fault is not None or why == "stopped by a person":
        print(f"resume: bakeoff resume {root}")
        raise fault or KeyboardInterrupt


def _record_of(replay: str) -> str:
    """The recorded run as something that still means the same from another directory: ROOT or ROOT#CAMPAIGN."""
    run, mark, campaign = replay.partition("#")
    return run_root(run) + mark + campaign
