"""Commands that run something: run, resume, stop."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from flows.commands._shared import (
    AS_JSON,
    CAMPAIGN,
    CONFIG,
    ENVIRONMENT,
    NO_SETTINGS,
    PLAIN,
    RUN,
    absolute,
    open_view,
    print_json,
    run_root,
    run_with_display,
)
from flows.commands.options import setting_options

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
    from evaluators.judge.sandbox.advice import weaker
    from flows.campaign.embedded import create_campaign, default_run_dir
    from flows.engine.proposers import replay_flags
    from flows.engine.settings import load_settings
    from flows.machine.isolation import proven

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
    if lost := weaker(proven(settings.isolation, settings.trust_weak, campaign.spec.budget.loopback)):
        print(lost, file=sys.stderr)
    run_with_display(root, campaign, plain)


def resume(
    run: str | None = RUN,
    campaign: str | None = CAMPAIGN,
    take_over: bool = typer.Option(
        False, "--take-over", help="take it from a machine that is gone, without waiting for a sign of life"
    ),
    plain: bool = PLAIN,
) -> None:
    """Continue a campaign that was paused, stopped or killed: no trial is lost, none is run twice."""
    from flows.campaign.control import intervene, paused
    from flows.machine.run_lock import holder_of

    root = run_root(run)
    store, config, view = open_view(root, campaign)
    if paused(view):
        intervene(store, config, "unpause")
        if holder_of(root, config.id) is not None:
            print(f"{config.id}: goes on in the process that runs it")
            return
    run_with_display(root, config, plain, take_over)


def stop(run: str | None = RUN, campaign: str | None = CAMPAIGN, as_json: bool = AS_JSON) -> None:
    """Ask the campaign's process on this machine to stop; it ends its candidates and keeps the record."""
    from flows.campaign.control import stop_campaign
    from flows.campaign.embedded import only_campaign

    root = run_root(run)
    told = stop_campaign(root, only_campaign(root, campaign).id)
    print_json(told) if as_json else print(told["text"])


def _record_of(replay: str) -> str:
    """The recorded run as something that still means the same from another directory: ROOT or ROOT#CAMPAIGN."""
    run, mark, campaign = replay.partition("#")
    return run_root(run) + mark + campaign
