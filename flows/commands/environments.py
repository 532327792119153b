"""Commands about environments: list them, prepare their data, create one."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from flows.commands.options import AS_JSON, VARIANT, print_json


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: bakeoff environments --json")(environments)
    app.command(
        epilog="Examples: bakeoff prepare airbench_mini · bakeoff prepare parameter_golf --variant 1xh100 -- --data DIR",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(prepare)
    app.command("new-environment", epilog="Example: bakeoff new-environment my_idea --at ~/lab/recipes")(
        new_environment
    )


def environments(as_json: bool = AS_JSON) -> None:
    """List the environments and variants found, their score, gates, hardware and whether their data is prepared."""
    from flows.environments.loading import list_environments, read_environment
    from flows.environments.variants import variants
    from flows.report.show import environments_table

    found = [
        read_environment(folder, variant)
        for folder in list_environments().values()
        for variant in ("", *variants(folder))
    ]
    here = _gpus_here() if any(e.spec.budget.gpus for e in found) else 0
    rows = [
        {
            "name": e.spec.name,
            "called": e.called,
            "variant": e.variant,
            "gpus": e.spec.budget.gpus,
            "gpus_here": here,
            "title": e.spec.title,
            "metric": e.spec.score.metric,
            "unit": e.spec.score.unit,
            "direction": e.spec.score.direction,
            "gates": [gate.model_dump(exclude_none=True) for gate in e.spec.gates],
            "roles": [role.name for role in e.roster("specialists")],
            "hardware": e.spec.hardware,
            "data": str(e.data),
            "prepared": (e.data / "manifest.json").is_file(),
            "folder": str(e.folder),
        }
        for e in found
    ]
    if as_json:
        print_json(rows)
        return
    from rich.console import Console

    Console().print(environments_table(rows))


def _gpus_here() -> int:
    """GPUs that campaigns may use on this machine; none when the driver is missing or fails."""
    from evaluators.judge.accelerators import DriverFault, usable

    try:
        return len(usable())
    except DriverFault:
        return 0


def prepare(
    context: typer.Context,
    environment: str = typer.Argument(
        ..., help="name of an environment, or a folder with an environment.toml"
    ),
    variant: str | None = VARIANT,
    force: bool = typer.Option(False, "--force", help="prepare again although the data is there and whole"),
) -> None:
    """Prepare an environment's data on this machine; arguments after -- go to its prepare.py."""
    from flows.environments.loading import load_environment
    from flows.environments.prepared_data import check_data
    from flows.environments.prepared_data import prepare as run_prepare
    from lineage.errors import DataMissing

    chosen = load_environment(environment, variant or "")
    if not force and not context.args:
        try:
            print(f"{chosen.spec.name}: data is prepared in {check_data(chosen)}")
            return
        except DataMissing:
            print(f"{chosen.spec.name}: preparing data", file=sys.stderr)
    print(f"{chosen.spec.name}: data is prepared in {run_prepare(chosen, context.args)}")


def new_environment(
    name: str = typer.Argument(..., help="lower-case letters, digits, underscores"),
    at: Path | None = typer.Option(
        None, "--at", help="folder that gets it; default the first in BAKEOFF_RECIPES, else ./recipes"
    ),
) -> None:
    """Create an environment: a copy of the template under a new name, ready to run."""
    from flows.environments.scaffold import new_environment as copy_template
    from flows.environments.scaffold import next_commands

    made = copy_template(name, at)
    print(f"{name}: written to {made.folder}; it runs as it is:")
    for command in next_commands(made.folder):
        print(f"  {command}")
