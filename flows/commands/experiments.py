"""Commands that branch research: compare arms, fork a campaign from a trial."""

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
    split_trial,
)

EXAMPLE_COMPARE = """Examples:

  bakeoff compare airbench_mini --arms specialists,no_lineage,random --trials 16 --repeats 6 --run runs/arms

  bakeoff compare --summary runs/arms
"""
ISOLATION = typer.Option(None, "--isolation", help="refuse to start below: strong | medium | weak")
TRUST_WEAK = typer.Option(False, "--i-trust-this-code", help="accept weak isolation for this run")
PLAIN = typer.Option(False, "--plain", help="one line per event instead of the live display")


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLE_COMPARE)(compare)
    app.command(epilog="Example: bakeoff fork runs/first t0042 --role opt --role aug --trials 20")(fork)


def compare(
    environment: str | None = typer.Argument(
        None, help="name of an environment, or a folder with an environment.toml"
    ),
    variant: str | None = VARIANT,
    arms: str = typer.Option(
        "specialists,generic,single,no_lineage,random",
        "--arms",
        help="arms to compare, the one to hold the others against first",
    ),
    trials: int | None = typer.Option(None, "--trials", help="trials of each campaign besides the baseline"),
    repeats: int = typer.Option(3, "--repeats", help="campaigns of each arm"),
    run_dir: str | None = typer.Option(
        None, "--run", help="directory or s3:// URI; default runs/compare-<environment>-<time>"
    ),
    summary: str | None = typer.Option(
        None, "--summary", metavar="DIR", help="only print the table of a comparison that was run"
    ),
    config: Path | None = typer.Option(None, "--config", help="campaign.toml for everything not named here"),
    proposer: str | None = typer.Option(None, "--proposer", help="catalogue (no key) | anthropic | openai"),
    model: str | None = typer.Option(None, "--model", help="model of the LLM specialists"),
    usd: float | None = typer.Option(None, "--usd", help="cap on dollars of each campaign"),
    slots: int = typer.Option(
        1, "--slots", min=1, help="candidate processes at once; at 1 no arm disturbs its own clock"
    ),
    gpus: str | None = GPUS,
    seed: int | None = typer.Option(None, "--seed", help="seed of the proposers; repeat k adds k"),
    confirm: bool | None = typer.Option(
        None, "--confirm/--no-confirm", help="confirm winners with fresh seeds"
    ),
    racing: bool | None = typer.Option(
        None, "--racing/--no-racing", help="end a screen early when its trial can no longer become a keep"
    ),
    isolation: str | None = ISOLATION,
    trust_weak: bool = TRUST_WEAK,
    plain: bool = PLAIN,
    as_json: bool = AS_JSON,
) -> None:
    """Run the arms of an experiment at equal budget, interleaved, and hold them against each other.

    The same command with the same --run goes on where it was stopped, and runs nothing twice.
    """
    from flows.campaign.embedded import default_run_dir
    from flows.engine.settings import load_settings
    from flows.experiments.compare import plan_cells, read_comparison, run_cells
    from lineage.errors import UsageError

    if summary is not None:
        return _show(read_comparison(run_root(summary)), as_json)
    if environment is None:
        raise UsageError(
            "compare needs an environment to run, or --summary DIR to print a comparison that was run"
        )
    flags: dict[str, Any] = {
        "environment": environment,
        "variant": variant,
        "trials": trials,
        "proposer": proposer,
        "model": model,
        "usd": usd,
        "slots": slots,
        "gpus": gpus,
        "seed": seed,
        "confirm": confirm,
        "racing": racing,
        "isolation": isolation,
        "trust_weak": trust_weak or None,
    }
    settings, _ = load_settings(flags, config)
    root = absolute(run_dir or str(default_run_dir(environment, "compare-", settings.variant)))
    cells = plan_cells(root, settings, [name.strip() for name in arms.split(",") if name.strip()], repeats)
    run_cells(
        root, cells, plain or not sys.stderr.isatty(), lambda text: print(text, file=sys.stderr, flush=True)
    )
    return _show(read_comparison(root), as_json)


def _show(told: Any, as_json: bool) -> None:
    from rich.console import Console

    from flows.experiments.arms_table import comparison_json, comparison_view

    if as_json:
        return print_json(comparison_json(told))
    return Console().print(comparison_view(told))


def fork(
    run: str | None = RUN,
    trial: str | None = typer.Argument(None, help="trial to start from: t0042, 42, best or leader"),
    campaign: str | None = CAMPAIGN,
    run_dir: str | None = typer.Option(
        None, "--run", help="directory of the new campaign; default runs/<environment>-<time>"
    ),
    role: list[str] | None = typer.Option(None, "--role", help="only these roles; repeat for several"),
    trials: int | None = typer.Option(None, "--trials", help="trials besides the start; default as before"),
    until: str | None = typer.Option(None, "--until", help="stop at this clock time, HH:MM"),
    proposer: str | None = typer.Option(None, "--proposer", help="catalogue (no key) | anthropic | openai"),
    arm: str | None = typer.Option(
        None, "--arm", help="specialists | generic | single | no_lineage | random"
    ),
    model: str | None = typer.Option(None, "--model", help="model of the LLM specialists"),
    usd: float | None = typer.Option(None, "--usd", help="cap on dollars"),
    slots: int | None = typer.Option(None, "--slots", help="candidate processes at once on this machine"),
    gpus: str | None = GPUS,
    seed: int | None = typer.Option(None, "--seed", help="seed of the proposers' choices"),
    steering: str | None = typer.Option(None, "--steer", help="a note that every proposer gets"),
    isolation: str | None = ISOLATION,
    trust_weak: bool = TRUST_WEAK,
    plain: bool = PLAIN,
) -> None:
    """Start a new campaign from a trial's program, with the old campaign's settings unless given here."""
    from flows.campaign.embedded import default_run_dir
    from flows.experiments.fork import fork_campaign
    from flows.report.show import find_trial
    from lineage.errors import UsageError

    run, trial = split_trial(run, trial)
    if trial is None:
        raise UsageError("fork: name the trial to start from, for example: bakeoff fork runs/first best")
    given: dict[str, Any] = {
        "trials": trials,
        "until": until,
        "proposer": proposer,
        "arm": arm,
        "roles": tuple(role) if role else None,
        "model": model,
        "usd": usd,
        "slots": slots,
        "gpus": gpus,
        "seed": seed,
        "steering": steering,
        "isolation": isolation,
        "trust_weak": trust_weak or None,
    }
    source = run_root(run)
    _, old, view = open_view(source, campaign)
    row = find_trial(view, trial)
    root = absolute(run_dir or str(default_run_dir(old.spec.name)))
    new = fork_campaign(source, old, row, root, given)
    settings = new.settings
    print(
        f"campaign {new.id} in {root}\nstarts from {new.forked_from}\n"
        f"{', '.join(r.name for r in new.roles)}: {settings.trials} trials, proposer {settings.proposer}; "
        f"isolation proven: {new.isolation}",
        file=sys.stderr,
    )
    run_with_display(root, new, plain)
