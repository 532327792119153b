"""Campaigns on devices that the driver's stand-in shows: real engine, sandbox, judge, Prefect and locks.

The recipe computes on the CPU; which device it was given is what is tested. Limits: no kernel runs on a device here.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest
import quick
from stand_in_nvml import Driver, uuid

from flows.engine.stage_records import Trained
from lineage.records import Edit, Proposal
from lineage.store.objects import open_store
from lineage.store.results import get_result

DEVICES = 8
# longer than eight flows take to start one after the other beside busy neighbours
PAUSE_S = 45.0
WAIT = """
import os
import time

def _given() -> None:
    print("CUDA_VISIBLE_DEVICES", os.environ["CUDA_VISIBLE_DEVICES"], "are given", flush=True)
"""
REHEARSE = """

def rehearse(fake: Path, out: Path) -> None:
    fitting.PAUSE = 0.0
    train(fake, out, 1)
"""
Span = tuple[datetime, datetime, str, str]  # began, ended, device, trial


def environment(
    folder: Path, driver: Driver, gpus: int, calibrate: int = 3, pause: float = 0.0
) -> dict[str, str]:
    """`quick` with so many GPUs a run, and with a pause in training that an edit can make longer; data are prepared."""
    place = quick.make(folder / "recipes")
    path = place / "environment.toml"
    text = path.read_text("utf-8").replace("threads = 1\n", f"threads = 1\ngpus = {gpus}\n", 1)
    for key, value in {"runs": 1, "calibrate_runs": calibrate}.items():
        text = text.replace(f"\n{key} = {quick.RUNS[key]}\n", f"\n{key} = {value}\n")
    path.write_text(text.replace("train_wall_s = 60", "train_wall_s = 240"), "utf-8")
    train = place / "source" / "train.py"
    body = train.read_text("utf-8").replace("\nimport fitting\n", f"\nimport fitting\n{WAIT}")
    body = body.replace("    parameters = ", "    _given()\n    time.sleep(fitting.PAUSE)\n    parameters = ")
    train.write_text(body + REHEARSE, "utf-8")
    fitting = place / "source" / "fitting.py"
    fitting.write_text(
        fitting.read_text("utf-8").replace("STEPS = ", f"PAUSE = {pause}\nSTEPS = ", 1), "utf-8"
    )
    env = {**quick.environ(folder / "home", folder / "recipes"), **driver.environ}
    quick.bakeoff("prepare", "quick", env=env, cwd=folder)
    return env


def script(folder: Path, count: int, pause: float, was: float = 0.0) -> Path:
    """So many different edits of one role, each with a pause; returns the configuration that names them."""
    proposals = [
        Proposal(
            role="training", proposer="", parent="t0000", hypothesis=f"edit {at}",
            edits=(
                Edit(path="fitting.py", search="STEPS = 300", replace=f"STEPS = {200 + at}"),
                Edit(path="fitting.py", search=f"PAUSE = {was}", replace=f"PAUSE = {pause}"),
            ),
        )
        for at in range(count)
    ]  # fmt: skip
    told, config = folder / "script.json", folder / "campaign.toml"
    told.write_text(json.dumps([p.model_dump() for p in proposals]), "utf-8")
    config.write_text(f'[campaign]\nproposer = "scripted"\nscript = "{told}"\nconfirm = false\n')
    return config


def spans(rows: pd.DataFrame, stages: tuple[str, ...] = ("build", "train", "evaluate")) -> list[Span]:
    """When which device belonged to which trial, from the lineage alone."""
    return [
        (datetime.fromisoformat(run["began"]), datetime.fromisoformat(run["ended"]), one, str(row["trial"]))
        for _, row in rows.iterrows()
        for run in json.loads(row["detail_json"])["device_runs"]
        if run["stage"] in stages
        for one in run["uuids"]
    ]


def at_once(taken: list[Span]) -> int:
    """The most trials that had a device at one moment."""
    return max(len({trial for b, e, _, trial in taken if b <= began < e}) for began, *_ in taken)


def children(run: Path) -> list[tuple[str, str]]:
    """Of every training: the device in its record, and what the child wrote."""
    store, campaign = open_store(str(run)), "c-quick-specialists"
    found = []
    for trial in [f"t{number:04d}" for number in range(DEVICES + 1)]:
        purpose = "calibrate" if trial == "t0000" else "screen"
        trained = Trained.model_validate_json(get_result(store, campaign, trial, f"{purpose}-train-0") or b"")
        for one in trained.runs:
            assert one.facts.device is not None
            found.append((",".join(one.facts.device.uuids), one.facts.log_tail))
    return found


@pytest.mark.slow  # three minutes, most of them the pause
@pytest.mark.timeout(600)
def test_eight_trials_at_once_each_on_a_device_of_its_own(driver: Driver, tmp_path: Path) -> None:
    driver.devices(DEVICES)
    env = environment(tmp_path, driver, gpus=1)
    config = script(tmp_path, DEVICES, pause=PAUSE_S)
    told = ("--trials", str(DEVICES), "--slots", str(DEVICES), "--role", "training", "--config", str(config))
    quick.bakeoff("run", "quick", "--run", "r", *told, "--plain", env=env, cwd=tmp_path, timeout=500)
    rows = pd.read_parquet(tmp_path / "r" / "lineage").query("event == 'trial'")
    assert len(rows) == DEVICES + 1
    assert set(rows["status"]) <= {"baseline", "keep", "discard"}, list(rows["cause"])
    taken = sorted(spans(rows))
    assert at_once(spans(rows, ("train",))) == DEVICES
    for at, (_, ended, device, trial) in enumerate(taken):
        clash = [other for other in taken[at + 1 :] if other[0] < ended and other[2] == device]
        assert not clash, (trial, clash)
    assert {device for _, _, device, _ in taken} == {uuid(index) for index in range(DEVICES)}
    # what each child saw is what its row says
    seen = children(tmp_path / "r")
    assert len(seen) == DEVICES + 3, "eight trials, three runs of the start"
    for held, log in seen:
        assert f"CUDA_VISIBLE_DEVICES {held} are given" in log
    assert quick.call("verify", "r", env=env, cwd=tmp_path).returncode == 0
    shown = quick.call("show", "r", "t0001", env=env, cwd=tmp_path).stdout
    assert rows.set_index("trial").loc["t0001", "devices"][0] in shown


@pytest.mark.slow  # the pause, and eight sandboxes that start on two cores
@pytest.mark.timeout(600)
def test_one_lane_measures_eight_runs_of_the_start_at_once(driver: Driver, tmp_path: Path) -> None:
    """Slots belong to runs: with one trial under way no device is idle, and run i has seed i."""
    driver.devices(DEVICES)
    env = environment(tmp_path, driver, gpus=1, calibrate=DEVICES, pause=PAUSE_S)
    told = ("--trials", "1", "--role", "training", "--plain")
    config = script(tmp_path, 1, pause=0.0, was=PAUSE_S)
    config.write_text(config.read_text("utf-8") + "in_flight = 1\n", "utf-8")
    quick.bakeoff(
        "run", "quick", "--run", "r", *told, "--config", str(config), env=env, cwd=tmp_path, timeout=500
    )
    rows = pd.read_parquet(tmp_path / "r" / "lineage").query("event == 'trial'").set_index("trial")
    taken = spans(rows.reset_index().query("trial == 't0000'"), ("train",))
    assert len(taken) == DEVICES
    assert len({device for _, _, device, _ in taken}) == DEVICES
    assert max(began for began, *_ in taken) < min(ended for _, ended, *_ in taken), "all eight at one moment"
    listed = [run["seed"] for run in json.loads(rows.loc["t0000", "detail_json"])["device_runs"]]
    seeds = list(rows.loc["t0000", "seeds"])
    assert [seed for seed in listed if seed is not None] == [*seeds, *seeds], (
        "trained, then judged, in order of index"
    )
    assert quick.call("verify", "r", env=env, cwd=tmp_path).returncode == 0
