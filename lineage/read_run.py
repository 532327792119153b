"""A recorded run from Python: trials as a frame, a trial's diff, files and measurement, champions, curves. Reads only.

    from lineage.read_run import open_run

    run = open_run("runs/first")              # or "s3://bucket/prefix"; campaign="c-..." where the store has several
    run.trials()                              # pandas.DataFrame, one row per trial, indexed by trial id
    run.champions()                           # the confirmed ones, in the order of their confirmation
    run.best_so_far()                         # the leader's score after each trial
    trial = run.trial("best")                 # or "t0007", "leader", "baseline", "last"
    trial.diff, trial.files, trial.measurement, trial.quantities
    trial.curves()                            # what the recipe reported while it trained, one frame for all runs

Every call sees what is in the store at that moment; `run.refresh()` after a while sees what came in. Limits: a frame has
the columns of `lineage.records.Row`, whose JSON columns stay text; texts of candidates are theirs, not to be trusted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lineage.environment_spec import EnvironmentSpec
from lineage.errors import UnknownName, UsageError
from lineage.log.log_reader import Lineage, list_campaigns
from lineage.queries import View
from lineage.records import Measurement, Row
from lineage.store.blobs import get_blob, get_tree
from lineage.store.objects import Store, open_store
from lineage.store.results import get_result, list_results

if TYPE_CHECKING:
    import pandas as pd

HOLDER = "campaign"  # the place of a trial id in the key of the campaign's own results


@dataclass(frozen=True)
class Trial:
    """One trial of a run: its row, and what the row names."""

    row: Row
    store: Store

    @property
    def id(self) -> str:
        return self.row.trial or ""

    @property
    def diff(self) -> str:
        """Against its parent, as a unified diff; empty for the start and for an edit that never became a program."""
        return (
            get_blob(self.store, self.row.diff_sha256).decode("utf-8", "replace")
            if self.row.diff_sha256
            else ""
        )

    @property
    def files(self) -> dict[str, bytes]:
        """Its whole program by path; empty for an edit that never became one."""
        return get_tree(self.store, self.row.source_sha256) if self.row.source_sha256 else {}

    @property
    def measurement(self) -> Measurement | None:
        """What the judge measured, seed by seed; None for a trial that was not measured."""
        sha = self.row.measurement_sha256
        return Measurement.model_validate_json(get_blob(self.store, sha)) if sha else None

    @property
    def quantities(self) -> dict[str, float]:
        """Means over its runs, by name."""
        found: dict[str, float] = json.loads(self.row.quantities_json)
        return found

    def curves(self) -> pd.DataFrame:
        """Columns `training`, `run`, `step`, `value`: what its runs reported, also those of confirmations. Often empty."""
        import pandas as pd

        points: list[tuple[str, int, int, float]] = []
        for name in list_results(self.store, self.row.campaign, self.id):
            if "-train-" in name:
                held = json.loads(get_result(self.store, self.row.campaign, self.id, name) or b"{}")
                for run, curve in enumerate(held.get("curves", [])):
                    points += [(name, run, int(step), float(value)) for step, value in curve]
        return pd.DataFrame(points, columns=["training", "run", "step", "value"])


@dataclass
class Run:
    """One campaign of a store, open for reading. `spec` is its environment; None of an imported record."""

    store: Store
    campaign: str
    spec: EnvironmentSpec | None
    _lineage: Lineage
    _view: View

    def refresh(self) -> Run:
        """See what has come in since; returns itself."""
        self._view = self._lineage.refresh()
        return self

    def trials(self) -> pd.DataFrame:
        """One row per trial in the order of their outcomes, with what confirmations said of it later."""
        return self._view.to_pandas().set_index("trial")

    def events(self) -> pd.DataFrame:
        """Every event of the campaign, trials among them."""
        return self._view.to_pandas(events=True)

    def champions(self) -> pd.DataFrame:
        """The confirmed trials without a veto, in the order of their confirmation; `fresh` is their mean on fresh seeds."""
        names = self._view.ranking.champions
        frame = self.trials().loc[names].copy()
        frame["fresh"] = [self._view.ranking.fresh.get(name) for name in names]
        return frame

    def best_so_far(self) -> pd.DataFrame:
        """Columns `number`, `trial`, `score`: each new leader with the number of trials until then."""
        import pandas as pd

        return pd.DataFrame(self._view.best_so_far(), columns=["number", "trial", "score"])

    def trial(self, name: str = "best") -> Trial:
        """The trial of that id, or `best` (the last confirmed), `leader`, `baseline`, `last`. Raises UnknownName."""
        rows = self._view.trials()
        named = {
            "best": self._view.row_of_incumbent(),
            "leader": self._view.row_of_leader(),
            "baseline": self._view.baseline(),
            "last": rows[-1] if rows else None,
        }
        row = named[name] if name in named else self._view.trial(name)
        if row is None:
            raise UnknownName("trial", name, [r.trial or "" for r in rows], f"trials of {self.campaign}")
        return Trial(row, self.store)


def open_run(run: str, campaign: str | None = None) -> Run:
    """Open a run directory or `s3://bucket/prefix`. Raises UsageError or UnknownName for what is not there."""
    store = open_store(str(run))
    known = list_campaigns(store)
    if campaign is None:
        if len(known) != 1:
            raise UsageError(
                f"{run}: {len(known)} campaigns here ({', '.join(known) or 'none'}); name one with campaign=..."
            )
        campaign = known[0]
    if campaign not in known:
        raise UnknownName("campaign", campaign, known, f"campaigns in {run}")
    raw = get_result(store, campaign, HOLDER, "config")
    spec = EnvironmentSpec.model_validate(json.loads(raw)["spec"]) if raw is not None else None
    lineage = Lineage(store, campaign, spec.score.direction if spec is not None else None)
    return Run(store, campaign, spec, lineage, lineage.refresh())
