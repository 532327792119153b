"""The command that turns a git repository into an environment: adopt."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from flows.environments.adoption import Plan, Wishes
    from flows.environments.git_repository import Repository
    from flows.measure.calibrate import Calibration

EXAMPLE = """Examples:

  bakeoff adopt ~/nanogpt --train 'python train.py --seed={seed} --out={out}' --metric 'val loss ([0-9.]+)' --direction min

  bakeoff adopt . --train 'python fit.py -o {out} -s {seed}' --metric metrics.json:val.acc --direction max --edit 'src/*.py' --dry-run
"""
TUNED = 24  # constants that are listed


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLE)(adopt)


def adopt(
    folder: Path = typer.Argument(..., help="folder of a git repository"),
    train: str = typer.Option("", "--train", help="the command that trains, with {seed}, {out} and {data}"),
    evaluate: str = typer.Option(
        "", "--evaluate", help="protected command that prints the metric: {out}, {eval_data}"
    ),
    smoke: str = typer.Option("", "--smoke", help="a short form of --train, for the first check of an edit"),
    metric: str = typer.Option(
        "", "--metric", help="PATTERN with one group, or FILE:KEY of a JSON or CSV in {out}"
    ),
    direction: str = typer.Option("", "--direction", help="min or max"),
    edit: list[str] = typer.Option([], "--edit", help="files that may be edited (pattern; repeatable)"),
    protect: list[str] = typer.Option(
        [], "--protect", help="files that candidates cannot change (pattern; repeatable)"
    ),
    eval_data: list[str] = typer.Option(
        [], "--eval-data", help="files that only --evaluate sees (pattern; repeatable)"
    ),
    name: str = typer.Option("", "--name", help="name of the environment; default the folder's"),
    by_folder: bool = typer.Option(
        False, "--roles-by-folder", help="one specialist per folder instead of one for all"
    ),
    python: str = typer.Option(
        "",
        "--python",
        help="interpreter of the project; default its .venv, else Bakeoff's own (`bakeoff` for that in any case)",
    ),
    runs: int = typer.Option(3, "--runs", min=2, help="runs of the start"),
    cap: float = typer.Option(
        3600.0, "--cap", min=1, help="most seconds of the first runs; later caps follow from them"
    ),
    at: Path | None = typer.Option(
        None, "--at", help="folder that gets it; default the first in BAKEOFF_RECIPES, else ./recipes"
    ),
    yes: bool = typer.Option(False, "--yes", "-y", help="ask nothing"),
    force: bool = typer.Option(False, "--force", help="replace an environment that adopt has written"),
    dry_run: bool = typer.Option(
        False, "--dry-run", help="show what would be written; write and run nothing"
    ),
) -> None:
    """Turn a git repository into an environment, without changing it: copy, measure the start, say what to type next."""
    from flows.environments import adoption
    from flows.environments.git_repository import read_repository
    from flows.environments.loading import own_folders

    repository = read_repository(folder, ("data/**", *eval_data))
    wishes = adoption.Wishes(
        train=train,
        evaluate=evaluate,
        smoke=smoke,
        metric=metric,
        direction=direction or adoption.guessed_direction(metric),
        edit=tuple(edit),
        protect=tuple(protect),
        eval_data=tuple(eval_data),
        name=name,
        by_folder=by_folder,
        python=adoption.own_python(repository, python),
        cap_s=cap,
    )
    wishes = _complete(repository, wishes, asks=sys.stdin.isatty() and sys.stdout.isatty() and not yes)
    made = adoption.plan(repository, wishes)
    spec = adoption.check(made)
    print("\n".join(adoption.shown(made)))
    print(f"  trust      {spec.trust}: {_means(spec.trust)}")
    _show_tunable(made)
    if dry_run:
        print(f"\nenvironment.toml would be:\n\n{adoption.rendered(made)}")
        return
    if sys.stdin.isatty() and sys.stdout.isatty() and not yes:
        typer.confirm("Write it and run the start?", default=True, abort=True)
    place = (own_folders()[0] if at is None else at).expanduser().absolute()
    target = adoption.write(made, place, replace_own=force)
    print(f"written to {target}")
    _measure(made, target, runs)


def _complete(repository: Repository, wishes: Wishes, *, asks: bool) -> Wishes:
    """Ask for what is missing, in a terminal; elsewhere one sentence names it. Raises UsageError."""
    from flows.environments import adoption
    from lineage.errors import UsageError

    if asks and not wishes.train:
        guess = adoption.guessed_train(repository)
        wishes = replace(
            wishes, train=typer.prompt("Command that trains ({seed}, {out}, {data})", default=guess or None)
        )
        wishes = replace(
            wishes,
            evaluate=typer.prompt("Protected command that prints the metric", default="", show_default=False),
        )
    if asks and not wishes.metric:
        text = "Metric: a pattern with one group such as 'val loss ([0-9.]+)', or FILE:KEY"
        wishes = replace(wishes, metric=typer.prompt(text))
    if asks and not wishes.direction:
        likely = adoption.guessed_direction(wishes.metric) or None
        wishes = replace(
            wishes, direction=typer.prompt("Is less better (min) or more (max)?", default=likely)
        )
    missing = adoption.missing_flags(wishes)
    if missing:
        guess = adoption.guessed_train(repository)
        hint = f", for example --train {guess!r}" if "--train" in missing and guess else ""
        raise UsageError(
            f"adopt {repository.folder}: {', '.join(missing)} must be given outside a terminal{hint}"
        )
    if wishes.direction not in ("min", "max"):
        raise UsageError(f"--direction {wishes.direction!r}: it is min or max")
    return wishes


def _means(trust: str) -> str:
    from lineage.script_task import TRUST_MEANS

    return TRUST_MEANS[trust]  # type: ignore[index]


def _show_tunable(made: Plan) -> None:
    """What the embedded proposer could move in the editable files."""
    from agents.catalogue.recipe_constants import numbers

    found = numbers({path: made.repository.files[path] for path in made.editable}, every=True)
    if not found:
        print(
            "  to tune    nothing that the embedded proposer can move: no number by name in the editable files"
        )
        return
    listed = [f"{key} = {number.value:g}" for key, number in found.items()]
    print(
        f"  to tune    {', '.join(listed[:TUNED])}"
        + (f" and {len(listed) - TUNED} more" if len(listed) > TUNED else "")
    )


def _measure(made: Plan, target: Path, runs: int) -> None:
    """Run the start, set the caps from what it needed, and keep its scatter as a calibration."""
    import shlex

    from evaluators.judge import judge_client
    from flows.commands.measuring import tell
    from flows.environments import adoption
    from flows.environments.loading import list_environments, load_environment
    from flows.environments.prepared_data import prepare
    from flows.environments.script_checks import check_script
    from flows.measure.calibrate import advice, calibrate, save
    from flows.measure.standalone import bench_for
    from lineage.errors import UsageError

    environment = load_environment(str(target))
    check_script(environment.spec, environment.source(), target / "source")
    data = prepare(environment, quiet=True)
    known = list_environments().get(made.name)
    word = (
        made.name if known is not None and known.resolve() == target.resolve() else shlex.quote(str(target))
    )
    try:
        with bench_for(environment, "medium", False) as bench:
            found = calibrate(bench, environment.source(), runs, 1, tell)
    except UsageError as error:
        raise UsageError(
            f"{error}. The environment stays in {target}; mend environment.toml there, then: bakeoff calibrate {word}"
        ) from None
    caps = [max(quantities[name] for quantities in found.quantities) for name in COSTS]
    fitted = adoption.fitted(made, *caps)
    adoption.write_settings(fitted, target)
    environment = load_environment(str(target))
    # other caps are another environment; the runs above ended well within these, so they hold for it too
    found = found.model_copy(
        update={"environment_sha256": judge_client.environment_sha256(environment.spec, data)}
    )
    save(found, environment)
    _show_measured(found, made, word)
    for line in advice(found, environment.spec):
        tell(line)


COSTS = ("cpu_seconds", "wall_seconds", "peak_mb", "artifact_bytes")


def _show_measured(found: Calibration, made: Plan, word: str) -> None:
    from flows.measure.calibrate import summary

    floor = summary(found)
    cpu = sum(quantities["cpu_seconds"] for quantities in found.quantities) / len(found.quantities)
    wall = sum(quantities["wall_seconds"] for quantities in found.quantities) / len(found.quantities)
    print(
        f"the start: {found.metric} {floor['mean']:.6g}, sd {floor['sd']:.3g} over {floor['n']} runs ({', '.join(f'{s:.6g}' for s in found.scores)})"
    )
    print(
        f"a run takes {cpu:.1f} CPU-s, {wall:.1f} s on the clock, {max(q['peak_mb'] for q in found.quantities):.0f} MB"
    )
    print(f"next: bakeoff run {word} --trials 8 --run runs/{made.name}")
