"""Deployed mode: a real Prefect server, `prefect deploy --all`, a worker per pool, `prefect deployment run`."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pandas as pd
import pytest
import quick
from prefect_lab import Lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("deployed"))
    try:
        lab.start_server()
        quick.bakeoff("prepare", "quick", env=lab.env, cwd=lab.folder)
        first = lab.set_up()
        assert first.count("created") == 5, first
        assert quick.bakeoff("setup-server", env=lab.env, cwd=lab.folder).stdout.count(": there") == 5
        for pool in ("campaigns", "trials"):
            lab.worker(pool)
        yield lab
    finally:
        lab.stop()


@pytest.mark.timeout(400)
def test_a_campaign_runs_through_the_work_pools(lab: Lab) -> None:
    store = lab.folder / "store"
    lab.prefect(
        "deployment", "run", "campaign/campaign", "--watch",
        "--param", "environment=quick", "--param", f"store={store}", "--param", "trials=2",
        "--param", "confirm=false", "--param", "in_flight=2",
    )  # fmt: skip
    events = pd.read_parquet(store / "lineage")
    trials = events.query("event == 'trial'")
    assert sorted(trials["trial"]) == ["t0000", "t0001", "t0002"], lab.logs()
    assert (trials["status"] != "harness_abort").all(), trials[
        ["trial", "numbers_json", "detail_json"]
    ].to_string()
    runs = lab.post("flow_runs/filter", {})
    named = [str(run["name"]) for run in runs]
    assert sum(name.startswith("quick · ") for name in named) == 3, named
    assert all(run["state_name"] == "Completed" for run in runs), named


def test_a_schedule_that_is_switched_on_gets_a_scheduled_run(lab: Lab) -> None:
    """Newer SQLAlchemy lets the server run and silently schedule nothing; nothing else would notice."""
    name = "campaign/overnight-airbench-mini"
    listed = lab.prefect("deployment", "schedule", "ls", name)
    assert "0 22 * * *" in listed
    lab.prefect("deployment", "schedule", "resume", name, schedule_id(lab, "overnight-airbench-mini"))
    until = time.monotonic() + 90
    while time.monotonic() < until:
        scheduled = lab.post("flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}})
        if scheduled:
            return
        time.sleep(1)
    raise AssertionError(lab.logs())


def schedule_id(lab: Lab, name: str) -> str:
    return str(lab.get(f"deployments/name/campaign/{name}")["schedules"][0]["id"])
