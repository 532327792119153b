"""`bakeoff apply`: a trial's recipe into a folder, a new git branch, and the text of a pull request."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flows.commands.chosen_run import open_view, run_root, split_trial
from flows.commands.measuring import GPUS_OF_THIS, TRIAL, TRUST_WEAK, tell
from flows.commands.options import CAMPAIGN, RUN

if TYPE_CHECKING:
    from flows.engine.campaign_config import CampaignConfig
    from flows.report.apply_git import Change
    from flows.report.evidence import Evidence
    from lineage.queries import View
    from lineage.records import Row
    from lineage.store.objects import Store


def register(app: typer.Typer) -> None:
    app.command(
        epilog="Examples: bakeoff apply runs/first best --to recipes/airbench_mini/source · "
        "bakeoff apply runs/first best --git ~/project --branch bakeoff/t0012 --pr-body pr.md"
    )(apply)


def apply(
    run: str | None = RUN,
    trial: str | None = TRIAL,
    to: Path | None = typer.Option(None, "--to", help="folder that gets the recipe's files"),
    git: Path | None = typer.Option(None, "--git", help="git repository that gets them as one commit"),
    branch: str | None = typer.Option(
        None, "--branch", help="new branch for the commit; default bakeoff/TRIAL"
    ),
    pr_body: Path | None = typer.Option(
        None, "--pr-body", help="file that gets the evidence as Markdown, for a pull request"
    ),
    minimised: bool = typer.Option(
        False, "--minimised", help="first drop the parts of the change that carry no gain (runs the recipe)"
    ),
    campaign: str | None = CAMPAIGN,
    force: bool = typer.Option(
        False,
        "--force",
        help="--to: overwrite files that differ from the campaign's start; --git: make a branch that conflicts with HEAD",
    ),
    gpus: str = GPUS_OF_THIS,
    trust_weak: bool = TRUST_WEAK,
) -> None:
    """Give a trial's recipe back: files in a folder, a commit on a new git branch, evidence for a pull request."""
    from flows.report.apply import program_of, write_files
    from flows.report.apply_git import Change
    from flows.report.formatting import contradiction, sealed_gain
    from flows.report.show import find_trial
    from lineage.errors import UsageError
    from lineage.store.blobs import get_tree

    if to is None and git is None and pr_body is None:
        raise UsageError("apply: name at least one of --to DIR, --git REPOSITORY, --pr-body FILE")
    if branch is not None and git is None:
        raise UsageError(f"--branch {branch}: a branch needs --git REPOSITORY")
    run, trial = split_trial(run, trial)
    root = run_root(run)
    store, config, view = open_view(root, campaign, imported=True)
    row = find_trial(view, trial or "best")
    change = Change(get_tree(store, config.start_sha256), program_of(store, row), row.trial or "")
    note = ""
    if minimised:
        change, note = _minimised(store, config, view, row, gpus, trust_weak)
    evidence = _evidence(store, config, view, row, root, note)
    for path in write_files(change.start, change.wanted, change.whose, to, force) if to is not None else ():
        print(path)
    if git is not None:
        _commit(config, change, evidence, git, branch, force)
    if pr_body is not None:
        _write_body(pr_body, evidence)
    sealed = next((event for event in reversed(view.events("sealed")) if event.trial == row.trial), None)
    if sealed is not None and (text := contradiction(sealed) or sealed_gain(sealed)):
        print(f"{row.trial}: {text}", file=sys.stderr)


def _minimised(
    store: Store, config: CampaignConfig, view: View, row: Row, gpus: str, trust_weak: bool
) -> tuple[Change, str]:
    from flows.measure.minimise import minimise_recorded
    from flows.measure.standalone import bench_of
    from flows.report.apply_git import Change
    from lineage.store.blobs import get_tree

    runs = config.spec.evaluation.confirm_runs
    with bench_of(config, trust_weak, gpus) as bench:
        found = minimise_recorded(store, config, view, row, bench, runs=runs, most_tests=60, told=tell)
    note = (
        f"Reduced to {len(found.kept)} of {len(found.hunks)} changed places ({found.tests} tests on {len(found.seeds)} "
        f"seeds, loss {found.loss:.4g} of a gain of {found.gain:.4g}); the figures above are of the whole change."
    )
    return Change(get_tree(store, config.start_sha256), found.files, f"the reduced {row.trial}"), note


def _evidence(store: Store, config: CampaignConfig, view: View, row: Row, root: str, note: str) -> Evidence:
    from flows.report.campaign_digest import digest
    from flows.report.evidence import Evidence
    from lineage.records import Measurement
    from lineage.store.blobs import get_blob

    raw = get_blob(store, row.measurement_sha256) if row.measurement_sha256 else None
    return Evidence(
        spec=config.spec,
        digest=digest(view, config.spec),
        row=row,
        steps=view.chain(row.trial or "")[1:],
        measurement=Measurement.model_validate_json(raw) if raw is not None else None,
        run=root,
        note=note,
    )


def _commit(
    config: CampaignConfig, change: Change, evidence: Evidence, git: Path, branch: str | None, force: bool
) -> None:
    from flows.report.apply_git import branch_name, commit_recipe
    from flows.report.evidence import commit_message

    name = branch or branch_name(evidence.row.trial or "")
    made = commit_recipe(change, git, name, commit_message(evidence), config.repository, force)
    print(f"{git}: branch {made.branch} at {made.commit[:12]}, on {made.base[:12]} ({made.why_base})")
    for path in made.files:
        print(f"  {path}")


def _write_body(path: Path, evidence: Evidence) -> None:
    from flows.report.evidence import pull_request
    from lineage.errors import UsageError

    try:
        path.write_text(pull_request(evidence), "utf-8")
    except OSError as error:
        raise UsageError(
            f"--pr-body {path}: cannot be written ({error.strerror}); name another file"
        ) from None
    print(path)
