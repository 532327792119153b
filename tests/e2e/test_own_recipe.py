"""README, "Your own recipe in 10 minutes": its commands, taken from there, in a home that has nothing.

Limits: a real campaign with confirmations, so slow; what the first command writes is in test_new_environment.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import quick

README = (quick.ROOT / "README.md").read_text("utf-8")


def commands() -> str:
    section = README.split("### Your own recipe in 10 minutes", 1)[1].split("\n## ", 1)[0]
    (block,) = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    return block


def run(script: str, home: Path) -> subprocess.CompletedProcess[str]:
    """As a person would in bash, with nothing of ours but the command `bakeoff`."""
    tools = home / "bin"
    tools.mkdir(exist_ok=True)
    program = tools / "bakeoff"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={quick.ROOT} exec {sys.executable} -m flows.cli "$@"\n')
    program.chmod(0o755)
    env = {"HOME": str(home), "BAKEOFF_HOME": str(home / "bakeoff"), "PATH": f"{tools}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={**env, "NO_COLOR": "1", "COLUMNS": "200"},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=600,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.slow
@pytest.mark.timeout(660)
def test_the_readme_s_commands_end_with_a_record(tmp_path: Path) -> None:
    script = commands()
    assert "bakeoff new-environment my_idea" in script and "bakeoff run my_idea" in script
    done = run(script, tmp_path)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    trials = pd.read_parquet(tmp_path / "lab/runs/my_idea/lineage").query("event == 'trial'")
    assert (trials["status"] == "baseline").sum() == 1 and len(trials) == 5
    assert trials["score"].notna().sum() >= 2
    assert "pass  cpu_seconds <= 5" in done.stdout
    # from another folder the name means nothing; the run still knows its environment
    again = run(f"bakeoff resume {tmp_path}/lab/runs/my_idea", tmp_path)
    assert again.returncode == 0 and "all 4 trials are done" in again.stdout, again.stderr
    refused = run("cd lab && bakeoff new-environment my_idea", tmp_path)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
