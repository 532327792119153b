"""Holds of devices: exclusive, fair, given back by the kernel, free before and after, by the driver's word."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from stand_in_nvml import GIB, Driver, uuid

from evaluators.judge import accelerators
from flows.machine import device_holds
from flows.machine.device_holds import busy_devices, hold, place, slots_of
from flows.machine.slots import SlotCancelled
from lineage.errors import InfraFault
from lineage.records import Device

# hold N devices, COUNT times (0: until the file STOP is there), SECONDS each; two lines per hold
CHILD = """
import json, os, sys, time
from evaluators.judge.accelerators import found
from flows.machine.device_holds import hold
needed, count, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
done = 0
while done < count or (not count and not os.path.exists(sys.argv[4])):
    done += 1
    with hold(needed, found()) as held:
        began = time.monotonic()
        print(json.dumps({"uuids": [d.uuid for d in held], "began": began}), flush=True)
        time.sleep(seconds)
        print(json.dumps({"ended": time.monotonic()}), flush=True)
"""


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKEOFF_HOME", str(tmp_path / "home"))


def start(driver: Driver, needed: int, count: int, seconds: float, stop: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(needed), str(count), str(seconds), stop],
        env={**os.environ, **driver.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def spans(child: subprocess.Popen[str]) -> list[tuple[float, float, list[str]]]:
    out, _ = child.communicate(timeout=90)
    assert child.returncode == 0
    lines = [json.loads(line) for line in out.splitlines()]
    pairs = zip(lines[::2], lines[1::2], strict=True)
    return [(first["began"], second["ended"], first["uuids"]) for first, second in pairs]


def test_campaigns_with_one_and_with_four_devices_never_share_one_and_both_get_on(
    driver: Driver, tmp_path: Path
) -> None:
    driver.devices(4)
    stop = tmp_path / "stop"
    small = [
        start(driver, 1, 0, 0.15, str(stop)) for _ in range(5)
    ]  # more than devices: always somebody waits
    try:
        of_large = spans(start(driver, 4, 3, 0.1))
    finally:
        stop.touch()
    of_small = [span for child in small for span in spans(child)]
    assert [len(held) for _, _, held in of_large] == [4, 4, 4]
    taken = sorted(of_large + of_small)
    for at, (_, ended, held) in enumerate(taken):
        clash = [other for other in taken[at + 1 :] if other[0] < ended and set(other[2]) & set(held)]
        assert not clash, "a device was held twice at one moment"
    assert len({held[0] for _, _, held in of_small}) == 4


def test_a_killed_holder_and_a_killed_waiter_are_gone_at_once(driver: Driver) -> None:
    driver.devices(1)
    holder, waiter = start(driver, 1, 1, 60), None
    try:
        assert holder.stdout is not None
        assert json.loads(holder.stdout.readline())["uuids"] == [uuid(0)]
        assert busy_devices() == 1
        waiter = start(driver, 1, 1, 60)
        line = device_holds.device_folder() / "line"
        while not list(line.iterdir()):
            time.sleep(0.02)
        cancel = threading.Event()
        cancel.set()
        with pytest.raises(SlotCancelled), hold(1, accelerators.found(), cancel):
            pass
        waiter.send_signal(signal.SIGKILL)
        waiter.wait()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with hold(1, accelerators.found()) as held:
            assert [device.uuid for device in held] == [uuid(0)]
        assert list(line.iterdir()) == [], "a dead one's place in the line is cleared away"
    finally:
        for child in (holder, waiter):
            if child is not None:
                child.kill()
                child.wait()
                assert child.stdout is not None
                child.stdout.close()


def test_a_clock_that_is_put_back_does_not_let_two_wait_with_half_of_what_they_need(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both would hold one of two devices and wait for the other for ever."""
    driver.devices(2)
    devices = accelerators.found()
    clock = iter(range(10**18, 0, -(10**9)))
    monkeypatch.setattr(device_holds.time, "time_ns", lambda: next(clock))
    done: list[int] = []

    def both(number: int) -> None:
        with hold(2, devices):
            done.append(number)

    for _ in range(5):
        done.clear()
        with hold(1, devices[1:]):
            waiters = [threading.Thread(target=both, args=(number,), daemon=True) for number in range(3)]
            for waiter in waiters:
                waiter.start()
                time.sleep(0.15)
            places = sorted((device_holds.device_folder() / "line").iterdir())
            assert len(places) == 3, "each has a place, the first of them among the devices"
        for waiter in waiters:
            waiter.join(20)
        assert done == [0, 1, 2], "in the order in which they came"


def test_devices_of_others_in_the_line_do_not_block_one_another(driver: Driver) -> None:
    driver.devices(2)
    first, second = accelerators.found()
    with hold(1, [first]):
        waiting = threading.Thread(target=lambda: _hold_once([first]))
        waiting.start()
        with hold(1, [second]) as held:
            assert held == (second,)
    waiting.join(10)
    assert not waiting.is_alive()


def _hold_once(devices: list[Device]) -> None:
    with hold(1, devices):
        pass


def test_a_device_in_use_by_somebody_else_is_waited_for_and_told(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_holds, "SAY_AFTER_S", 0.1)
    driver.devices(2, processes=f"4711:{3 * GIB}", used=3 * GIB)
    told: list[str] = []

    def free() -> None:
        while not told:
            time.sleep(0.02)
        driver.set("1.processes", None)
        driver.set("1.used", 0)

    helper = threading.Thread(target=free)
    helper.start()
    with hold(1, accelerators.found(), told=told.append) as held:
        assert [device.index for device in held] == [1], "the one that became free"
    helper.join()
    assert told == ["waiting for GPU 0: process 4711 (3072 MiB); GPU 1: process 4711 (3072 MiB)"]
    with (
        pytest.raises(InfraFault, match=r"not free after 0.2 s: GPU 0: process 4711 .*--gpus") as caught,
        hold(2, accelerators.found(), busy_s=0.2),
    ):
        pass
    assert caught.value.what == "busy_accelerator"
    assert busy_devices() == 0


@pytest.mark.parametrize(
    ("key", "value", "said"), [("used", 6 * GIB, "6144 MiB"), ("utilisation", 50, "50% busy")]
)
def test_what_a_container_hides_still_shows(driver: Driver, key: str, value: int, said: str) -> None:
    driver.devices(1, **{key: value})
    with pytest.raises(InfraFault, match=said), hold(1, accelerators.found(), busy_s=0):
        pass


def test_a_run_s_memory_is_gone_before_its_device_is_given_back(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.devices(1)
    devices = accelerators.found()
    with hold(1, devices):
        driver.set("0.used", 10 * GIB)
        later = threading.Timer(0.4, lambda: driver.set("0.used", 0))
        later.start()
        began = time.monotonic()
    assert time.monotonic() - began > 0.3
    later.join()
    told: list[str] = []
    monkeypatch.setattr(device_holds, "RELEASE_S", 0.2)
    with hold(1, devices, told=told.append):
        driver.set("0.processes", f"99:{GIB}")
    assert told == ["0.2 s after the run: GPU 0: processes [99] are still on it"]


def test_a_device_at_fault_is_taken_last(driver: Driver) -> None:
    driver.devices(2)
    devices = accelerators.found()
    with pytest.raises(InfraFault, match="Xid 79"), hold(1, devices) as held:
        assert held[0].index == 0
        raise InfraFault("accelerator", f"Xid 79 on {held[0].uuid}")
    with hold(1, devices) as held:
        assert held[0].index == 1, "another one is there"
        with hold(1, devices) as second:
            assert second[0].index == 0, "no other one is there"
    driver.set("1.error", 15)
    with pytest.raises(InfraFault, match=r"GPU 1 .*: the device is lost"), hold(1, devices[1:]):
        pass


def test_slots_are_what_was_set_or_what_the_devices_allow(driver: Driver) -> None:
    driver.devices(8)
    devices = accelerators.found()
    assert [slots_of(0, n, devices) for n in (0, 1, 2, 4, 8)] == [2, 8, 4, 2, 1]
    assert [slots_of(3, n, devices) for n in (0, 1, 4)] == [3, 3, 2]
    with place(0, devices, 1) as held:
        assert held == ()
