"""Deployed mode: a real Prefect server, `prefect deploy --all`, a worker per pool, `prefect deployment run`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pytest
import quick
from prefect.automations import Automation
from prefect_lab import Lab

from flows.campaign.server_setup import ZOMBIE, stalled, unborn, zombie
from flows.campaign.watchdog import PROGRESS, RESOURCE, STARTED
from flows.engine.campaign_config import campaigns
from lineage.log.log_reader import Lineage
from lineage.store.objects import open_store

T = TypeVar("T")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("deployed"))
    try:
        lab.start_server()
        quick.bakeoff("prepare", "quick", env=lab.env, cwd=lab.folder)
        first = lab.set_up()
        assert first.count("created") == 6, first
        assert quick.bakeoff("setup-server", env=lab.env, cwd=lab.folder).stdout.count(": there") == 6
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


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_deployed_campaign_with_confirmations_leaves_a_whole_record(lab: Lab) -> None:
    """The start learns for 4 steps only, so that the catalogue's first keeps are worth a confirmation."""
    store, fitting = lab.folder / "confirmed", lab.folder / "recipes" / "quick" / "source" / "fitting.py"
    before = fitting.read_text("utf-8")
    fitting.write_text(before.replace("STEPS = 300 ", "STEPS = 4 "), "utf-8")
    try:
        lab.prefect(
            "deployment", "run", "campaign/campaign", "--watch",
            "--param", "environment=quick", "--param", f"store={store}", "--param", "trials=4",
            "--param", "confirm=true", "--param", "in_flight=2", timeout=800,
        )  # fmt: skip
    finally:
        fitting.write_text(before, "utf-8")
    events = pd.read_parquet(store / "lineage")
    decided = events.query("event == 'confirmation'")
    assert len(decided) > 0, lab.logs()
    confirmed = decided.query("verdict == 'confirmed'")
    assert sorted(events.query("event == 'sealed'")["trial"]) == sorted(confirmed["trial"])
    verified = quick.bakeoff("verify", str(store), env=lab.env, cwd=lab.folder, check=False)
    assert verified.returncode == 0, verified.stdout
    assert "unfinished" not in verified.stdout


@pytest.mark.slow
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


def test_a_run_that_dies_before_its_first_heartbeat_is_crashed(lab: Lab) -> None:
    """A machine was switched off in a trial's first second, and its campaign waited for ever."""
    flow = lab.post("flows/", {"name": "silent"})["id"]
    bodies = [{"flow_id": flow, "tags": ["bakeoff"], "state": {"type": "SCHEDULED"}} for _ in range(2)]
    runs = [str(lab.post("flow_runs/", body)["id"]) for body in bodies]
    with impatient(lab, zombie()), impatient(lab, unborn()):
        for run, last_words in zip(runs, ("Running", "Pending"), strict=True):
            state = {"type": last_words.upper(), "name": last_words}
            lab.post(f"flow_runs/{run}/set_state", {"state": state, "force": True})
        until = time.monotonic() + 90
        while time.monotonic() < until:
            states = [lab.get(f"flow_runs/{run}")["state_type"] for run in runs]
            if states == ["CRASHED", "CRASHED"]:
                return
            time.sleep(0.5)
    raise AssertionError(f"{states}\n{lab.logs()}")


@pytest.mark.slow
def test_a_campaign_that_stalls_is_told(lab: Lab) -> None:
    """The automation fires for a campaign that began and then ended no trial, and not for one that goes on."""
    begun = [_event(lab, STARTED, name) for name in ("stalls", "goes-on")]
    with impatient(lab, stalled()) as automation:
        lab.post("events", begun)
        fired: list[Any] = []
        until = time.monotonic() + 60
        while time.monotonic() < until and not fired:
            lab.post("events", [_event(lab, PROGRESS, "goes-on")])
            time.sleep(1)
            asked = {"resource": {"id": [f"prefect.automation.{automation}"]}}
            found = lab.post(
                "events/filter", {"filter": {**asked, "occurred": {"since": begun[0]["occurred"]}}}
            )
            fired = [e for e in found["events"] if e["event"] == "prefect.automation.triggered"]
    about = json.dumps(fired)
    assert "stalls" in about and "goes-on" not in about, about or lab.logs()


def _event(lab: Lab, name: str, campaign: str) -> dict[str, Any]:
    return {
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": name,
        "resource": {"prefect.resource.id": f"{RESOURCE}.{campaign}"},
    }


@contextmanager
def impatient(lab: Lab, automation: Automation) -> Iterator[str]:
    """The same automation with the shortest patience that Prefect allows, for the time of a test; its id."""
    trigger = automation.trigger.model_copy(update={"within": timedelta(seconds=10)})
    hasty = automation.model_copy(update={"name": f"hasty {automation.name}", "trigger": trigger})
    body = hasty.model_dump(mode="json", exclude={"id", "owner_resource"})
    made = str(lab.post("automations/", body)["id"])
    try:
        time.sleep(1)  # the server reads new automations on a notice of its own
        yield made
    finally:
        lab.ask("DELETE", f"automations/{made}")


def test_setup_gives_an_earlier_automation_the_new_trigger_and_keeps_its_actions(lab: Lab) -> None:
    def found() -> dict[str, Any]:
        listed = lab.post("automations/filter", {})
        return next(a for a in listed if a["name"] == ZOMBIE)

    ours = found()
    older = {**ours, "trigger": {**ours["trigger"], "after": ["prefect.flow-run.heartbeat"]}}
    more = {**older, "actions": [*ours["actions"], {"type": "do-nothing"}]}
    lab.ask(
        "PUT",
        f"automations/{ours['id']}",
        {k: v for k, v in more.items() if k not in ("id", "created", "updated")},
    )
    told = quick.bakeoff("setup-server", env=lab.env, cwd=lab.folder).stdout
    assert told.count("updated") == 1, told
    assert sorted(found()["trigger"]["after"]) == ["prefect.flow-run.Running", "prefect.flow-run.heartbeat"]
    assert [action["type"] for action in found()["actions"]] == ["change-flow-run-state", "do-nothing"]


NAP = "    import time\n\n    time.sleep(4.0)\n"  # of a training: long enough to be interrupted, no load


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_preempted_trial_is_ended_by_another_worker(lab: Lab) -> None:
    """A worker with too little time left takes nothing, one that gets SIGTERM in mid-training hands its trial over."""
    napping(lab)
    short = lab.machine("short") | {"SLURM_JOB_END_TIME": str(int(time.time()) + 60), "SLURM_JOB_ID": "17"}
    long = {"SLURM_JOB_END_TIME": str(int(time.time()) + 86_400)}
    first, second = lab.machine("first") | long, lab.machine("second") | long
    for machine in (first, short, second):
        quick.bakeoff("prepare", "napping", env=machine, cwd=lab.folder)
    plain = next(worker for worker in lab.processes if "trials" in worker.args)
    plain.terminate()  # only workers with an allocation take these trials
    plain.wait(30)
    hasty = lab.worker("trials", "short", short, ours=True)
    store = lab.folder / "preempted"
    lab.prefect(
        "deployment", "run", "campaign/campaign", "--param", "environment=napping", "--param", f"store={store}",
        "--param", "trials=1", "--param", "confirm=false", "--param", "slots=1",
    )  # fmt: skip
    refused = wait_for(lab, lambda: runs_of(lab, "NoTimeLeft"))
    assert "(job 17)" in refused[0]["state"]["message"]
    hasty.terminate()
    preempted = lab.worker("trials", "first", first, ours=True)
    wait_for(lab, lambda: training(store))
    lab.worker("trials", "second", second, ours=True)
    os.killpg(preempted.pid, signal.SIGTERM)
    told = time.monotonic()
    runs = wait_for(lab, lambda: runs_of(lab, "Preempted"))
    assert len(runs) == 1 and "SIGTERM" in runs[0]["state"]["message"]
    ended = time.monotonic() - told
    assert preempted.wait(30) == 0
    wait_for(lab, lambda: ended_because(store))
    wait_for(lab, lambda: not runs_of(lab, "Running"))  # the campaign's own end compacts its log
    events = pd.read_parquet(store / "lineage")
    trials = events.query("event == 'trial'")
    assert sorted(trials["trial"]) == ["t0000", "t0001"], lab.logs()
    assert (trials["status"] != "harness_abort").all()
    attempts = events.query("operator == 'preempted'")
    assert list(attempts["trial"]) == ["t0000"] and list(attempts["cause"]) == ["infra:preempted"]
    assert list(attempts["stage"]) == ["train"], attempts["notes"].to_list()
    assert ended < 30, (
        f"{ended:.1f} s from the signal to the end of the flow run"
    )  # a second on a quiet machine
    verified = quick.bakeoff("verify", str(store), env=lab.env, cwd=lab.folder, check=False)
    assert verified.returncode == 0, verified.stdout


def napping(lab: Lab) -> None:
    """The quick environment, with trainings that last long enough to be interrupted."""
    folder = lab.folder / "recipes" / "napping"
    shutil.copytree(lab.folder / "recipes" / quick.NAME, folder)
    spec, train = folder / "environment.toml", folder / "source" / "train.py"
    spec.write_text(spec.read_text("utf-8").replace('name = "quick"', 'name = "napping"'), "utf-8")
    head = "def train(data: Path, out: Path, seed: int) -> None:\n"
    text = train.read_text("utf-8")
    assert head in text
    train.write_text(text.replace(head, head + NAP), "utf-8")


def training(store: Path) -> bool:
    """Has the baseline passed its checks, so that its training is under way?"""
    return bool(list(store.glob("results/campaign=*/trial=t0000/build*")))


def runs_of(lab: Lab, state: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = lab.post(
        "flow_runs/filter", {"flow_runs": {"state": {"name": {"any_": [state]}}}}
    )
    return found


def ended_because(store: Path) -> bool:
    """Has the campaign said that it ended? While it runs its events are in the log, not yet in the table."""
    opened = open_store(str(store))
    view = Lineage(opened, campaigns(opened)[0]).refresh()
    return any(row.operator == "end" for row in view.events("campaign"))


def wait_for(lab: Lab, look: Callable[[], T], seconds: float = 300) -> T:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        time.sleep(0.3)
    raise AssertionError(lab.logs())
