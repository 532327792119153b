"""`import released-run`: the paper's released TSV records as a campaign in a store, with nothing dropped.

Use: `report = import_released(folder, store, "c-paper-golf")`. One `trial` row per released row, in file order,
with every original column under `detail_json.released`; the files themselves are kept as blobs.
Damaged rows are repaired (see `released_tsv`) and carry `detail_json.repaired`.
Which environment it is, and whether lower is better, follows from the columns.
Limits: these runs have no code, so there are no sources, diffs or measurements to verify. All rows are one commit:
an import that was killed left nothing or everything. One run per campaign.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from lineage.errors import UsageError
from lineage.ids import check_segment
from lineage.log.journal import load
from lineage.log.log_reader import Direction, Lineage
from lineage.paper.released_tsv import ReleasedRow, ReleasedRun, read_run
from lineage.records import Row, Status
from lineage.store.blobs import put_blob
from lineage.store.objects import Store

# score column -> environment and direction, as the paper defines them
ENVIRONMENTS: dict[str, tuple[str, Direction]] = {
    "val_bpb": ("parameter_golf", "min"),
    "core_metric": ("nanochat_d12", "max"),
    "train_s": ("airbench96", "min"),
}
CAUSE_OF_STATUS = {
    "crash": "crash",
    "size_blocked": "oversize",
    "train_budget_overrun": "wall_cap",
    "eval_budget_overrun": "wall_cap",
    "disqualified": "gate_missed",
    "harness_abort": "infra:harness",
}
# The gates and caps of the paper's environments: bytes of code plus model, seconds, accuracy.
SIZE_CAP, TRAIN_CAP, EVAL_CAP, ACCURACY_GATE = (
    16_000_000,
    {"parameter_golf": 600.0, "nanochat_d12": 5400.0},
    600.0,
    0.96,
)
QUANTITIES = ("val_bpb", "core_metric", "accuracy", "acc_std", "n_seeds", "train_s", "eval_s", "total_s")


@dataclass(frozen=True)
class ImportReport:
    """What an import did. `trials` does not count the baseline; `repaired` names damaged rows and their repair."""

    campaign: str
    environment: str
    score_column: str
    direction: Direction
    rows: int
    trials: int
    added: int
    repaired: dict[str, list[str]]
    best: tuple[str, float] | None
    warnings: tuple[str, ...] = ()


def import_released(folder: str | Path, store: Store, campaign: str) -> ImportReport:
    """Import a released run into a campaign of its own; see the module text."""
    run = read_run(Path(folder))
    environment, direction = _environment(run)
    files = {name: put_blob(store, data) for name, data in run.files.items()}
    scores = {row.id: number(row.columns.get(run.score_column)) for row in run.rows}
    added = 0
    if not _already(store, campaign, files):
        begin = _campaign_row(run, campaign, environment, direction, files)
        load(
            store,
            campaign,
            "import",
            [begin, *(to_row(row, run, campaign, environment, scores) for row in run.rows)],
        )
        added = len(run.rows)
    view = Lineage(store, campaign).refresh()
    best = view.ranking.leader()
    return ImportReport(
        campaign=campaign,
        environment=environment,
        score_column=run.score_column,
        direction=direction,
        rows=view.count(),
        trials=view.count() - sum(row.columns["status"] == "baseline" for row in run.rows),
        added=added,
        repaired={row.id: row.repairs for row in run.rows if row.repairs},
        best=best,
        warnings=tuple(_warnings(run, best)),
    )


def _environment(run: ReleasedRun) -> tuple[str, Direction]:
    if run.score_column in ENVIRONMENTS:
        return ENVIRONMENTS[run.score_column]
    # An unknown score: improvements show which way is better.
    moves = [number(r.columns.get("delta_vs_best")) or 0.0 for r in run.rows if r.columns["status"] == "keep"]
    total = sum(1 if move > 0 else -1 for move in moves if move)
    if not total:
        raise UsageError(
            f"cannot tell whether lower or higher {run.score_column} is better: no keep has a delta_vs_best"
        )
    return "released", "max" if total > 0 else "min"


def _already(store: Store, campaign: str, files: dict[str, str]) -> bool:
    """Whether the same files were imported into this campaign before; UsageError when it holds anything else."""
    view = Lineage(store, campaign, "min").refresh()
    begun = view.events("campaign")
    if not begun and not view.count():
        return False
    if not begun or json.loads(begun[0].detail_json).get("files") != files:
        raise UsageError(
            f"campaign {campaign!r} in {store.root} already holds something else; name another campaign"
        )
    return True


def _campaign_row(
    run: ReleasedRun, campaign: str, environment: str, direction: Direction, files: dict[str, str]
) -> Row:
    detail = {
        "direction": direction,
        "imported_from": run.folder.name,
        "score_column": run.score_column,
        "columns": list(run.names),
        "files": files,
        "best": run.best,
    }
    return Row(
        event="campaign",
        campaign=campaign,
        environment=environment,
        operator="import",
        detail_json=json.dumps(detail, sort_keys=True),
    )


def number(text: str | None) -> float | None:
    """A finite number from a column; None for blanks and words (`minus_0.0003` is a word)."""
    try:
        value = float((text or "").strip().replace("\u2212", "-"))
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def _whole(text: str | None) -> int | None:
    value = number(text)
    return None if value is None else int(value)


def _when(text: str | None) -> datetime | None:
    try:
        value = datetime.fromisoformat((text or "").strip().replace("Z", "+00:00"))
    except ValueError:
        return None
    return value if value.tzinfo else None


def to_row(
    row: ReleasedRow, run: ReleasedRun, campaign: str, environment: str, scores: dict[str, float | None]
) -> Row:
    """One released row as a lineage row; nothing of it is lost, because `detail_json` has all columns."""
    text = row.columns
    word = text["status"].strip()
    status = Status(word) if word in set(Status) else Status.HARNESS_ABORT
    score, parent = scores[row.id], text.get("parent_exp", "").strip() or None
    before = scores.get(parent) if parent else None
    finished, total = _when(text.get("timestamp")), number(text.get("total_s"))
    detail: dict[str, Any] = {"released": text}
    if row.repairs:
        detail |= {"repaired": row.repairs, "raw": row.raw}
    if word not in set(Status):
        detail["unknown_status"] = word
    return Row(
        event="trial",
        campaign=campaign,
        environment=environment,
        trial=check_segment("trial", re.sub(r"[^A-Za-z0-9._-]", "_", row.id)),
        role=text.get("specialist") or None,
        parent=parent,
        incumbent=text.get("baseline_exp", "").strip() or None,
        hypothesis=text.get("hypothesis") or None,
        expected_delta=number(text.get("expected_delta")),
        notes=text.get("notes") or None,
        status=status,
        cause=_cause(status, text),
        numbers_json=json.dumps(_numbers(status, text, environment), sort_keys=True),
        stage="label",
        score=score,
        scores=[] if score is None else [score],
        delta_parent=None if score is None or before is None else score - before,
        delta_best=number(text.get("delta_vs_best")),
        quantities_json=json.dumps(
            {n: v for n in QUANTITIES if (v := number(text.get(n))) is not None}, sort_keys=True
        ),
        artifact_bytes=_whole(text.get("artifact_bytes")),
        train_s=number(text.get("train_s")) if run.score_column != "train_s" else None,
        evaluate_s=number(text.get("eval_s")),
        t_started=finished - timedelta(seconds=total) if finished and total else None,
        t_finished=finished,
        detail_json=json.dumps(detail, sort_keys=True, ensure_ascii=False),
    )


def _cause(status: Status, text: dict[str, str]) -> str | None:
    if status is Status.PREFLIGHT_CRASH:
        return "infra:sync" if "infrastructure" in text.get("notes", "") else "smoke"
    return CAUSE_OF_STATUS.get(status.value)


def _numbers(status: Status, text: dict[str, str], environment: str) -> dict[str, float]:
    """By how much a gate or cap was missed, where the columns give it."""
    size, train = number(text.get("artifact_bytes")), number(text.get("train_s"))
    evaluation, accuracy = number(text.get("eval_s")), number(text.get("accuracy"))
    cap = TRAIN_CAP.get(environment)
    found: dict[str, float] = {}
    if status is Status.SIZE_BLOCKED and size is not None:
        found["bytes_over"] = size - SIZE_CAP
    if status is Status.TRAIN_BUDGET_OVERRUN and train is not None and cap is not None:
        found["seconds_over"] = round(train - cap, 6)
    if status is Status.EVAL_BUDGET_OVERRUN and evaluation is not None:
        found["seconds_over"] = round(evaluation - EVAL_CAP, 6)
    if status is Status.DISQUALIFIED and accuracy is not None:
        found["accuracy_short"] = round(ACCURACY_GATE - accuracy, 6)
    return found


def _warnings(run: ReleasedRun, best: tuple[str, float] | None) -> list[str]:
    """What does not fit together in the released files themselves."""
    found = [f"row {row.id} has the unknown status {row.columns['status']!r}" for row in run.rows
             if row.columns["status"].strip() not in set(Status)]  # fmt: skip
    said = run.best.get(run.score_column)
    if best and isinstance(said, int | float) and abs(said - best[1]) > 1e-9:
        found.append(
            f"best.json says {run.best.get('exp_id')} with {said}, the rows say {best[0]} with {best[1]}"
        )
    return found
