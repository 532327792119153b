"""The GPU tests tested on a CPU: the same campaigns and trials, with the environments told to compute there.

What only a device can show (its memory, its UUID, NCCL) is left to `test_gpu.py`; everything else of it runs here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cuda_digits
import cuda_flows
import full_size_small
import pytest
import quick
from cuda_lab import CudaLab, until
from gpu_record import Record
from stand_in_nvml import Driver, uuid


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_campaign_of_the_gpu_tests_has_the_outcomes_that_they_ask_for(
    tmp_path: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the driver, so that device and hold are recorded as they will be."""
    driver.devices(1)
    for name, value in driver.environ.items():
        monkeypatch.setenv(name, value)
    seen = cuda_flows.campaign(CudaLab(tmp_path), "cpu", timeout_s=2000)
    assert seen.devices == {uuid(0)}
    assert seen.ended == 0, seen.output
    assert seen.status == {
        "the recipe as it is": ("baseline", None),
        cuda_digits.GOOD: ("keep", None),
        "device memory runs out": ("crash", "oom"),
        "an assertion on the device": ("crash", "crash"),
        "a process is left behind": ("discard", None),
        "two ranks": ("discard", None),
    }, seen.told()
    assert list(seen.verdicts.values()) == ["confirmed"] and seen.left == [], seen.told()
    figures = seen.figures()
    assert figures["answers_per_s"] > 0 and figures["runs_of_candidates"] > 15
    json.dumps(figures, allow_nan=False)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", full_size_small.NAMES)
def test_a_small_copy_of_a_full_size_environment_runs_a_trial(name: str, tmp_path: Path) -> None:
    if name == "airbench96":
        pytest.importorskip(
            "torchvision", reason="airbench96 needs torchvision, which this Python does not have"
        )
    seen = cuda_flows.one_trial(CudaLab(tmp_path), name, "cpu")
    assert seen.row.status == "baseline", (seen.row.cause, seen.row.numbers_json, seen.excerpt)
    assert seen.figures["train_s"] and seen.figures["rows"] > 0
    json.dumps(seen.figures, allow_nan=False)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_campaign_leaves_no_candidate(tmp_path: Path) -> None:
    busy = cuda_flows.busy_campaign(CudaLab(tmp_path), "cpu")
    try:
        until(lambda: busy.training() and busy.candidates(), 200, "no training came", busy.told)
        busy.kill()
        until(lambda: busy.free_after(True), 30, "a candidate outlived its engine", busy.told)
    finally:
        busy.clean_up()


def test_every_small_copy_can_be_made(tmp_path: Path) -> None:
    """A recipe that changes under the tests is found here and not on the GPU machine."""
    lab = CudaLab(tmp_path)
    cuda_digits.make(lab.recipes)
    for name in full_size_small.NAMES:
        given = full_size_small.make(tmp_path, lab.recipes, name)
        assert "--repo" in given
    from flows.environments.loading import read_environment

    for name in (cuda_digits.NAME, *full_size_small.NAMES):
        spec = read_environment(lab.recipes / name).spec
        assert spec.budget.gpus == 1 and spec.hardware == "cuda", name


def test_a_run_leaves_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "records" / "gpu.jsonl"
    monkeypatch.setenv("BAKEOFF_GPU_RECORD", str(target))
    record = Record()
    record.outcome("a", "skipped", 0.1, "no GPU here")
    assert record.write() is None and not target.exists(), "a run that saw nothing leaves no line"
    record.device = {"name": "X", "memory_bytes": 1}
    record.outcome("b", "passed", 1.0)
    record.outcome("b", "failed", 0.5, "it was not free")
    record.outcome("b", "passed", 0.25)
    record.note("b", answers_per_s=3.5)
    record.note("b", more=1)
    assert record.write() == target
    (line,) = target.read_text("utf-8").splitlines()
    said = json.loads(line)
    assert said["checks"]["b"] == {"result": "failed", "seconds": 1.75, "why": "it was not free"}
    assert said["figures"] == {"b": {"answers_per_s": 3.5, "more": 1}}
    assert said["packages"]["torch"] and said["device"]["name"] == "X"


def target_output(python: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", "test-gpu", f"PYTHON={python}"],
        cwd=quick.ROOT, env=environ, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_without_a_gpu_the_target_skips_with_the_reason(tmp_path: Path) -> None:
    """As on a machine that has neither a GPU nor this project's plugins of pytest nor its virtual environment."""
    record = tmp_path / "gpu.jsonl"
    environ = {**os.environ, "BAKEOFF_GPU_RECORD": str(record), "CUDA_VISIBLE_DEVICES": ""}
    environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "BAKEOFF_HOME": str(tmp_path / "home")}
    done = target_output(sys.executable, environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no GPU here" in done.stdout and " skipped" in done.stdout, done.stdout
    assert "passed" not in done.stdout and "failed" not in done.stdout, done.stdout
    assert not record.exists()
