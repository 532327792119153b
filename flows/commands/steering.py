"""Commands for a running campaign: status, pause, veto, steer."""

from __future__ import annotations

import typer

from flows.commands.chosen_run import open_view, run_root, split_trial
from flows.commands.options import AS_JSON, CAMPAIGN, RUN, print_json


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: bakeoff status runs/first --json")(status)
    app.command(epilog="Example: bakeoff pause runs/first  (bakeoff resume runs/first continues it)")(pause)
    app.command(epilog="Example: bakeoff veto runs/first t0042 --why 'uses the label order'")(veto)
    app.command(epilog="Example: bakeoff steer runs/first 'leave the optimizer alone, look at the schedule'")(
        steer
    )


def status(run: str | None = RUN, campaign: str | None = CAMPAIGN, as_json: bool = AS_JSON) -> None:
    """Who runs a campaign, what is under way, what it has spent."""
    from flows.campaign.interventions import status as facts

    root = run_root(run)
    store, config, view = open_view(root, campaign, imported=True)
    found = facts(root, store, config, view)
    if as_json:
        return print_json(found)
    owner = found["owner"]
    state = "not running on this machine" if owner is None else f"running as {owner}"
    print(f"{config.id}: {state}{', paused by a person' if found['paused'] else ''}")
    print(
        f"  trials {found['trials']} of {found['trials_wanted']}, incumbent {found['incumbent']}, leader {found['leader']}"
    )
    print(f"  spent {found['cpu_s'] / 3600:.2f} CPU-hours, {found['tokens']:,} tokens, ${found['usd']:.2f}")
    for trial, facts_of in found["open"].items():
        print(f"  {trial} {facts_of['role']}: {facts_of['stage']}")
    return None


def pause(
    run: str | None = RUN,
    campaign: str | None = CAMPAIGN,
    why: str = typer.Option("", "--why", help="for the record"),
) -> None:
    """Start no further trial until `bakeoff resume`; trials under way end as usual."""
    from flows.campaign.interventions import intervene

    store, config, _ = open_view(run_root(run), campaign)
    intervene(store, config, "pause", why)
    print(f"{config.id}: paused; trials under way end, no new one starts until `bakeoff resume`")


def veto(
    run: str | None = RUN,
    trial: str | None = typer.Argument(None, help="trial: t0042, 42, best or leader"),
    campaign: str | None = CAMPAIGN,
    why: str = typer.Option("", "--why", help="for the record, and for the proposers"),
) -> None:
    """Exclude a trial from leading and from confirmation; recorded as human intervention."""
    from flows.campaign.interventions import veto as record_veto
    from flows.report.show import find_trial

    run, trial = split_trial(run, trial)
    store, config, view = open_view(run_root(run), campaign)
    row = record_veto(store, config, find_trial(view, trial or "leader"), why)
    print(f"{row.trial}: vetoed; it cannot lead {config.id} any more")


def steer(
    run: str = typer.Argument(..., help="run directory, name under runs/, or s3:// URI"),
    note: str = typer.Argument(..., help="what every following prompt carries; empty text ends it"),
    campaign: str | None = CAMPAIGN,
) -> None:
    """Leave a note that the proposers' next prompts carry; recorded as human intervention."""
    from flows.campaign.interventions import intervene

    store, config, _ = open_view(run_root(run), campaign)
    intervene(store, config, "steer", note)
    print(f"{config.id}: the next prompts carry this note")
