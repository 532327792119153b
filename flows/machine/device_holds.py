"""Where a candidate runs: one of the campaign's slots, and the accelerators that it has to itself meanwhile.

Use: `with place(spec, devices, slots, ...) as held:` and give `held` to the run. Without GPUs in the budget that is
`slots.slot` and no device. Else it is n locks, one file per device UUID under this machine's home, shared by all
campaigns and given back by the kernel when the holder dies.

Whoever waits for devices stands in a line, first come first served among those that could use the same
devices, and keeps what it has got so far. So a campaign with four devices a run is not passed by for ever by
campaigns with one, and since only the first in line takes devices, no two wait for each other.

A device counts as free only when nobody's process or memory is on it, and is given back only when those of the
run are gone from it, both by the driver's word. Limits: BAKEOFF_HOME must be a local disk; a program that does not
go through here (another user's) is seen on the device, and waited for.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from evaluators.judge import accelerators
from flows.machine.folders import home, run_key
from flows.machine.slots import POLL_SECONDS, SlotCancelled, slot
from flows.machine.waiting_line import place_in_line
from lineage.environment_spec import EnvironmentSpec
from lineage.errors import InfraFault, UsageError
from lineage.records import Device, Number

Told = Callable[[str], None]
MIB = 1 << 20
BUSY_S = 300.0  # how long a device that somebody else uses is waited for
RELEASE_S = 20.0  # how long a run's memory may take to go after its processes are gone
IDLE_SHARE, IDLE_BYTES = 0.05, 1536 * MIB  # what a driver and a desktop keep on a device
LEFT_BYTES = 256 * MIB
SAY_AFTER_S = 2.0  # the utilisation that a driver gives is of the last second
BUSY_UTILISATION = 0.05  # of processes that a container does not show
FAULT_MEMORY_S = 3600.0  # a device that was at fault is taken last for so long
DEFAULT_CPU_SLOTS = 2


def slots_of(wanted: int, needed: int, devices: Sequence[Device]) -> int:
    """How many candidates run at once here: what was set, or as many as the devices allow; 2 on CPUs."""
    if needed < 1:
        return wanted or DEFAULT_CPU_SLOTS
    fit = len(devices) // needed
    return max(1, min(wanted, fit) if wanted else fit)


def require(spec: EnvironmentSpec, gpus: str) -> tuple[Device, ...]:
    """The devices that an environment's runs may use here. Raises InfraFault when they are too few for one."""
    return accelerators.require(spec.budget.gpus, gpus, spec.name)


def devices_here(spec: EnvironmentSpec, gpus: str) -> tuple[Device, ...]:
    """The same for a process that need not run anything itself: none where they are too few."""
    try:
        return require(spec, gpus)
    except (InfraFault, UsageError):
        return ()


def slots_key(root: str, campaign: str) -> str:
    return f"{run_key(root)}-{campaign}"


def slot_kind(needed: int, whose: str) -> str:
    """The name of a set of slots: the machine's for CPUs; a campaign's own where the devices are the limit."""
    return f"gpu-{whose}" if needed else "cpu"


def device_folder() -> Path:
    return home() / "slots" / "devices"


@contextmanager
def place(
    needed: int,
    devices: Sequence[Device],
    slots: int,
    *,
    whose: str = "gpu",
    cancel: threading.Event | None = None,
    told: Told | None = None,
    busy_s: float | None = None,
    rank: int = 0,
) -> Iterator[tuple[Device, ...]]:
    """Hold a slot and `needed` of `devices`; yields those. Blocks until both are free.

    `whose` tells apart whose slots are counted where devices are held: without devices they are the machine's. `rank`:
    of the place in the line for a slot (`flows.machine.waiting_line`), such as how many runs the trial has had already.
    Raises SlotCancelled when `cancel` is set while waiting, InfraFault `busy_accelerator` when somebody else's
    processes stay on the devices for `busy_s`, InfraFault `accelerator` when the driver fails.
    """
    with slot(slot_kind(needed, whose), slots, cancel, rank):
        if needed < 1:
            yield ()
            return
        with hold(needed, devices, cancel, told, busy_s) as held:
            yield held


@contextmanager
def hold(
    needed: int,
    devices: Sequence[Device],
    cancel: threading.Event | None = None,
    told: Told | None = None,
    busy_s: float | None = None,
) -> Iterator[tuple[Device, ...]]:
    """The devices alone; see `place`."""
    say = told or (lambda _: None)
    if len(devices) < needed:
        raise InfraFault("accelerator", f"{needed} devices are needed and {len(devices)} can be used here")
    locks = _Locks(needed, devices)
    try:
        with _line(devices, cancel):
            locks.take(cancel, say, BUSY_S if busy_s is None else busy_s)
        before = {device.uuid: _used(device) for device in locks.held}
        try:
            yield locks.held
        except InfraFault as fault:
            if fault.what == "accelerator":
                locks.blame(str(fault))
            raise
        finally:
            locks.wait_until_left(before, say)
    finally:
        locks.close()


class _Locks:
    """The locks that one hold has so far, by device."""

    def __init__(self, needed: int, devices: Sequence[Device]) -> None:
        self.needed, self.devices = needed, tuple(devices)
        self._handles: dict[str, int] = {}

    @property
    def held(self) -> tuple[Device, ...]:
        return tuple(device for device in self.devices if device.uuid in self._handles)

    def take(self, cancel: threading.Event | None, say: Told, busy_s: float) -> None:
        since: float | None = None
        said = False
        while True:
            occupied = self._try()
            if len(self._handles) == self.needed:
                return
            if cancel is not None and cancel.is_set():
                raise SlotCancelled
            waited = 0.0 if since is None else time.monotonic() - since
            if len(self._handles) + len(occupied) < self.needed:
                since = None  # held by runs of ours, which end
            elif since is None:
                since = time.monotonic()
            elif waited > SAY_AFTER_S and not said:
                said = True
                say(f"waiting for {'; '.join(occupied)}")
            if waited > busy_s:
                raise InfraFault(
                    "busy_accelerator",
                    f"not free after {busy_s:g} s: {'; '.join(occupied)}; end what runs there, or name other devices with --gpus",
                )
            time.sleep(POLL_SECONDS)

    def _try(self) -> list[str]:
        """Lock what can be locked; says which devices could have been, and what is on them."""
        occupied: list[str] = []
        for device in sorted(self.devices, key=lambda d: (_faulted(d), d.index, d.part or 0)):
            if len(self._handles) == self.needed:
                break
            if device.uuid in self._handles:
                continue
            handle = _lock(device)
            if handle is None:
                continue
            why = _occupied(device)
            if why:
                os.close(handle)
                occupied.append(why)
            else:
                self._handles[device.uuid] = handle
        return occupied

    def blame(self, text: str) -> None:
        """Remember which device was at fault, so that a further try takes another one where there is one."""
        named = [device for device in self.held if device.uuid in text or device.parent in text.split()]
        for device in named or self.held:
            path = _path(device).with_suffix(".fault")
            path.write_text(text, "utf-8")

    def wait_until_left(self, before: dict[str, int | None], say: Told) -> None:
        """Until the run's memory is gone. One that stays is taken last from now on, and the next one waits for it."""
        until = time.monotonic() + RELEASE_S
        for device in self.held:
            left = _left(device, before[device.uuid])
            while left and time.monotonic() < until:
                time.sleep(POLL_SECONDS)
                left = _left(device, before[device.uuid])
            if left:
                _path(device).with_suffix(".fault").write_text(left, "utf-8")
                say(f"{RELEASE_S:g} s after the run: {left}")

    def close(self) -> None:
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()


def _path(device: Device) -> Path:
    return device_folder() / f"{device.uuid.replace('/', '_')}.lock"


def _lock(device: Device) -> int | None:
    path = _path(device)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle


def _faulted(device: Device) -> bool:
    try:
        age = time.time() - _path(device).with_suffix(".fault").stat().st_mtime
    except OSError:
        return False
    return age < FAULT_MEMORY_S


def _reading(device: Device) -> accelerators.Reading:
    """Raises InfraFault `accelerator` when the driver does not say."""
    try:
        return accelerators.answered(lambda: accelerators.read(device))
    except accelerators.DriverFault as fault:
        text = f"GPU {device.label} ({device.uuid}): {fault}"
        _path(device).with_suffix(".fault").write_text(text, "utf-8")
        raise InfraFault("accelerator", text) from None


def _used(device: Device) -> int | None:
    return _reading(device).used_bytes


def _occupied(device: Device) -> str:
    """What of somebody else's is on a device that nobody of ours holds, as a clause; empty when it is free."""
    now = _reading(device)
    if now.processes:
        listed = ", ".join(
            f"process {pid} ({size // MIB} MiB)" for pid, size in sorted(now.processes.items())
        )
        return f"GPU {device.label}: {listed}"
    if now.used_bytes is not None and now.used_bytes > max(IDLE_BYTES, IDLE_SHARE * device.memory_bytes):
        return f"GPU {device.label}: {now.used_bytes // MIB} MiB of memory in use by a process that is not shown here"
    if now.utilisation is not None and now.utilisation > BUSY_UTILISATION:
        return f"GPU {device.label}: {now.utilisation:.0%} busy with a process that is not shown here"
    return ""


def _left(device: Device, before: int | None) -> str:
    try:
        now = accelerators.answered(lambda: accelerators.read(device))
    except accelerators.DriverFault as fault:
        return f"GPU {device.label}: {fault}"
    if now.processes:
        return f"GPU {device.label}: processes {sorted(now.processes)} are still on it"
    if before is not None and now.used_bytes is not None and now.used_bytes > before + LEFT_BYTES:
        return f"GPU {device.label}: {(now.used_bytes - before) // MIB} MiB more in use than before"
    return ""


@contextmanager
def _line(devices: Sequence[Device], cancel: threading.Event | None) -> Iterator[None]:
    """Wait in line for these devices; entered when nobody who could use one of them came before."""
    with place_in_line(device_folder(), {device.uuid for device in devices}) as ahead:
        while ahead():
            if cancel is not None and cancel.is_set():
                raise SlotCancelled
            time.sleep(POLL_SECONDS)
        yield


def busy_devices() -> int:
    """How many devices are held now, by anyone on this machine."""
    held = 0
    for path in device_folder().glob("*.lock"):
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held += 1
        finally:
            os.close(handle)
    return held


def raise_if_infra(cause: Number | None, text: str) -> None:
    """A fault of ours inside a hold: what was held is then known for it, and the stage is tried again."""
    head, _, what = str(cause or "").partition(":")
    if head == "infra":
        raise InfraFault(what, text)
