"""`bakeoff stop` while a trial waits for a slot that another campaign holds: no fault, and the trial stays open.

Limits: that a resume goes on from an open trial is in test_campaign_crash.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import quick


def test_a_stop_while_waiting_for_a_slot_is_no_fault(tmp_path: Path) -> None:
    quick.make(tmp_path / "recipes")
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")
    quick.bakeoff("prepare", "quick", env=env, cwd=tmp_path)
    slots = tmp_path / "home/bakeoff/slots/cpu"
    slots.mkdir(parents=True)
    handle = os.open(slots / "0.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    command = ["run", "quick", "--run", "r", "--trials", "1", "--slots", "1", "--no-confirm", "--plain"]
    with (
        (tmp_path / "err").open("w") as err,
        subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *command],
            env={**env, "PYTHONPATH": str(quick.ROOT)},
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=err,
        ) as child,
    ):
        try:
            deadline = time.monotonic() + 200
            while not list((tmp_path / "r").rglob("trial=t0000/patch.json")):
                assert child.poll() is None and time.monotonic() < deadline, (tmp_path / "err").read_text()
                time.sleep(0.1)
            time.sleep(1)  # from the patch to the wait for a slot there is only a parse
            said = quick.bakeoff("stop", "r", env=env, cwd=tmp_path).stdout
            assert f"asked process {child.pid} to stop" in said
            assert child.wait(60) == 130
        finally:
            child.kill()
    assert "Traceback" not in (tmp_path / "err").read_text()
    assert not list((tmp_path / "r").rglob("trial=t0000/build.json")), "it was waiting"
    os.close(handle)
    rows = pd.read_parquet(tmp_path / "r/lineage")
    assert not (rows["event"] == "trial").any(), "t0000 stays open for a resume"
    assert rows.query("event == 'campaign'")["operator"].tolist()[-1] == "stop"
