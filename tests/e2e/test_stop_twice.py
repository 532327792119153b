"""Ctrl-C twice: the second one ends the command within seconds, and nothing of it is left."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import quick
from prefect_lab import processes_of

SLOW = (
    "fitting.py",
    "    for _ in range(STEPS):",
    "    import time\n    for _ in range(STEPS):\n        time.sleep(0.05)",
)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    quick.make(tmp_path / "recipes")
    source = tmp_path / "recipes" / "quick" / "source" / SLOW[0]
    text = source.read_text("utf-8")
    assert SLOW[1] in text
    source.write_text(text.replace(*SLOW[1:]), "utf-8")
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")
    quick.bakeoff("prepare", "quick", env=env, cwd=tmp_path)
    command = [sys.executable, "-m", "flows.cli", "run", "quick", "--run", "r", "--trials", "2", "--plain"]
    with (tmp_path / "said").open("w") as said:
        child = subprocess.Popen(
            command, env={**env, "PYTHONPATH": str(quick.ROOT)}, cwd=tmp_path, stdout=said, stderr=said
        )
    try:
        deadline = time.monotonic() + 120
        while "training" not in (tmp_path / "said").read_text("utf-8"):
            assert child.poll() is None and time.monotonic() < deadline, (tmp_path / "said").read_text(
                "utf-8"
            )
            time.sleep(0.2)
        children = psutil.Process(child.pid).children(recursive=True)
        child.send_signal(signal.SIGINT)
        time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 130, (tmp_path / "said").read_text("utf-8")
    finally:
        child.kill()
    told = (tmp_path / "said").read_text("utf-8")
    assert "Traceback" not in told and "resume: bakeoff resume" in told
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert gone and not alive, alive
    assert not processes_of(tmp_path)
