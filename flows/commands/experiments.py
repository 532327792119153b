"""Commands that branch research: compare arms, fork a campaign from a trial, learn from finished campaigns."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from flows.commands.chosen_run import absolute, open_view, run_root, split_trial
from flows.commands.options import (
    AS_JSON,
    CAMPAIGN,
    CONFIG,
    NO_SETTINGS,
    PLAIN,
    RUN,
    print_json,
    setting_options,
)
from flows.commands.running import run_with_display

EXAMPLE_COMPARE = """Examples:

  bakeoff compare airbench_mini --arms specialists,no_lineage,random --trials 16 --repeats 6 --run runs/arms

  bakeoff compare --summary runs/arms
"""


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLE_COMPARE)(compare)
    app.command(epilog="Example: bakeoff fork runs/first t0042 --role opt --role aug --trials 20")(fork)
    app.command(epilog="Example: bakeoff learn runs/first --out lessons.md")(learn)


@setting_options("arm", "script", slots=1)
def compare(
    environment: str | None = typer.Argument(
        None, help="name of an environment, or a folder with an environment.toml"
    ),
    arms: str = typer.Option(
        "specialists,generic,single,no_lineage,random",
        "--arms",
        help="arms to compare, the one to compare the others with first",
    ),
    repeats: int = typer.Option(3, "--repeats", help="campaigns of each arm"),
    run_dir: str | None = typer.Option(
        None, "--run", help="directory or s3:// URI; default runs/compare-<environment>-<time>"
    ),
    summary: str | None = typer.Option(
        None, "--summary", metavar="DIR", help="only print the table of a comparison that was run"
    ),
    config: Path | None = CONFIG,
    plain: bool = PLAIN,
    as_json: bool = AS_JSON,
    given: dict[str, Any] = NO_SETTINGS,
) -> None:
    """Run the arms of an experiment at equal budget, interleaved, and compare them.

    The same command with the same --run continues where it was stopped, and runs nothing twice.
    Limits count for each campaign. With more than one slot an arm can disturb its own clock.
    """
    from flows.campaign.run_on_this_machine import default_run_dir
    from flows.engine.settings import load_settings
    from flows.experiments.compare import plan_cells, read_comparison, run_cells
    from lineage.errors import UsageError

    if summary is not None:
        return _show(read_comparison(run_root(summary)), as_json)
    if environment is None:
        raise UsageError(
            "compare needs an environment to run, or --summary DIR to print a comparison that was run"
        )
    settings, _ = load_settings({**given, "environment": environment}, config)
    root = absolute(run_dir or str(default_run_dir(environment, "compare-", settings.variant)))
    cells = plan_cells(root, settings, [name.strip() for name in arms.split(",") if name.strip()], repeats)
    run_cells(
        root, cells, plain or not sys.stderr.isatty(), lambda text: print(text, file=sys.stderr, flush=True)
    )
    return _show(read_comparison(root), as_json)


def _show(comparison: Any, as_json: bool) -> None:
    from rich.console import Console

    from flows.experiments.arms_table import comparison_json, comparison_view

    if as_json:
        return print_json(comparison_json(comparison))
    return Console().print(comparison_view(comparison))


@setting_options("variant", "script")
def fork(
    run: str | None = RUN,
    trial: str | None = typer.Argument(None, help="trial to start from: t0042, 42, best or leader"),
    campaign: str | None = CAMPAIGN,
    run_dir: str | None = typer.Option(
        None, "--run", help="directory of the new campaign; default runs/<environment>-<time>"
    ),
    plain: bool = PLAIN,
    given: dict[str, Any] = NO_SETTINGS,
) -> None:
    """Start a new campaign from a trial's program, with the old campaign's settings unless given here."""
    from flows.campaign.run_on_this_machine import default_run_dir
    from flows.experiments.fork import fork_campaign
    from flows.report.show import find_trial
    from lineage.errors import UsageError

    run, trial = split_trial(run, trial)
    if trial is None:
        raise UsageError("fork: name the trial to start from, for example: bakeoff fork runs/first best")
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


def learn(
    runs: list[str] = typer.Argument(
        ..., help="finished runs of one environment; RUN#CAMPAIGN for one of several"
    ),
    out: Path | None = typer.Option(None, "--out", help="the file to write; default: standard output"),
) -> None:
    """Distil finished campaigns into lessons that a new one takes with `bakeoff run --lessons FILE`.

    What was tried, kept and failed, with numbers, and how the same change did on different programs. Made from the record, without a model.
    """
    from flows.experiments.learn import records_of
    from flows.report.lessons import lessons

    text = lessons(records_of([(run_root(run.partition("#")[0]), run.partition("#")[2]) for run in runs]))
    if out is None:
        sys.stdout.write(text)
        return
    out.write_text(text, "utf-8")
    print(f"{out}: {len(text.encode()):,} bytes; use it with: bakeoff run ENVIRONMENT --lessons {out}")
