"""What ends a run on a device: whose fault it was, with numbers, by the driver's word and never the candidate's."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from stand_in_nvml import GIB, Driver, uuid

from evaluators.judge import accelerators, failure_causes
from evaluators.judge.device_watch import Watch
from evaluators.judge.sandbox.bubblewrap import Limits
from lineage.records import DeviceUse

LIMITS = Limits(start_cpu_s=10, start_wall_s=60, cpu_s=5, wall_s=20, memory=1 << 28, processes=16)
NEW = (
    "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.25 GiB of "
    "which 3.50 GiB is free. Including non-PyTorch memory, this process has 75.75 GiB memory in use."
)
OLD = (
    "RuntimeError: CUDA out of memory. Tried to allocate 512.00 MiB (GPU 0; 23.69 GiB total capacity; 20.59 GiB "
    "already allocated; 105.00 MiB free; 21.00 GiB reserved in total by PyTorch)"
)


def final(**changes: Any) -> dict[str, Any]:
    plain = {
        "end": "exit", "code": 1, "started": True, "cpu_s": 1.0, "wall_s": 1.0, "start_cpu_s": 1.0,
        "start_wall_s": 1.0, "peak_bytes": 7, "oom_kills": 0, "log_tail": "", "exception": "", "detail": "",
        "phase": "run", "stage": "", "rule": "", "artifact": None,
    }  # fmt: skip
    return {**plain, **changes}


def use(*faults: str) -> DeviceUse:
    return DeviceUse(uuids=(uuid(0),), began=datetime.now(UTC), ended=datetime.now(UTC), faults=faults)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [(NEW, (20 * GIB, 3.5 * GIB, 79.25 * GIB)), (OLD, (GIB / 2, 105 * 2**20, 23.69 * GIB))],
)
def test_memory_of_a_device_that_ran_out_has_its_numbers(text: str, numbers: tuple[float, ...]) -> None:
    for told in ({"exception": text}, {"exception": "OutOfMemoryError: out of memory", "log_tail": text}):
        cause, found = failure_causes.explain(final(**told), LIMITS)
        assert cause == "oom"
        assert [found[f"{name}_bytes"] for name in ("asked", "free", "total")] == [int(n) for n in numbers]
        assert "cap_bytes" not in found, "the cap of the host's memory had no part in it"


@pytest.mark.parametrize(
    "text",
    ["CUDA error: device-side assert triggered", "CUDA error: an illegal memory access was encountered"],
)
def test_what_a_program_does_wrong_on_a_device_is_its_crash(text: str) -> None:
    assert (
        failure_causes.explain(final(exception=f"AcceleratorError: {text}", device=use()), LIMITS)[0]
        == "crash"
    )
    assert (
        failure_causes.explain(final(end="signal", code=6, log_tail=text, device=use()), LIMITS)[0] == "crash"
    )


def test_only_the_driver_can_blame_a_device() -> None:
    claimed = "RuntimeError: CUDA error: uncorrectable ECC error encountered"
    assert failure_causes.explain(final(exception=claimed, device=use()), LIMITS)[0] == "crash"
    cause, numbers = failure_causes.explain(
        final(exception=claimed, device=use(f"Xid 48 on {uuid(0)}")), LIMITS
    )
    assert (cause, numbers["detail"]) == ("infra:accelerator", f"Xid 48 on {uuid(0)}")
    cancelled = final(end="infra", detail="cancelled", device=use("the device is lost"))
    assert failure_causes.explain(cancelled, LIMITS)[0] == "abandoned"


def test_a_run_is_watched_through_the_driver(driver: Driver) -> None:
    driver.devices(2, used=GIB, energy=1000)
    with Watch(accelerators.found()) as watch:
        driver.set("0.used", 11 * GIB)
        driver.set("1.throttle", 0x20)
        for index in range(2):
            driver.set(f"{index}.utilisation", 80)
        time.sleep(0.7)
        driver.set("0.used", 2 * GIB)
        driver.set("0.energy", 6000)
        driver.set("1.throttle", 0)
    found = watch.use
    assert found is not None and found.uuids == (uuid(0), uuid(1))
    assert (found.peak_bytes, found.energy_j, found.faults) == (10 * GIB, 5.0, ())
    assert found.utilisation is not None and 0.3 < found.utilisation <= 0.8
    assert set(found.throttled) == {"thermal"} and 0 < found.throttled["thermal"] < 1


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("xid", 79, f"Xid 79 on {uuid(0)}"),
        ("xid", 31, None),  # an illegal address: the program's fault
        ("ecc", 2, f"2 uncorrected memory errors on {uuid(0)}"),
        ("error", 15, f"the device is lost ({uuid(0)})"),
    ],
)
def test_a_fault_of_a_device_is_heard(driver: Driver, key: str, value: int, said: str | None) -> None:
    driver.devices(1)
    with Watch(accelerators.found()) as watch:
        driver.set(f"0.{key}", value)
    assert watch.use is not None
    assert watch.use.faults == ((said,) if said else ())
