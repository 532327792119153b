"""Commands that run something: run, resume, stop."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from flows.commands._shared import (
    AS_JSON,
    CAMPAIGN,
    GPUS,
    RUN,
    VARIANT,
    absolute,
    open_view,
    print_json,
    run_root,
    run_with_display,
)

EXAMPLE_RUN = """Examples:

  bakeoff run airbench_mini --trials 16

  bakeoff run airbench_mini --run s3://bucket/night --until 07:00 --proposer anthropic --usd 20
"""


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLE_RUN)(run)
    app.command(epilog="Example: bakeoff resume runs/first")(resume)
    app.command(epilog="Example: bakeoff stop runs/first")(stop)


def run(
    environment: str = typer.Argument(
        ..., help="name of an environment, or a folder with an environment.toml"
    ),
    variant: str | None = VARIANT,
    run_dir: str = typer.Option(
        None, "--run", help="run directory or s3:// URI; default runs/<environment>-<time>"
    ),
    config: Path | None = typer.Option(None, "--config", help="campaign.toml"),
    trials: int | None = typer.Option(None, "--trials", help="trials besides the baseline"),
    hours: float | None = typer.Option(None, "--hours", help="stop after this many hours"),
    until: str | None = typer.Option(None, "--until", help="stop at this clock time, HH:MM"),
    proposer: str | None = typer.Option(
        None, "--proposer", help="catalogue (no key) | anthropic | openai | replay"
    ),
    arm: str | None = typer.Option(
        None, "--arm", help="specialists | generic | single | no_lineage | random"
    ),
    role: list[str] | None = typer.Option(None, "--role", help="only these roles; repeat for several"),
    slots: int | None = typer.Option(
        None, "--slots", help="candidate processes at once; default 2, or as many as the GPUs allow"
    ),
    gpus: str | None = GPUS,
    seed: int | None = typer.Option(None, "--seed", help="seed of the proposers' choices"),
    tokens: int | None = typer.Option(None, "--tokens", help="cap on tokens"),
    usd: float | None = typer.Option(None, "--usd", help="cap on dollars"),
    cpu_hours: float | None = typer.Option(None, "--cpu-hours", help="cap on candidates' CPU hours"),
    no_improvement: int = typer.Option(
        None, "--no-improvement", help="stop after this many trials without a keep"
    ),
    model: str | None = typer.Option(None, "--model", help="model of the LLM specialists"),
    replay: str | None = typer.Option(
        None, "--replay", help="replay the proposals of a recorded run, offline"
    ),
    isolation: str | None = typer.Option(
        None, "--isolation", help="refuse to start below: strong | medium | weak"
    ),
    trust_weak: bool = typer.Option(False, "--i-trust-this-code", help="accept weak isolation for this run"),
    steering: str | None = typer.Option(None, "--steer", help="a note that every proposer gets"),
    confirm: bool | None = typer.Option(
        None, "--confirm/--no-confirm", help="confirm winners with fresh seeds"
    ),
    racing: bool | None = typer.Option(
        None, "--racing/--no-racing", help="end a screen early when its trial can no longer become a keep"
    ),
    plain: bool = typer.Option(False, "--plain", help="one line per event instead of the live display"),
) -> None:
    """Start a campaign on an environment and run it to its end."""
    from evaluators.judge.sandbox.advice import weaker
    from flows.campaign.embedded import create_campaign, default_run_dir
    from flows.engine.proposers import replay_flags
    from flows.engine.settings import load_settings
    from flows.machine.isolation import proven

    record = _record_of(replay) if replay else None
    recorded = replay_flags(record) if record else {}
    flags: dict[str, Any] = {
        "environment": environment,
        "variant": variant,
        "trials": recorded.get("trials") if trials is None else trials,
        "hours": hours,
        "until": until,
        "proposer": "replay" if replay else proposer,
        "script": record,
        "arm": arm or recorded.get("arm"),
        "roles": tuple(role) if role else recorded.get("roles"),
        "slots": slots,
        "gpus": gpus,
        "seed": seed,
        "tokens": tokens,
        "usd": usd,
        "cpu_hours": cpu_hours,
        "no_improvement": no_improvement,
        "model": model,
        "isolation": isolation,
        "trust_weak": trust_weak or None,
        "steering": steering,
        "confirm": confirm,
        "racing": racing,
    }
    settings, sources = load_settings(flags, config)
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
    plain: bool = typer.Option(False, "--plain", help="one line per event instead of the live display"),
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
