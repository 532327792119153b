"""A machine with too few GPUs refuses at once, in one sentence, and writes nothing."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import quick
from stand_in_nvml import Driver

from flows.machine.folders import REPO


@pytest.mark.parametrize(
    "command",
    [
        ("run", "airbench96"),
        ("calibrate", "airbench96"),
        ("compare", "parameter_golf", "--variant", "1xh100", "--arms", "specialists,random"),
    ],
)
def test_every_command_that_would_run_it_refuses(command: tuple[str, ...], tmp_path: Path) -> None:
    place = tmp_path / "empty"
    place.mkdir()
    env = quick.environ(tmp_path / "home", REPO / "recipes")
    before = sorted(tmp_path.rglob("*"))
    done = quick.call(*command, env=env, cwd=place)
    assert done.returncode == 5, done.stderr
    assert "needs 1 GPU and this machine shows none (" in done.stderr and done.stderr.count("\n") == 1
    assert "prepare" not in done.stderr, "before its data are asked for"
    assert sorted(tmp_path.rglob("*")) == before


def test_it_takes_less_than_five_seconds(tmp_path: Path) -> None:
    """Of processor time, so that neighbours do not count; nothing in it waits."""
    env = quick.environ(tmp_path / "home", REPO / "recipes")
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = quick.bakeoff("run", "airbench96", env=env, cwd=tmp_path, check=False)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 5
    assert ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime < 5


def test_a_machine_with_some_says_how_many(driver: Driver, tmp_path: Path) -> None:
    driver.devices(2)
    env = {**quick.environ(tmp_path / "home", REPO / "recipes"), "CUDA_VISIBLE_DEVICES": "1"}
    done = quick.call("run", "parameter_golf", env=env, cwd=tmp_path)
    assert done.returncode == 5
    assert "parameter_golf needs 8 GPUs; CUDA_VISIBLE_DEVICES=1 leaves 1 (1 NVIDIA H100" in done.stderr
    listed = quick.call("environments", env={**env, "COLUMNS": "220"}, cwd=tmp_path).stdout
    assert "needs 8 GPUs; this machine has 1" in listed
    done = quick.call("run", "airbench96", "--gpus", "7", env=env, cwd=tmp_path)
    assert done.returncode == 2 and "--gpus 7: 7: no such device" in done.stderr
