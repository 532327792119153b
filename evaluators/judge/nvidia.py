"""NVIDIA devices through the vendor's own bindings (`nvidia-ml-py`, module `pynvml`).

Use: by `evaluators.judge.accelerators` only. A device divided by MIG is listed as its instances, which is what a process
can be given. Limits: the library is opened once per process and stays open, because opening a device anew can
take a second; an instance has no energy and no utilisation of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pynvml

from evaluators.judge.accelerators import DriverFault, Reading
from lineage.records import Device

CONTROL = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")
MIG_MINORS = Path("/proc/driver/nvidia-caps/mig-minors")
THERMAL = pynvml.nvmlClocksEventReasonSwThermalSlowdown | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
POWER = (
    pynvml.nvmlClocksEventReasonSwPowerCap
    | pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown
    | pynvml.nvmlClocksThrottleReasonHwSlowdown
)
# Faults of the device, the link or the driver; 13, 31, 43, 45 and others are what a program does wrong.
# https://docs.nvidia.com/deploy/xid-errors/index.html
DEVICE_XIDS = {
    48, 54, 56, 57, 58, 61, 62, 63, 64, 65, 66, 67, 74, 76, 77, 78, 79, 80, 81, 82, 92, 95, 110, 119, 120, 121, 122,
    123, 140, 143, 145, 149, 150, 154, 155, 156,
}  # fmt: skip
_lock = threading.Lock()
_open = False


def _ready() -> None:
    global _open
    with _lock:
        if not _open:
            pynvml.nvmlInit()
            _open = True


def forget() -> None:
    """Close the library: the next question opens it anew. For tests, and for a driver that was loaded later."""
    global _open
    with _lock:
        if _open:
            _open = False
            try:
                pynvml.nvmlShutdown()
            except pynvml.NVMLError:
                pass


def _said(error: pynvml.NVMLError) -> str:
    known = {
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "the library of NVIDIA's driver, libnvidia-ml.so.1, is not installed",
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "NVIDIA's driver is not loaded",
        pynvml.NVML_ERROR_GPU_IS_LOST: "the device is lost",
    }
    return known.get(error.value, f"NVIDIA's driver answers: {error}")


def _ask(question: Callable[[], Any]) -> Any:
    try:
        _ready()
        return question()
    except pynvml.NVMLError as error:
        raise DriverFault(_said(error)) from None


def _maybe(function: Callable[..., Any], *arguments: Any) -> Any:
    """None where this device or driver does not know the question, or does not let us ask it."""
    try:
        return function(*arguments)
    except (
        pynvml.NVMLError_NotSupported,
        pynvml.NVMLError_FunctionNotFound,
        pynvml.NVMLError_NoPermission,
        pynvml.NVMLError_InvalidArgument,
        pynvml.NVMLError_ArgumentVersionMismatch,
        pynvml.NVMLError_NotFound,
    ):
        return None


def find() -> tuple[Device, ...]:
    devices: tuple[Device, ...] = _ask(_find)
    return devices


def _find() -> tuple[Device, ...]:
    driver = str(pynvml.nvmlSystemGetDriverVersion())
    devices: list[Device] = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            whole = _device(handle, index, driver)
        except pynvml.NVMLError_GpuIsLost:  # the others can still be used
            continue
        devices += _instances(handle, whole) or [whole]
    return tuple(devices)


def _device(handle: Any, index: int, driver: str) -> Device:
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    number = pynvml.nvmlDeviceGetMinorNumber(handle)
    return Device(
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        index=index,
        minor=number,
        name=pynvml.nvmlDeviceGetName(handle),
        memory_bytes=pynvml.nvmlDeviceGetMemoryInfo(handle).total,
        capability=f"{major}.{minor}",
        driver=driver,
        nodes=(f"/dev/nvidia{number}", *CONTROL),
    )


def _instances(handle: Any, whole: Device) -> list[Device]:
    """MIG instances; none for a device that is not divided."""
    mode = _maybe(pynvml.nvmlDeviceGetMigMode, handle)
    if not mode or mode[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
        return []
    minors = _cap_minors()
    parts: list[Device] = []
    for at in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        part = _maybe(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, at)
        if part is None:
            continue
        gpu, compute = pynvml.nvmlDeviceGetGpuInstanceId(part), pynvml.nvmlDeviceGetComputeInstanceId(part)
        wanted = (f"gpu{whole.minor}/gi{gpu}/access", f"gpu{whole.minor}/gi{gpu}/ci{compute}/access")
        caps = tuple(f"/dev/nvidia-caps/nvidia-cap{minors[name]}" for name in wanted if name in minors)
        parts.append(
            whole.model_copy(
                update={
                    "uuid": pynvml.nvmlDeviceGetUUID(part),
                    "part": at,
                    "parent": whole.uuid,
                    "name": pynvml.nvmlDeviceGetName(part),
                    "memory_bytes": pynvml.nvmlDeviceGetMemoryInfo(part).total,
                    "nodes": (*whole.nodes, *caps),
                }
            )
        )
    return parts


def _cap_minors() -> dict[str, str]:
    """`gpu0/gi1/access` to the minor number of its node."""
    try:
        lines = MIG_MINORS.read_text("ascii").splitlines()
    except OSError:
        return {}
    pairs = (line.rpartition(" ") for line in lines)
    return {name: minor for name, _, minor in pairs if name}


def read(device: Device) -> Reading:
    reading: Reading = _ask(lambda: _read(device))
    return reading


def _read(device: Device) -> Reading:
    handle = pynvml.nvmlDeviceGetHandleByUUID(device.uuid)
    # the newer question leaves out what the driver itself reserves
    memory = _maybe(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
    memory = memory or pynvml.nvmlDeviceGetMemoryInfo(handle)
    running = _maybe(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
    rates = None if device.parent else _maybe(pynvml.nvmlDeviceGetUtilizationRates, handle)
    reasons = 0 if device.parent else _maybe(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle) or 0
    held = {"thermal": reasons & THERMAL, "power": reasons & POWER}
    return Reading(
        used_bytes=int(memory.used),
        processes={int(one.pid): int(one.usedGpuMemory or 0) for one in running},
        utilisation=rates.gpu / 100 if rates is not None else None,
        energy_mj=None if device.parent else _maybe(pynvml.nvmlDeviceGetTotalEnergyConsumption, handle),
        throttled=frozenset(name for name, on in held.items() if on),
    )


def library() -> str:
    """From the process's own map: the loader's search path need not be that of another process."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(maxsplit=5)[5] for line in lines if "libnvidia-ml.so" in line), "")


class _Listener:
    """Xids that blame the device, and uncorrected memory errors that were counted meanwhile."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self.devices = tuple(devices)
        self.events = _maybe(pynvml.nvmlEventSetCreate)
        self.errors: dict[str, int] = {}
        for device in self.devices:
            if self.events is not None:
                handle = pynvml.nvmlDeviceGetHandleByUUID(device.parent or device.uuid)
                _maybe(
                    pynvml.nvmlDeviceRegisterEvents, handle, pynvml.nvmlEventTypeXidCriticalError, self.events
                )
            self.errors[device.uuid] = _uncorrected(device)

    def faults(self) -> list[str]:
        faults: list[str] = _ask(self._read_faults)
        return faults

    def _read_faults(self) -> list[str]:
        faults = []
        while self.events is not None:
            try:
                event = pynvml.nvmlEventSetWait(self.events, 0)
            except pynvml.NVMLError_Timeout:
                break
            except pynvml.NVMLError_NotSupported:
                self.events = None
                break
            if event.eventData in DEVICE_XIDS:
                faults.append(f"Xid {event.eventData} on {pynvml.nvmlDeviceGetUUID(event.device)}")
        for device in self.devices:
            now = _uncorrected(device)
            if now > self.errors[device.uuid]:
                faults.append(f"{now - self.errors[device.uuid]} uncorrected memory errors on {device.uuid}")
                self.errors[device.uuid] = now
        return faults

    def close(self) -> None:
        if self.events is not None:
            _maybe(pynvml.nvmlEventSetFree, self.events)
            self.events = None


def _uncorrected(device: Device) -> int:
    handle = pynvml.nvmlDeviceGetHandleByUUID(device.parent or device.uuid)
    kinds = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
    return int(_maybe(pynvml.nvmlDeviceGetTotalEccErrors, handle, *kinds) or 0)


def listen(devices: Sequence[Device]) -> _Listener:
    listener: _Listener = _ask(lambda: _Listener(devices))
    return listener
