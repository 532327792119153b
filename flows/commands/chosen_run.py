"""The run that a person means: its store root, the trial in it, and both opened for reading."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lineage.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from flows.engine.campaign_config import CampaignConfig
    from lineage.queries import View
    from lineage.store.objects import Store


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


def open_view(root: str, campaign: str | None, imported: bool = False) -> tuple[Store, CampaignConfig, View]:
    """The store, the campaign's configuration and its lineage as of now; `imported`: an imported record will do."""
    from flows.campaign.run_on_this_machine import only_campaign
    from lineage.log.log_reader import Lineage
    from lineage.store.objects import open_store

    store = open_store(root)
    config = only_campaign(root, campaign, imported)
    return store, config, Lineage(store, config.id, config.spec.score.direction).refresh()


def absolute(run: str) -> str:
    """A run directory that still means the same from another working directory. Raises UsageError for half a URI."""
    if run.startswith("s3:") and not run.startswith("s3://"):
        raise UsageError(f"{run!r} is no store: an object store is written s3://bucket/prefix")
    return run if "://" in run else str(Path(run).absolute())
