"""A person reaches a campaign: status, pause and resume, veto, a steering note; all of it on the record."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import quick


def test_pause_veto_and_steer_a_running_campaign(tmp_path: Path) -> None:
    quick.make(tmp_path / "recipes")
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")

    def bakeoff(*arguments: str) -> str:
        return quick.bakeoff(*arguments, env=env, cwd=tmp_path).stdout

    bakeoff("prepare", "quick")
    with (tmp_path / "out.log").open("w") as log:
        running = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "flows.cli",
                "run",
                "quick",
                "--run",
                "r",
                "--trials",
                "4",
                "--no-confirm",
                "--plain",
            ],
            env={**env, "PYTHONPATH": str(quick.ROOT)},
            cwd=tmp_path,
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(tmp_path / "out.log", "t0000")
        bakeoff("pause", "r", "--why", "lunch")
        wait_for(tmp_path / "out.log", "paused by a person")
        now = json.loads(bakeoff("status", "r", "--json"))
        assert now["paused"] is True
        assert now["owner"]["pid"] == running.pid
        assert now["trials_wanted"] == 4
        bakeoff("steer", "r", "look at the rate")
        assert "resumed" in bakeoff("resume", "r")
        assert running.wait(120) == 0, (tmp_path / "out.log").read_text()
    finally:
        running.kill()
    events = pd.read_parquet(tmp_path / "r" / "lineage")
    assert len(events.query("event == 'trial'")) == 5
    told = events.query("event == 'intervention'")
    assert list(told["operator"]) == ["pause", "steer", "unpause"]
    leader = json.loads(bakeoff("status", "r", "--json"))["leader"]
    refused = quick.bakeoff("veto", "r", "t0000", env=env, cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert "nothing to veto" in refused.stderr
    if leader != "t0000":
        bakeoff("veto", "r", leader, "--why", "a test")
        assert json.loads(bakeoff("status", "r", "--json"))["leader"] != leader
    assert quick.bakeoff("verify", "r", env=env, cwd=tmp_path, check=False).returncode == 0


def wait_for(path: Path, text: str) -> None:
    until = time.monotonic() + 120
    while text not in path.read_text():
        assert time.monotonic() < until, path.read_text()
        time.sleep(0.1)
