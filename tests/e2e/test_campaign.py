"""Whole campaigns through the command line: real sandbox, real judge, real Prefect server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import quick

# Read back through the Prefect API what the timeline shows; run in the campaign's own Prefect home.
FACTS = """
import asyncio, json, sys
from flows.machine.prefect_server import embedded_server
with embedded_server(sys.argv[1]):
    from prefect.client.orchestration import get_client
    async def read():
        async with get_client() as client:
            flows = await client.read_flow_runs(limit=200)
            tasks = await client.read_task_runs(limit=200)
            return {
                "flows": [[str(f.id), f.name, f.state_name, str(f.parent_task_run_id) if f.parent_task_run_id else None] for f in flows],
                "tasks": [[str(t.flow_run_id), t.name, t.state_name] for t in tasks],
            }
    print(json.dumps(asyncio.run(read())))
"""


def test_it_ends_with_a_record_that_pandas_reads_in_one_line(
    finished: tuple[Path, dict[str, str], object],
) -> None:
    folder, _, _ = finished
    trials = pd.read_parquet(folder / "r" / "lineage").query("event == 'trial'")
    assert trials["trial"].iloc[0] == "t0000"
    assert trials["trial"].is_unique
    assert (trials["status"] == "baseline").sum() == 1
    assert len(trials) >= 6, "five and the start"
    scored = trials[trials["score"].notna()]
    assert (scored["isolation"] == "strong").all() or (scored["isolation"] == "medium").all()
    assert scored["measurement_sha256"].notna().all()


def test_the_report_and_the_summary_are_there(
    finished: tuple[Path, dict[str, str], subprocess.CompletedProcess[str]],
) -> None:
    folder, _, done = finished
    report = next(folder.glob("r/reports/*/report.html"))
    assert str(report) in done.stdout
    text = report.read_text("utf-8")
    assert "t0001" in text or "bakeoff" in text.lower()
    assert next(folder.glob("r/reports/*/summary.md")).read_text("utf-8").startswith("# quick")


def test_the_record_is_read_by_the_commands(finished: tuple[Path, dict[str, str], object]) -> None:
    folder, env, _ = finished
    shown = json.loads(quick.bakeoff("show", "r", "--json", env=env, cwd=folder).stdout)
    assert shown["trials"] >= 5, "besides the baseline"
    assert "t0001" in quick.bakeoff("show", "r", "t0001", env=env, cwd=folder).stdout
    assert quick.bakeoff("diff", "r", "t0001", env=env, cwd=folder).stdout.startswith(("---", "#", "diff"))


def test_a_second_campaign_on_the_same_directory_is_refused(
    finished: tuple[Path, dict[str, str], object],
) -> None:
    folder, env, _ = finished
    done = quick.bakeoff("run", "quick", "--run", "r", env=env, cwd=folder, check=False)
    assert done.returncode == 2
    assert "already in this store" in done.stderr
    assert "resume" in done.stderr
    assert "Traceback" not in done.stderr


def test_resuming_a_finished_campaign_runs_nothing_again(
    finished: tuple[Path, dict[str, str], object],
) -> None:
    folder, env, _ = finished
    before = pd.read_parquet(folder / "r" / "lineage").query("event == 'trial'")
    quick.bakeoff("resume", "r", "--plain", env=env, cwd=folder)
    after = pd.read_parquet(folder / "r" / "lineage").query("event == 'trial'")
    assert sorted(before["trial"]) == sorted(after["trial"])


def test_prefect_shows_the_campaign_and_each_trials_six_tasks(
    finished: tuple[Path, dict[str, str], object],
) -> None:
    folder, env, _ = finished
    done = subprocess.run(
        [sys.executable, "-c", FACTS, str((folder / "r").absolute())],
        env={**env, "PYTHONPATH": str(quick.ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    named = {run[0]: run[1] for run in facts["flows"]}
    assert any(name.startswith("campaign c-quick") for name in named.values())
    trials = {
        key: name for key, name in named.items() if name.startswith("quick · ") and " confirm " not in name
    }
    assert len(trials) >= 6, "five and the start"
    assert any(name.endswith("· baseline") for name in trials.values())
    assert all(run[3] is not None for run in facts["flows"] if run[0] in trials), (
        "trials are linked to the campaign"
    )
    for key, name in trials.items():
        stages = {task.rsplit("-", 1)[0] for run, task, _ in facts["tasks"] if run == key}
        expected = {"propose", "patch", "build", "train", "evaluate", "label"}
        if name.endswith(("baseline", "%")):
            assert stages == expected, name
        else:
            assert {"propose", "label"} <= stages <= expected, name
