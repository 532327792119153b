"""Arms side by side and a fork, through the command line: real campaigns, stopped and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import quick

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # minutes beside busy neighbours
COMMAND = (
    *("compare", "quick", "--arms", "specialists,random", "--trials", "3", "--repeats", "1"),
    *("--run", "c", "--no-confirm"),
)
Bakeoff = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bakeoff, str]:
    """A comparison that a person stopped in its first campaign and began again with the same command."""
    folder = tmp_path_factory.mktemp("compare")
    quick.make(folder / "recipes")
    env = quick.environ(folder / "home", folder / "recipes")

    def bakeoff(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return quick.bakeoff(*arguments, env=env, cwd=folder, check=check, timeout=600)

    bakeoff("prepare", "quick")
    with (folder / "first.log").open("w") as log:
        first = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *COMMAND],
            env={**env, "PYTHONPATH": str(quick.ROOT)},
            cwd=folder,
            stdout=log,
            stderr=log,
        )
        until = time.monotonic() + 300
        while "t0000" not in (folder / "first.log").read_text():
            assert time.monotonic() < until and first.poll() is None, (folder / "first.log").read_text()
            time.sleep(0.1)
        os.kill(first.pid, signal.SIGINT)
        assert first.wait(120) == 130, (folder / "first.log").read_text()
    assert "the same command continues" in (folder / "first.log").read_text()
    half = bakeoff("compare", "--summary", "c").stdout
    done = bakeoff(*COMMAND)
    return folder, bakeoff, half + done.stdout


def test_both_arms_run_to_their_end_and_are_told(compared: tuple[Path, Bakeoff, str]) -> None:
    _, bakeoff, printed = compared
    half, whole = printed.split("quick: 2 arms")[1:]
    assert "Not finished and not counted: c-quick-random-r1, c-quick-specialists-r1" in half
    assert "Not finished" not in whole and "one repeat shows nothing" in whole
    found = json.loads(bakeoff("compare", "--summary", "c", "--json").stdout)
    assert [(arm["arm"], arm["n"], arm["trials"]) for arm in found["arms"]] == [
        ("specialists", 1, 3),
        ("random", 1, 3),
    ]
    assert all(arm["cpu_hours"] > 0 for arm in found["arms"])
    starts = [json.loads(bakeoff("show", "c", "t0000", "--campaign", c["campaign"], "--json").stdout)
              for c in found["campaigns"]]  # fmt: skip
    assert starts[0]["seeds"] == starts[1]["seeds"] and len(starts[0]["seeds"]) >= 3
    assert starts[0]["source_sha256"] == starts[1]["source_sha256"]
    assert bakeoff("verify", "c").returncode == 0


def test_the_same_command_again_runs_nothing(compared: tuple[Path, Bakeoff, str]) -> None:
    folder, bakeoff, _ = compared
    before = sorted(folder.glob("c/**/*.parquet"))
    again = bakeoff(*COMMAND)
    assert "2 of them ended before" in again.stderr and "campaign 1 of" not in again.stderr
    assert again.stdout == bakeoff("compare", "--summary", "c").stdout
    assert sorted(folder.glob("c/**/*.parquet")) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((*COMMAND, "--trials", "4"), "begun with trials = 3, not 4"),
        ((*COMMAND, "--seed", "9"), "begun with seed = 0, not 9"),
        ((*COMMAND, "--arms", "random,specialists"), "contains a comparison of the arms specialists,random"),
        (("compare",), "needs an environment to run, or --summary DIR"),
        (("compare", "--summary", "home"), "no store at"),
        (("show", "c"), "see them together with: bakeoff compare --summary"),
        (("fork", "c"), "name the trial to start from"),
        (("fork", "c", "t0042", "--campaign", "c-quick-random-r1"), "no trial named 't0042'"),
        (
            ("fork", "c", "t0000", "--campaign", "c-quick-random-r1", "--role", "modle"),
            "did you mean 'model'",
        ),
    ],
)
def test_another_comparison_or_a_wrong_name_is_refused(
    compared: tuple[Path, Bakeoff, str], arguments: tuple[str, ...], says: str
) -> None:
    done = compared[1](*arguments, check=False)
    assert says in done.stderr and "Traceback" not in done.stderr
    assert done.returncode in (2, 4)


def test_a_fork_starts_from_the_trials_own_program(compared: tuple[Path, Bakeoff, str]) -> None:
    _, bakeoff, _ = compared
    campaign = ("--campaign", "c-quick-random-r1")
    trial = next(
        t for n in range(1, 4)
        if (t := json.loads(bakeoff("show", "c", f"t{n:04d}", *campaign, "--json").stdout))["score"] is not None
    )  # fmt: skip
    done = bakeoff(
        "fork", "c", trial["trial"], *campaign, "--run", "f", "--role", "model", "--trials", "1", "--plain"
    )
    assert f"starts from {trial['trial']} of c-quick-random-r1" in done.stderr
    start = json.loads(bakeoff("show", "f", "t0000", "--json").stdout)
    assert start["source_sha256"] == trial["source_sha256"]
    child = json.loads(bakeoff("show", "f", "t0001", "--json").stdout)
    assert (child["parent"], child["role"], child["arm"]) == ("t0000", "model", "random")
    assert f"forked from  {trial['trial']} of c-quick-random-r1" in bakeoff("show", "f").stdout
    assert "has ended" in bakeoff("attach", "f", "--plain").stdout
    assert bakeoff("verify", "f").returncode == 0
