"""Exports read back with the tools that people use: csv, pandas, the paper's TSV."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd
import pytest
from synthetic_campaign import SPEC, campaign_rows

from flows.report.export import to_csv, to_mlflow, to_paper_tsv, to_parquet
from lineage.errors import UsageError
from lineage.queries import View
from lineage.safe_text import for_csv


@pytest.fixture(scope="module")
def view() -> View:
    rows = campaign_rows(60)[0]
    bad = {"hypothesis": '=cmd|"/c calc"!A1\twith\na "quoted" line'}
    return View.from_rows([r.model_copy(update=bad) if r.trial == "t0005" else r for r in rows], "min")


def test_csv_has_every_trial_and_runs_no_formula(view: View, tmp_path: Path) -> None:
    with to_csv(view, tmp_path / "t.csv").open(newline="") as lines:
        read = list(csv.DictReader(lines))
    assert [r["trial"] for r in read] == [r.trial for r in view.trials()]
    bad = read[5]
    assert bad["hypothesis"] == '\'=cmd|"/c calc"!A1 with a "quoted" line'
    assert float(bad["expected_delta"]) < 0, "numbers stay numbers"
    best = view.row_of_incumbent()
    assert best is not None
    mine = next(r for r in read if r["trial"] == best.trial)
    assert json.loads(mine["scores"]) == best.scores and mine["verdict"] == "confirmed"


def test_parquet_reads_in_one_line(view: View, tmp_path: Path) -> None:
    frame = pd.read_parquet(to_parquet(view, tmp_path / "t.parquet"))
    assert len(frame) == 60 and frame["score"].notna().sum() == sum(
        r.score is not None for r in view.trials()
    )


def test_the_papers_files_have_the_papers_columns(view: View, tmp_path: Path) -> None:
    results, tree, best = to_paper_tsv(view, SPEC, tmp_path / "out")
    frame = pd.read_csv(results, sep="\t", dtype=str, keep_default_na=False)
    assert list(frame.columns[:9]) == [
        "exp_id", "timestamp", "specialist", "parent_exp", "baseline_exp", "domain", "hypothesis", "expected_delta", "status",
    ]  # fmt: skip
    assert frame.loc[0, "specialist"] == "baseline" and frame.loc[0, "parent_exp"] == ""
    assert set(frame["status"]) <= {
        "baseline", "keep", "discard", "crash", "preflight_crash", "size_blocked", "train_budget_overrun",
        "eval_budget_overrun", "disqualified", "harness_abort",
    }  # fmt: skip
    chains = pd.read_csv(tree, sep="\t", dtype=str, keep_default_na=False)
    for _, line in chains.iterrows():
        assert (
            line["path"].split("/")[-1] == line["exp_id"]
            and len(line["path"].split("/")) == int(line["depth"]) + 1
        )
    winner = view.row_of_incumbent()
    assert winner is not None and json.loads(best.read_text())["exp_id"] == winner.trial


def test_the_released_runs_have_the_same_columns(view: View, tmp_path: Path, released_runs: Path) -> None:
    ours = to_paper_tsv(view, SPEC, tmp_path)[0].read_text().splitlines()[0].split("\t")
    for run in sorted(released_runs.glob("*/results.tsv")):
        theirs = run.read_text().splitlines()[0].split("\t")
        assert theirs[:9] == ours[:9], run
        assert {"delta_vs_best", "train_s", "total_s", "job_name", "snapshot_path", "notes"} <= set(
            theirs
        ) & set(ours)


def test_cells() -> None:
    assert [for_csv(x) for x in ("@a", "+1", "-x", "=1", "a=1", -1.5, None, True)] == [
        "'@a",
        "'+1",
        "'-x",
        "'=1",
        "a=1",
        "-1.5",
        "",
        "True",
    ]


def test_mlflow_gets_each_trial_once_or_a_clear_sentence(view: View, tmp_path: Path) -> None:
    try:
        import mlflow
    except ImportError:
        with pytest.raises(UsageError, match="pip install mlflow"):
            to_mlflow(view, SPEC, (tmp_path / "runs").as_uri())
        return
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert to_mlflow(view, SPEC, uri) == 60
    assert to_mlflow(view, SPEC, uri) == 0
    client = mlflow.MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name(view.campaign).experiment_id], max_results=100)
    scores = {run.data.tags["bakeoff.trial"]: run.data.metrics.get("cpu_seconds") for run in runs}
    assert scores == {r.trial: r.score for r in view.trials()}
