"""What several commands need: which run is meant, opening it for reading, and printing JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lineage.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from flows.engine.config import CampaignConfig
    from lineage.queries import View
    from lineage.store.objects import Store

RUN = typer.Argument(
    None, help="run directory, name under runs/, or s3://bucket/prefix; default: the newest run"
)
CAMPAIGN = typer.Option(None, "--campaign", help="campaign id, when the store holds several")
GPUS = typer.Option(
    None,
    "--gpus",
    help="GPUs that may be used: indices as in nvidia-smi, or UUIDs, with commas; default all",
)
ENVIRONMENT = typer.Argument(..., help="name of an environment, or a folder with an environment.toml")
CONFIG = typer.Option(None, "--config", help="campaign.toml with settings; options override it")
PLAIN = typer.Option(False, "--plain", help="one line per event instead of the live display")
NO_SETTINGS: dict[str, Any] = {}
VARIANT = typer.Option(None, "--variant", help="a variant of it, as bakeoff environments lists them")
AS_JSON = typer.Option(False, "--json", help="machine-readable output")


def run_root(run: str | None) -> str:
    """The store root a person means. Raises UsageError or UnknownName when there is no such run."""
    if run is None:
        newest = sorted((p for p in Path("runs").glob("*") if p.is_dir()), key=lambda p: p.stat().st_mtime)
        if not newest:
            raise UsageError("no run given and none under ./runs; start one with: bakeoff run airbench_mini")
        return str(newest[-1].absolute())
    if "://" in run:
        return run
    for path in (Path(run), Path("runs") / run):
        if path.is_dir():
            return str(path.absolute())
    raise UnknownName(
        "run",
        run,
        [p.name for p in Path("runs").glob("*") if p.is_dir()],
        "a run is a directory or an s3:// URI",
    )


def split_trial(first: str | None, second: str | None) -> tuple[str | None, str | None]:
    """`show t0003`, `show RUN` and `show RUN t0003` all mean what they look like: (run, trial)."""
    if second is not None:
        return first, second
    if first is not None and first.startswith("t") and first[1:].isdigit():
        return None, first
    return first, None


def open_view(root: str, campaign: str | None) -> tuple[Store, CampaignConfig, View]:
    """The store, the campaign's configuration and its lineage as of now."""
    from flows.campaign.embedded import only_campaign
    from lineage.log.table import Lineage
    from lineage.store.objects import open_store

    store = open_store(root)
    config = only_campaign(root, campaign)
    return store, config, Lineage(store, config.id, config.spec.score.direction).refresh()


def print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, sort_keys=True, default=str, allow_nan=False)
    sys.stdout.write("\n")


def run_with_display(root: str, config: CampaignConfig, plain: bool, take_over: bool = False) -> None:
    """Run or continue a campaign here, shown live on a terminal; KeyboardInterrupt when a person stopped it.

    Report and summary are written however it ends, unless another process owns the campaign.
    """
    from flows.campaign.embedded import run_campaign
    from flows.campaign.outputs import end_of_run
    from flows.report.terminal.display import Display
    from lineage.errors import RunBusy, Superseded
    from lineage.log.table import Lineage
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


def absolute(run: str) -> str:
    """A run directory that still means the same from another working directory. Raises UsageError for half a URI."""
    if run.startswith("s3:") and not run.startswith("s3://"):
        raise UsageError(f"{run!r} is no store: an object store is written s3://bucket/prefix")
    return run if "://" in run else str(Path(run).absolute())
