"""Lineage in other tools' formats: CSV, the paper's TSV pair, MLflow, one Parquet file.

Use: `to_csv(view, path)`, `to_paper_tsv(view, spec, folder)`, `to_mlflow(view, spec, uri)`,
`to_parquet(view, path)`. Each returns what it wrote.
Limits: the store itself is Parquet already and is read in place; these are copies. MLflow is an
optional extra (`pip install mlflow-skinny`) and is imported only when asked for. In CSV and TSV a text cell that
a spreadsheet would run as a formula gets a leading apostrophe.
"""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.report.campaign_digest import loads
from flows.report.formatting import wall_seconds
from lineage.errors import UsageError
from lineage.records import Row, Status
from lineage.safe_text import for_csv, for_terminal

if TYPE_CHECKING:
    from lineage.environment_spec import EnvironmentSpec
    from lineage.queries import View

# our status that the paper does not have -> its nearest one
PAPER_STATUS = {Status.REJECTED: "preflight_crash"}


def to_csv(view: View, path: str | Path) -> Path:
    """All trials, one line each, every column of the record; lists as JSON."""
    target = Path(path)
    names = [name for name in Row.model_fields if name != "event"]
    with target.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(names)
        for row in view.trials():
            values = row.model_dump(mode="json")
            writer.writerow(
                [json.dumps(values[n]) if isinstance(values[n], list) else for_csv(values[n]) for n in names]
            )
    return target


def to_parquet(view: View, path: str | Path) -> Path:
    """One file with the trials and their later facts folded in."""
    target = Path(path)
    view.to_pandas().to_parquet(target, index=False)
    return target


def to_paper_tsv(view: View, spec: EnvironmentSpec, folder: str | Path) -> list[Path]:
    """`results.tsv` and `tree.tsv` with the columns of the paper's released runs, and `best.json`."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    trials = view.trials()
    by_id = {row.trial: row for row in trials}
    metric = spec.score.metric
    head = (
        f"exp_id timestamp specialist parent_exp baseline_exp domain hypothesis expected_delta status {metric} "
        "delta_vs_best artifact_bytes train_s eval_s total_s job_name snapshot_path notes"
    ).split()
    base = view.baseline()
    results = target / "results.tsv"
    _tsv(results, head, (_paper_line(row, base, view.campaign) for row in trials))
    tree = target / "tree.tsv"
    tree_head = f"exp_id parent_exp depth path specialist status {metric} delta_vs_best hypothesis".split()
    _tsv(tree, tree_head, (_tree_line(row, by_id) for row in trials))
    written = [results, tree]
    best = view.row_of_incumbent()
    if best is not None:
        facts = {
            "exp_id": best.trial,
            "specialist": best.role,
            "domain": best.role,
            "hypothesis": best.hypothesis,
            metric: view.quoted(best.trial or ""),
            "delta_vs_prev": best.delta_best,
            "timestamp": _time(best),
            "snapshot_path": best.source_sha256,
        }
        (target / "best.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        written.append(target / "best.json")
    return written


def _paper_line(row: Row, base: Row | None, campaign: str) -> list[object]:
    return [
        row.trial,
        _time(row),
        "baseline" if row.status == Status.BASELINE else row.role,
        row.parent,
        base.trial if base and row is not base and row.trial != base.trial else None,
        "baseline" if row.status == Status.BASELINE else row.role,
        row.hypothesis,
        row.expected_delta,
        _status(row),
        row.score,
        row.delta_best,
        row.artifact_bytes,
        row.train_s,
        row.evaluate_s,
        round(wall_seconds(row), 3) or None,
        f"{campaign}-{row.trial}",
        row.source_sha256,
        " | ".join(filter(None, (row.notes, row.cause and f"cause {row.cause}", row.error_excerpt))),
    ]


def _tree_line(row: Row, by_id: dict[str | None, Row]) -> list[object]:
    path: list[str] = []
    at: Row | None = row
    while at is not None and at.trial not in path:
        path.append(at.trial or "")
        at = by_id.get(at.parent)
    role = "baseline" if row.status == Status.BASELINE else row.role
    return [
        row.trial,
        row.parent,
        len(path) - 1,
        "/".join(reversed(path)),
        role,
        _status(row),
        row.score,
        row.delta_best,
        row.hypothesis,
    ]


def _status(row: Row) -> str:
    return PAPER_STATUS.get(row.status, str(row.status)) if row.status else ""


def _time(row: Row) -> str | None:
    return row.t_started.strftime("%Y-%m-%dT%H:%M:%SZ") if row.t_started else None


def _tsv(path: Path, head: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8") as out:
        out.write("\t".join(head) + "\n")
        for line in lines:
            out.write("\t".join(for_csv(value) for value in line) + "\n")


def to_mlflow(view: View, spec: EnvironmentSpec, uri: str) -> int:
    """One MLflow run per trial in an experiment named after the campaign; returns how many are new.

    Running it again adds only the trials that are not there yet (tag `bakeoff.trial`).
    """
    try:
        mlflow: Any = importlib.import_module("mlflow")
    except ImportError as error:
        raise UsageError(
            f"export to MLflow needs the mlflow package ({error}); pip install mlflow-skinny sqlalchemy alembic, "
            "or export with --csv FILE"
        ) from None
    client: Any = mlflow.MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(view.campaign)
    experiment = found.experiment_id if found else client.create_experiment(view.campaign)
    known = _mlflow_known(client, experiment)
    new = 0
    for row in view.trials():
        if row.trial in known:
            continue
        _mlflow_run(client, experiment, row, spec)
        new += 1
    return new


def _mlflow_known(client: Any, experiment: str) -> set[str]:
    known: set[str] = set()
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        known |= {run.data.tags.get("bakeoff.trial", "") for run in page}
        token = page.token
        if not token:
            return known


def _mlflow_run(client: Any, experiment: str, row: Row, spec: EnvironmentSpec) -> None:
    entities: Any = importlib.import_module("mlflow.entities")
    Metric, Param, RunTag = entities.Metric, entities.Param, entities.RunTag

    def milliseconds(name: str) -> int:
        at = getattr(row, name)
        return int(at.timestamp() * 1000) if at else 0

    start = milliseconds("t_started")
    numbers: dict[str, Any] = {
        spec.score.metric: row.score,
        **loads(row.quantities_json),
        "delta_parent": row.delta_parent,
        "delta_best": row.delta_best,
        "usd": row.usd or None,
        "train_cpu_s": row.train_cpu_s,
        "artifact_bytes": row.artifact_bytes,
        "sealed_score": row.sealed_score,
        "sealed_gain": row.sealed_gain,
    }
    tags = {
        "mlflow.runName": f"{row.trial} {row.role or ''}".strip(),
        "bakeoff.trial": row.trial,
        "bakeoff.parent": row.parent,
        "bakeoff.status": str(row.status or ""),
        "bakeoff.cause": row.cause,
        "bakeoff.verdict": row.verdict,
        "bakeoff.source": row.source_sha256,
        "mlflow.note.content": for_terminal(row.hypothesis or "")[:4000],
    }
    run = client.create_run(experiment, start_time=start)
    client.log_batch(
        run.info.run_id,
        metrics=[Metric(k, float(v), start, 0) for k, v in numbers.items() if isinstance(v, int | float)],
        params=[
            Param(k, str(v))
            for k, v in (("role", row.role), ("edit_kind", row.edit_kind), ("proposer", row.proposer))
            if v
        ],
        tags=[RunTag(k, str(v)) for k, v in tags.items() if v],
    )
    failed = row.status not in (Status.BASELINE, Status.KEEP, Status.DISCARD)
    client.set_terminated(
        run.info.run_id, "FAILED" if failed else "FINISHED", milliseconds("t_finished") or None
    )
