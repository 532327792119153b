"""A schedule that is switched on fires by itself, runs a campaign, and the campaign ends at its clock time.

The server is on PostgreSQL, as flows/MACHINES.md asks for, and on SQLite where PostgreSQL is not installed: there 1 run
of 9 was late, as Prefect's SQLite twice answered nobody for 60 s, its busy timeout (see PrefectHQ/prefect#18934).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import quick
from postgres import Postgres, why_not
from prefect_lab import Lab, processes_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def database() -> Iterator[str]:
    if why_not() is not None:
        yield ""
        return
    with Postgres() as server:
        yield server.url


@pytest.fixture
def lab(tmp_path: Path, database: str) -> Iterator[Lab]:
    lab = Lab(tmp_path, database)
    try:
        lab.start_server()
        quick.bakeoff("prepare", "quick", env=lab.env, cwd=tmp_path)
        lab.set_up()
        for pool in ("campaigns", "trials"):
            lab.worker(pool)
        yield lab
    finally:
        lab.stop()


def runs_of(lab: Lab, deployment: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = lab.post(
        "flow_runs/filter",
        {"flow_runs": {"deployment_id": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_ASC"},
    )
    return found


def test_the_scheduler_starts_a_campaign_and_the_clock_ends_it(lab: Lab) -> None:
    """Cron every minute, as the overnight deployment has it every night; a run at a time, the others cancelled."""
    soon = datetime.now().astimezone() + timedelta(seconds=150)
    until = soon.replace(second=0, microsecond=0) + timedelta(minutes=1)
    store = lab.folder / "store"
    lab.prefect(
        "--no-prompt", "deploy", "flows/campaign/run_in_work_pools.py:campaign", "--name", "soon", "--pool", "campaigns",
        "--cron", "* * * * *", "--timezone", "Europe/Berlin", "--concurrency-limit", "1",
        "--collision-strategy", "CANCEL_NEW",
        "--param", "environment=quick", "--param", f"store={store}", "--param", "trials=500",
        "--param", f'until="{until:%H:%M}"', "--param", "confirm=false", "--param", "in_flight=1",
    )  # fmt: skip
    deployment = lab.get("deployments/name/campaign/soon")
    run = first_finished(lab, deployment["id"], 600)
    ended = datetime.now().astimezone()

    assert run["state_name"] == "Completed", f"{run['state']}\n{lab.logs()}"
    assert run["auto_scheduled"] is True
    assert run["created_by"]["type"] == "SCHEDULE", run["created_by"]
    events = pd.read_parquet(store / "lineage").sort_values("event_id")
    first = events[events["campaign"] == events.query("event == 'campaign'")["campaign"].iloc[0]]
    last = first.query("event == 'campaign'").iloc[-1]
    assert last["operator"] == "end"
    assert last["notes"] == "the time allowed is over" or "s left, a trial takes about" in last["notes"]
    trials = first.query("event == 'trial'")
    assert len(trials) >= 2, "it measured the start and at least one trial"
    assert (first.query("event == 'submitted'")["t_started"] < pd.Timestamp(until)).all()
    assert ended < until + timedelta(seconds=90), f"ended {ended}, until {until}"
    others = [other["state_name"] for other in runs_of(lab, deployment["id"]) if other["id"] != run["id"]]
    assert "Cancelled" in others, others


def first_finished(lab: Lab, deployment: str, seconds: float) -> dict[str, Any]:
    """Wait for the first run of the schedule to come to an end."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        runs = runs_of(lab, deployment)
        if runs and runs[0]["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            return runs[0]
        time.sleep(1)
    raise AssertionError(f"{runs_of(lab, deployment)}\n{lab.logs()}\n{processes_of(lab.folder)}")
