"""The accelerators of this machine: what they are, which of them may be used, what they do now.

Use: `found()` lists them, `choose(found(), "0,2")` those that a setting names, `require(n, gpus)` those that an
environment may use or one sentence that says what is missing, `read(device)` and `Faults` what the driver says
now. Every vendor has a module of its own beside this one (`nvidia`) with the functions of `Vendor`.
Limits: a machine without an accelerator, a driver or a driver's library is nothing wrong until a device is asked for.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from lineage.errors import InfraFault, UsageError
from lineage.records import Device

# without the persistence daemon a driver opens each device anew, about a second for each of eight
ANSWER_S = 30.0
T = TypeVar("T")


class DriverFault(Exception):
    """The driver answered with an error, or not at all; `str(error)` is a clause for a sentence."""


class Reading:
    """What the driver says of one device at one moment; None is a figure that this device does not give."""

    __slots__ = ("energy_mj", "processes", "throttled", "used_bytes", "utilisation")

    def __init__(
        self,
        used_bytes: int | None = None,
        processes: dict[int, int] | None = None,
        utilisation: float | None = None,
        energy_mj: int | None = None,
        throttled: frozenset[str] = frozenset(),
    ) -> None:
        self.used_bytes = used_bytes
        self.processes = processes or {}  # process id, as the driver counts them, to bytes
        self.utilisation = utilisation  # 0 to 1
        self.energy_mj = energy_mj  # since the driver was loaded
        self.throttled = throttled  # of "thermal", "power"


class Listener(Protocol):
    """Collects the faults of some devices while it is open."""

    def faults(self) -> list[str]:
        """Faults since the last call, each a clause that names the device."""

    def close(self) -> None: ...


class Vendor(Protocol):
    def find(self) -> tuple[Device, ...]:
        """Devices in the driver's order. Raises DriverFault."""

    def read(self, device: Device) -> Reading:
        """Raises DriverFault."""

    def listen(self, devices: Sequence[Device]) -> Listener: ...

    def library(self) -> str:
        """Path of the driver's library that is loaded; empty for none."""


def vendor() -> Vendor:
    """The module that speaks to this machine's driver."""
    from evaluators.judge import nvidia

    return nvidia


def answered(ask: Callable[[], T], within_s: float = ANSWER_S) -> T:
    """Call the driver in a thread, because one that hangs cannot be interrupted. Raises DriverFault."""
    kept: list[T] = []
    fault: list[BaseException] = []

    def work() -> None:
        try:
            kept.append(ask())
        except BaseException as error:
            fault.append(error)

    thread = threading.Thread(target=work, name="driver", daemon=True)
    thread.start()
    thread.join(within_s)
    if fault:
        raise fault[0]
    if not kept:
        raise DriverFault(f"the driver did not answer within {within_s:g} s")
    return kept[0]


def found() -> tuple[Device, ...]:
    """Every accelerator that the driver shows, in its order. Raises DriverFault."""
    return answered(vendor().find)


def read(device: Device) -> Reading:
    """What one device does now. Raises DriverFault."""
    return vendor().read(device)


def use_library(path: str) -> None:
    """Load the driver's library from where another process of ours found it."""
    if path:
        import ctypes

        ctypes.CDLL(path)


def choose(devices: Sequence[Device], wanted: str, whose: str = "--gpus") -> tuple[Device, ...]:
    """The devices that a list of indices and UUIDs names, in the driver's order; an empty list names all.

    An index is that of `nvidia-smi`, a part of a divided device is `0:1`; the start of a UUID will do. Raises UsageError.
    """
    names = [name for name in (part.strip() for part in wanted.split(",")) if name]
    if not names:
        return tuple(devices)
    taken: set[str] = set()
    for name in names:
        fits = [d for d in devices if d.label == name or str(d.index) == name or _starts(d, name)]
        if not fits or (len({d.index for d in fits}) > 1):
            known = ", ".join(f"{d.label} ({d.uuid})" for d in devices) or "none"
            why = "more than one device begins with it" if fits else "no such device"
            raise UsageError(f"{whose} {wanted}: {name}: {why}; this machine has: {known}")
        taken |= {d.uuid for d in fits}
    return tuple(d for d in devices if d.uuid in taken)


def _starts(device: Device, name: str) -> bool:
    return len(name) > 4 and (device.uuid.startswith(name) or (bool(device.parent) and device.parent == name))


def visible(devices: Sequence[Device]) -> tuple[Device, ...]:
    """Those that the engine's own CUDA_VISIBLE_DEVICES leaves; as with CUDA, the list ends at the first unknown one."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is None:
        return tuple(devices)
    taken: list[Device] = []
    for name in (part.strip() for part in said.split(",")):
        try:
            fits = choose(devices, name) if name else ()
        except UsageError:
            fits = ()
        if not fits:
            break
        taken += fits
    return tuple(d for d in devices if d in taken)


def usable(gpus: str = "") -> tuple[Device, ...]:
    """What the engine may use here: visible to it, and named by the setting where there is one.

    Raises DriverFault, and UsageError for a name that fits nothing.
    """
    return choose(visible(found()), gpus)


def require(needed: int, gpus: str, whose: str) -> tuple[Device, ...]:
    """The devices that runs of an environment may use on this machine; none for one that needs none.

    Raises InfraFault with one sentence when there are fewer than one run needs.
    """
    if needed < 1:
        return ()
    word = "GPU" if needed == 1 else "GPUs"
    try:
        devices = usable(gpus)
    except DriverFault as fault:
        raise InfraFault(
            "accelerator",
            f"{whose} needs {needed} {word} and this machine shows none ({fault}); run it on a machine with "
            f"{needed} NVIDIA {word} and the driver, or choose an environment that runs on CPUs: bakeoff environments",
        ) from None
    if len(devices) < needed:
        raise InfraFault("accelerator", f"{whose} needs {needed} {word}; {_short(devices, gpus)}")
    return devices


def _short(devices: Sequence[Device], gpus: str) -> str:
    limits = [f"--gpus {gpus}"] if gpus else []
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    limits += [f"CUDA_VISIBLE_DEVICES={said}"] if said is not None else []
    what = ", ".join(f"{d.label} {d.name}" for d in devices) or "no device"
    where = f"{' and '.join(limits)} leave{'s' if len(limits) == 1 else ''}" if limits else "this machine has"
    less = "name more of them, " if limits else ""
    return (
        f"{where} {len(devices)} ({what}); {less}use a variant for fewer (bakeoff environments lists them), "
        "or run it on a larger machine"
    )


def describe(devices: Iterable[Device]) -> str:
    """Model and number, as a record has it: `2 x NVIDIA H100 80GB HBM3`; empty without devices."""
    names: dict[str, int] = {}
    for device in devices:
        names[device.name] = names.get(device.name, 0) + 1
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in names.items())
