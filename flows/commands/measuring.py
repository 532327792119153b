"""Commands that measure again: replay, calibrate, minimise. Progress goes to stderr, results to stdout."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flows.commands.chosen_run import open_view, run_root, split_trial
from flows.commands.options import AS_JSON, CAMPAIGN, RUN, VARIANT, print_json

if TYPE_CHECKING:
    from flows.measure.calibrate import Calibration
    from flows.measure.minimise import Reduced
    from flows.measure.replay import Replayed

TRIAL = typer.Argument(None, help="trial: t0042, 42, best, leader, baseline or last")
TRUST_WEAK = typer.Option(False, "--i-trust-this-code", help="accept weak isolation for this command")
GPUS_OF_THIS = typer.Option(
    "",
    "--gpus",
    envvar="BAKEOFF_GPUS",
    help="GPUs that may be used: indices or UUIDs, with commas; default all",
)


def register(app: typer.Typer) -> None:
    app.command(
        epilog="Examples: bakeoff replay t0007 · bakeoff replay runs/first best · bakeoff replay runs/first --all 20"
    )(replay)
    app.command(epilog="Example: bakeoff calibrate airbench_mini --runs 10")(calibrate)
    app.command(epilog="Example: bakeoff minimise runs/first best --to smaller")(minimise)


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def replay(
    run: str | None = RUN,
    trial: str | None = TRIAL,
    most: int | None = typer.Option(
        None, "--all", min=1, metavar="N", help="up to N measured trials, start and keeps first"
    ),
    campaign: str | None = CAMPAIGN,
    gpus: str = GPUS_OF_THIS,
    trust_weak: bool = TRUST_WEAK,
    as_json: bool = AS_JSON,
) -> None:
    """Run a recorded trial again from the record: same bits, within noise, or differs (exit 1)."""
    from flows.measure.replay import replay_trial, replayable
    from flows.measure.standalone import bench_of
    from flows.report.show import find_trial
    from lineage.errors import UsageError

    run, trial = split_trial(run, trial)
    if trial is not None and most is not None:
        raise UsageError(f"replay: give a trial ({trial}) or --all {most}, not both")
    store, config, view = open_view(run_root(run), campaign)
    rows = [find_trial(view, trial or "best")] if most is None else replayable(view, most)
    if not rows:
        raise UsageError(f"{config.id}: no trial of this campaign has a measurement, so none can be replayed")
    done: list[Replayed] = []
    with bench_of(config, trust_weak, gpus) as bench:
        for row in rows:
            done.append(replay_trial(store, config, view, row, bench, tell))
            if most is not None and not as_json:
                print(done[-1].line, flush=True)
    tally = Counter(found.result.verdict for found in done)
    if as_json:
        one = done[0].as_json()
        print_json(one if most is None else {"replays": [found.as_json() for found in done], "tally": tally})
    elif most is None:
        _show_replay(done[0])
    else:
        print(f"{len(done)} replayed: " + ", ".join(f"{count} {verdict}" for verdict, count in tally.items()))
    if tally["differs"]:
        raise typer.Exit(1)


def _show_replay(found: Replayed) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("mean over seeds")
    for name in ("recorded", "replayed", "difference"):
        table.add_column(name, justify="right")
    table.add_column("")
    for figure in found.result.figures:
        difference = figure.replayed - figure.recorded
        table.add_row(
            figure.name,
            f"{figure.recorded:.6g}",
            f"{figure.replayed:.6g}",
            f"{difference:+.3g}",
            figure.verdict,
        )
    console = Console()
    console.print(table)
    seeds = ", ".join(str(seed.seed) for seed in found.recorded.per_seed)
    print(f"{found.trial}: {found.result.verdict} (seeds {seeds})")
    for line in (*found.result.reasons, *found.notes):
        print(f"  {line}")


def calibrate(
    environment: str = typer.Argument(
        ..., help="name of an environment, or a folder with an environment.toml"
    ),
    variant: str | None = VARIANT,
    runs: int | None = typer.Option(None, "--runs", help="runs of the start; default from environment.toml"),
    slots: int = typer.Option(2, "--slots", min=1, help="candidate processes at once on this machine"),
    gpus: str = GPUS_OF_THIS,
    isolation: str = typer.Option("medium", "--isolation", help="refuse below: strong | medium | weak"),
    trust_weak: bool = TRUST_WEAK,
    as_json: bool = AS_JSON,
) -> None:
    """Measure how much an environment's start scatters on this machine; campaigns here then use it."""
    from dataclasses import asdict

    from agents.catalogue.what_to_tune import lines, tunable
    from flows.environments.loading import load_environment
    from flows.environments.start_checks import check_start
    from flows.measure.calibrate import advice, check_before_runs, fitted_here, save, summary
    from flows.measure.calibrate import calibrate as measure_start
    from flows.measure.standalone import bench_for
    from lineage.errors import UsageError

    if isolation not in ("strong", "medium", "weak"):
        raise UsageError(f"--isolation {isolation!r}: it is strong, medium or weak")
    chosen, reference_s = fitted_here(load_environment(environment, variant or ""), again=True)
    count = chosen.spec.evaluation.calibrate_runs if runs is None else runs
    with bench_for(chosen, isolation, trust_weak, gpus) as bench:  # the source of some comes with their data
        files = chosen.source()
        chosen.check_source(files)
        check_start(chosen, files)
        found_to_tune = tunable(chosen.spec, chosen.roster("specialists"), chosen.techniques, files)
        check_before_runs(bench, count)
        for line in (*chosen.left_out(), *lines(found_to_tune)):
            tell(line)
        found = measure_start(bench, files, count, slots, tell, reference_s)
    path = save(found, chosen)
    if as_json:
        print_json({**summary(found), "path": str(path), "to_tune": [asdict(one) for one in found_to_tune]})
    else:
        _show_calibration(found, path)
    for line in advice(found, chosen.spec):
        tell(line)
    if found.missed:
        raise typer.Exit(1)


def _show_calibration(found: Calibration, path: Path) -> None:
    from flows.measure.calibrate import summary

    floor = summary(found)
    print(f"{found.environment}: {found.metric} of the start over {floor['n']} runs")
    print(f"  mean {floor['mean']:.6g}, 95 % interval {floor['mean_low']:.6g} to {floor['mean_high']:.6g}")
    print(f"  sd   {floor['sd']:.4g}, 95 % interval {floor['sd_low']:.4g} to {floor['sd_high']:.4g}")
    for seed, score in zip(found.seeds, found.scores, strict=True):
        print(f"  seed {seed}: {score:.6g}")
    if found.reference_s is not None:
        print(f"  this machine: {found.reference_s:.3f} CPU-s for the reference work")
    print(f"  {found.cpu_seconds:.1f} CPU-s in all, load {found.load_start:.2f} to {found.load_end:.2f}")
    for gate in found.gates:
        print(f"  {'pass' if gate.passed else 'FAIL'}  {gate.name}: {gate.detail}")
    print(f"  isolation {found.isolation}, on {found.machine}")
    print(f"stored in {path}, sha256 {found.sha256}")
    if found.missed:
        print("the start does not pass its own rules here, so a campaign on this machine is refused")


def minimise(
    run: str | None = RUN,
    trial: str | None = TRIAL,
    runs: int | None = typer.Option(None, "--runs", min=2, help="seeds per program; default confirm_runs"),
    tests: int = typer.Option(60, "--tests", min=1, help="most subsets to ask about"),
    to: Path | None = typer.Option(None, "--to", help="folder that gets the reduced recipe's files"),
    force: bool = typer.Option(False, "--force", help="overwrite files in it that differ from the start"),
    campaign: str | None = CAMPAIGN,
    gpus: str = GPUS_OF_THIS,
    trust_weak: bool = TRUST_WEAK,
    as_json: bool = AS_JSON,
) -> None:
    """Find the smallest part of a trial's change since the start that keeps its gain."""
    from flows.measure.minimise import minimise_recorded
    from flows.measure.standalone import bench_of
    from flows.report.apply import write_files
    from flows.report.show import find_trial
    from lineage.store.blobs import get_tree

    run, trial = split_trial(run, trial)
    store, config, view = open_view(run_root(run), campaign)
    row = find_trial(view, trial or "best")
    count = config.spec.evaluation.confirm_runs if runs is None else runs
    with bench_of(config, trust_weak, gpus) as bench:
        found = minimise_recorded(store, config, view, row, bench, runs=count, most_tests=tests, told=tell)
    written: list[Path] = []
    if to is not None:
        start = get_tree(store, config.start_sha256)
        written = write_files(start, found.files, f"the reduced {row.trial}", to, force)
    if as_json:
        print_json(_minimised_json(row.trial or "", found, written))
    else:
        _show_minimised(row.trial or "", found, written)


def _minimised_json(trial: str, found: Reduced, written: list[Path]) -> dict[str, object]:
    return {
        "trial": trial,
        "hunks": [hunk.where for hunk in found.hunks],
        "kept": list(found.kept),
        "dropped": [index for index in range(len(found.hunks)) if index not in found.kept],
        "is_minimal": found.is_minimal,
        "tests": found.tests,
        "seeds": list(found.seeds),
        "gain": found.gain,
        "loss": found.loss,
        "allowed_loss": found.allowed,
        "left": found.left,
        "left_out": found.dropped,
        "written": [str(path) for path in written],
    }


def _show_minimised(trial: str, found: Reduced, written: list[Path]) -> None:
    from lineage.safe_text import for_terminal

    total = len(found.hunks)
    print(f"{trial}: {len(found.kept)} of {total} hunks keep the gain, after {found.tests} tests")
    print(
        f"  gain of the whole over the start {found.gain:.4g}; the kept part loses {found.loss:.4g} of it "
        f"(allowed {found.allowed:.4g}, {len(found.seeds)} seeds)"
    )
    for index, hunk in enumerate(found.hunks):
        print(f"  {'keeps' if index in found.kept else 'drops'}  {index + 1}  {hunk.where}")
    if not found.is_minimal:
        print("  stopped at the most tests allowed: a smaller part may do; go on with a larger --tests")
    if found.dropped:
        print(f"\nleft out:\n{for_terminal(found.dropped)}", end="")
    print(f"\nwhat is left:\n{for_terminal(found.left)}", end="")
    for path in written:
        print(path)
