"""A configuration for an imported record, made from its rows, so that every command that reads a campaign reads it too.

Use: `imported_config(store, campaign)`. The record has no environment here: no gates, surfaces or caps are known, and
nothing can be run from it. Limits: only records that `lineage.paper.import_released` wrote.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

from evaluators.statistics.confirmation import plan_for
from flows.engine.campaign_config import HOLDER, CampaignConfig
from flows.engine.settings import Settings
from lineage.environment_spec import Budget, EnvironmentSpec, Evaluation, Score, Surface, Task
from lineage.log.log_reader import Lineage
from lineage.queries import View
from lineage.records import Row
from lineage.store.objects import Store
from lineage.store.results import get_result

# column of the released files -> metric, unit, digits
SCORES = {
    "val_bpb": ("bits_per_byte", "bpb", 5),
    "core_metric": ("centered_accuracy", "CORE", 4),
    "train_s": ("wall_seconds", "s", 3),
}


def imported_config(store: Store, campaign: str) -> CampaignConfig | None:
    """What the record says of itself as a configuration; None where the campaign was not imported."""
    if get_result(store, campaign, HOLDER, "config") is not None:
        return None
    view = Lineage(store, campaign).refresh()
    begun = view.events("campaign")
    if not begun or begun[0].operator != "import":
        return None
    spec = _spec(begun[0], view)
    times = [row.t_finished for row in view.trials() if row.t_finished]
    return CampaignConfig(
        id=campaign,
        environment=spec.name,
        spec=spec,
        roles=(),
        settings=Settings(environment=spec.name, confirm=False, racing=False, trials=max(1, view.count())),
        plan=plan_for(spec),
        secret="",
        start_sha256="",
        environment_sha256="",
        evaluator_sha256="",
        isolation="unknown",
        machine="unknown",
        bakeoff_version="",
        created_at=min(times, default=datetime(1970, 1, 1, tzinfo=UTC)),
    )


def _spec(begun: Row, view: View) -> EnvironmentSpec:
    detail = json.loads(begun.detail_json)
    column = detail["score_column"]
    metric, unit, digits = SCORES.get(column, ("accuracy", column, 5))
    kind = "language_model" if metric in ("bits_per_byte", "centered_accuracy") else "classification"
    roles = sorted({row.role for row in view.trials() if row.role})
    return EnvironmentSpec.model_validate(
        {
            "name": begun.environment,
            "title": f"{begun.environment}: an imported record, {detail['imported_from']}",
            "description": f"Released by the paper's authors; the score is their column {column}.",
            "score": Score(metric=metric, direction=detail["direction"], unit=unit, digits=digits),
            "task": Task(kind=kind, outputs=2, context=1),
            # no limit is known: a year, a petabyte
            "budget": Budget(
                train_cpu_s=3e7,
                train_wall_s=3e7,
                predict_cpu_s=3e7,
                predict_wall_s=3e7,
                memory_mb=10**9,
                artifact_bytes=10**15,
            ),
            "evaluation": Evaluation(runs=1, confirm_runs=2, max_confirm_runs=2, calibrate_runs=3),
            "surfaces": [Surface(name="recipe", title=", ".join(roles) or "the recipe", units={})],
        }
    )
