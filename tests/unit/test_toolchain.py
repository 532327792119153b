"""A run on a GPU can build a C extension in its sandbox, as torch.compile does; a run without one cannot see more."""

from __future__ import annotations

from pathlib import Path

import pytest
import workbench as wb
from stand_in_nvml import Driver

from evaluators.judge import accelerators
from evaluators.judge.judge_client import train
from evaluators.judge.sandbox import available_layers, prove_level, toolchain
from evaluators.judge.sandbox.available_layers import Layers
from lineage.environment_spec import Budget

BUILDS = """
import ctypes, os, pathlib, subprocess, sysconfig, tempfile
import numpy as np

SOURCE = '#include <Python.h>\\nint answer(void) { return PY_MAJOR_VERSION; }'

def train(data, out, seed):
    with tempfile.TemporaryDirectory() as folder:
        source, library = pathlib.Path(folder, "a.c"), pathlib.Path(folder, "a.so")
        source.write_text(SOURCE)
        command = ["gcc", "-shared", "-fPIC", "-I", sysconfig.get_path("include"), str(source), "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-500:])
        if ctypes.CDLL(str(library)).answer() != 3:
            raise RuntimeError("a wrong answer")
    named = os.environ.get("TRITON_LIBCUDA_PATH", "")
    if named != NAMED or NAMED not in os.environ.get("LD_LIBRARY_PATH", ""):
        raise RuntimeError(f"the driver's folder is said to be {named!r}")
    (out / "means.npy").write_bytes(b"x")
"""


def kind(tools: Layers) -> str:
    return "bubblewrap" if tools.bwrap else "landlock" if tools.landlock else "bare"


@pytest.mark.parametrize("tools", available_layers.choices()[0], ids=kind)
def test_an_extension_is_built_and_loaded_in_every_sandbox(
    tools: Layers, driver: Driver, tmp_path: Path
) -> None:
    driver.devices(1)
    devices = accelerators.found()
    folder = toolchain.driver_folder()
    assert folder == str(driver.folder), "beside the library that answers, which is in no usual place here"
    budget = Budget.model_validate({**wb.BUDGET, "gpus": 1, "processes": 64, "memory_mb": 512})
    isolation = prove_level.Isolation(level="weak", layers=tools.names(), holds=(), not_held=(), tools=tools)
    bench = wb.classification(tmp_path, isolation, budget=budget)
    source = wb.write(tmp_path / "source", {**wb.CLASSIFIER, "train.py": f"NAMED = {folder!r}\n{BUILDS}"})
    run = train(bench, source, 1, tmp_path / "out", devices=devices)
    assert run.cause is None, (run.numbers, run.facts.log_tail)


def test_a_run_without_a_device_gets_nothing_of_it(driver: Driver) -> None:
    driver.devices(1)
    devices = accelerators.found()
    assert toolchain.folders(()) == [] and toolchain.environment(()) == {}
    assert str(driver.folder) in toolchain.folders(devices)
    assert all(Path(folder).is_dir() for folder in toolchain.folders(devices))
