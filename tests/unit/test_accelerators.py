"""Discovery against a stand-in of the driver's library: what is found, what may be used, what is said without it."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import workbench
from stand_in_nvml import GIB, NAME, Driver, uuid

from evaluators.judge import accelerators, judge_client
from evaluators.judge.accelerators import DriverFault, choose, require, usable
from evaluators.judge.sandbox import bubblewrap
from evaluators.judge.sandbox.prove_level import prove
from lineage.errors import InfraFault, IsolationRefused, UsageError


def test_devices_are_found_with_what_a_record_needs(driver: Driver) -> None:
    driver.devices(2)
    first, second = accelerators.found()
    assert (first.uuid, first.index, first.minor, first.name) == (uuid(0), 0, 0, NAME)
    assert (first.memory_bytes, first.capability, first.driver) == (80 * GIB, "9.0", "570.124.06")
    assert second.nodes == ("/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")
    assert accelerators.describe([first, second]) == f"2 x {NAME}"


def test_no_driver_no_device_and_an_error_are_one_sentence_each(driver: Driver) -> None:
    with pytest.raises(
        InfraFault,
        match=r"^small needs 1 GPU and this machine shows none \(NVIDIA's driver is not loaded\); ",
    ):
        require(1, "", "small")
    driver.devices(1)
    driver.set("init", 999)
    with pytest.raises(InfraFault, match=r"NVIDIA's driver answers: Unknown Error"):
        require(1, "", "small")
    driver.devices(0)
    with pytest.raises(
        InfraFault, match=r"^small needs 1 GPU; this machine has 0 \(no device\); use a variant"
    ):
        require(1, "", "small")
    assert require(0, "no such device", "on a CPU") == (), "nobody asks where none is needed"


def test_a_driver_that_hangs_is_told_and_not_waited_for(driver: Driver) -> None:
    driver.devices(1)
    driver.set("hang", 1)
    began = time.monotonic()
    with pytest.raises(DriverFault, match=r"did not answer within 0.2 s"):
        accelerators.answered(accelerators.vendor().find, 0.2)
    assert time.monotonic() - began < 2
    driver.set("hang", None)
    time.sleep(1.2)  # the thread that asked must not answer into the next test


def test_a_lost_device_leaves_the_others(driver: Driver) -> None:
    driver.devices(3)
    driver.set("1.error", 15)
    assert [device.index for device in accelerators.found()] == [0, 2]


def test_the_setting_and_cuda_visible_devices_limit_what_is_used(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.devices(4)

    def indices(gpus: str = "") -> list[int]:
        return [device.index for device in usable(gpus)]

    assert indices() == [0, 1, 2, 3]
    assert indices("3, 1") == [1, 3]
    assert indices(f"{uuid(2)},0") == [0, 2]
    assert indices(uuid(2)[:12]) == [2]
    for said, seen in (("2,0", [0, 2]), ("", []), ("-1", []), (uuid(3), [3]), ("1,9,0", [1])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
        assert indices() == seen, said
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    assert indices("2") == [2]
    with pytest.raises(
        UsageError, match=rf"--gpus 3: 3: no such device; this machine has: 1 \({uuid(1)}\), 2"
    ):
        usable("3")
    with pytest.raises(InfraFault, match="needs 4 GPUs; --gpus 1 and CUDA_VISIBLE_DEVICES=1,2 leave 1 "):
        require(4, "1", "large")
    with pytest.raises(UsageError, match="more than one device begins with it"):
        choose(accelerators.found(), "GPU-0000")


def test_a_divided_device_is_its_parts(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.devices(2)
    driver.set("0.parts", 2)
    for part in range(2):
        for key, value in {
            "uuid": f"MIG-{part}-dddd",
            "name": f"{NAME} MIG 3g.40gb",
            "memory": 40 * GIB,
            "used": 0,
        }.items():
            driver.set(f"0.part.{part}.{key}", value)
    monkeypatch.setattr(
        accelerators.vendor(), "_cap_minors", lambda: {"gpu0/gi2/access": "30", "gpu0/gi2/ci0/access": "31"}
    )
    found = accelerators.found()
    assert [device.label for device in found] == ["0:0", "0:1", "1"]
    assert found[1].parent == uuid(0) and found[1].memory_bytes == 40 * GIB
    assert found[1].nodes[-2:] == ("/dev/nvidia-caps/nvidia-cap30", "/dev/nvidia-caps/nvidia-cap31")
    assert [device.label for device in choose(found, "0:1")] == ["0:1"]
    assert [device.label for device in choose(found, "0")] == ["0:0", "0:1"]
    now = accelerators.read(found[1])
    assert (now.used_bytes, now.utilisation, now.energy_mj) == (0, None, None)


def test_a_reading_says_what_runs_there(driver: Driver) -> None:
    driver.devices(
        1, processes="41:1024,42:2048", used=3072, utilisation=87, energy=5000, throttle=0x20 | 0x4
    )
    now = accelerators.read(accelerators.found()[0])
    assert now.processes == {41: 1024, 42: 2048}
    assert (now.used_bytes, now.utilisation, now.energy_mj) == (3072, 0.87, 5000)
    assert now.throttled == {"thermal", "power"}


LOOK = """
import os
import numpy as np

def train(data, out, seed):
    seen = [name for name in ("nvidia230", "nvidia231") if os.path.lexists("/dev/" + name)]
    opened = [name for name in ("nvidia230", "nvidia231") if _opens("/dev/" + name)]
    print("SEEN", os.environ["CUDA_VISIBLE_DEVICES"], seen, opened, flush=True)
    (out / "x").write_bytes(b"x")

def _opens(path):
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError:
        return False
    return True
"""


@pytest.fixture
def nodes() -> Iterator[tuple[str, str]]:
    """Two device files that work without a driver: the null device under the names of two GPUs."""
    paths = ("/dev/nvidia230", "/dev/nvidia231")
    try:
        for path in paths:
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            Path(path).chmod(0o666)
    except OSError as error:
        pytest.skip(f"no device files can be made here: {error}")
    yield paths
    for path in paths:
        Path(path).unlink(missing_ok=True)


@pytest.mark.parametrize("hidden", ["", "1"])
def test_a_candidate_opens_the_nodes_of_its_devices_and_no_others(
    driver: Driver, nodes: tuple[str, str], hidden: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.devices(2)
    monkeypatch.setenv("BAKEOFF_HIDE_BWRAP", hidden)
    try:
        level = prove("medium")
    except IsolationRefused as refused:
        pytest.skip(str(refused))
    first, second = (
        device.model_copy(update={"nodes": (node,)})
        for device, node in zip(accelerators.found(), nodes, strict=True)
    )
    budget = {**workbench.BUDGET, "gpus": 1}
    bench = workbench.classification(tmp_path, level, budget=budget)
    source = workbench.write(tmp_path / "source", {**workbench.CLASSIFIER, "train.py": LOOK})
    for device in (first, second):
        run = judge_client.train(bench, source, 1, tmp_path / f"out{device.index}", devices=(device,))
        own = nodes[device.index].removeprefix("/dev/")
        assert f"SEEN {device.uuid} " in run.facts.log_tail, run
        assert f"['{own}']\n" in run.facts.log_tail, "opens its own and not the other"
        if not hidden:
            assert f" ['{own}'] ['{own}']" in run.facts.log_tail, "and does not see the other"
        assert run.facts.device is not None and run.facts.device.uuids == (device.uuid,)
    with pytest.raises(InfraFault, match="takes 1 devices and got 0"):
        judge_client.train(bench, source, 1, tmp_path / "none")


def test_a_run_without_devices_has_no_node_and_none_visible(driver: Driver) -> None:
    driver.devices(2)
    assert bubblewrap.device_nodes(()) == []
