"""Watches the devices of one run from outside, as its driver reports: memory, energy, utilisation, lowered clocks, faults.

Use: `with Watch(devices) as watch: ...`, then `watch.use`; None for a run without devices. Limits: five looks a
second, so a peak between two of them is missed; what a device that is divided does not say for a part is None.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType

from evaluators.judge import accelerators
from lineage.records import Device, DeviceUse

LOOK_S = 0.2
LAST_LOOK_S = 10.0


class Watch:
    """A thread of its own, so that a driver that hangs delays the end of a run by `LAST_LOOK_S` and no more."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self.devices = tuple(devices)
        self.use: DeviceUse | None = None
        self._over = threading.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._work, name="devices", daemon=True)
        self._first: dict[str, accelerators.Reading] = {}
        self._last: dict[str, accelerators.Reading] = {}
        self._peaks: Counter[str] = Counter()
        self._utilisation: list[float] = []
        self._throttled: Counter[str] = Counter()
        self._looks = 0
        self._faults: list[str] = []

    def __enter__(self) -> Watch:
        if self.devices:
            self.began = datetime.now(UTC)
            self._thread.start()
            self._started.wait(accelerators.ANSWER_S)  # the first look is of the devices before the run
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.devices:
            return
        self._over.set()
        self._thread.join(LAST_LOOK_S)
        faults = list(dict.fromkeys(self._faults))
        if self._thread.is_alive():
            faults.append(f"the driver did not answer for {LAST_LOOK_S:g} s about {self.devices[0].uuid}")
        self.use = self._summed(faults)

    def _work(self) -> None:
        try:
            listener = accelerators.vendor().listen(self.devices)
        except accelerators.DriverFault as fault:
            self._faults.append(f"{fault} ({self.devices[0].uuid})")
            self._started.set()
            return
        try:
            while True:
                over = self._over.is_set()
                if not self._look(listener) or over:
                    return
                self._started.set()
                self._over.wait(LOOK_S)
        finally:
            self._started.set()
            listener.close()

    def _look(self, listener: accelerators.Listener) -> bool:
        """One look at every device; False when there is nothing more to learn."""
        lowered: set[str] = set()
        for device in self.devices:
            try:
                now = accelerators.read(device)
            except accelerators.DriverFault as fault:
                self._faults.append(f"{fault} ({device.uuid})")
                return False
            first = self._first.setdefault(device.uuid, now)
            self._last[device.uuid] = now
            if now.used_bytes is not None:
                grown = now.used_bytes - (first.used_bytes or 0)
                self._peaks[device.uuid] = max(self._peaks[device.uuid], grown)
            if now.utilisation is not None:
                self._utilisation.append(now.utilisation)
            lowered |= now.throttled
        self._looks += 1
        self._throttled.update(lowered)
        try:
            self._faults += listener.faults()
        except accelerators.DriverFault as fault:
            self._faults.append(f"{fault} ({self.devices[0].uuid})")
            return False
        return True

    def _summed(self, faults: Sequence[str]) -> DeviceUse:
        spent = [
            (self._last[uuid].energy_mj or 0) - first.energy_mj
            for uuid, first in self._first.items()
            if first.energy_mj is not None and self._last[uuid].energy_mj is not None
        ]
        used = list(self._utilisation)
        return DeviceUse(
            uuids=tuple(device.uuid for device in self.devices),
            name=accelerators.describe(self.devices),
            driver=self.devices[0].driver,
            began=self.began,
            ended=datetime.now(UTC),
            peak_bytes=max(self._peaks.values(), default=None),
            energy_j=sum(spent) / 1000 if spent else None,
            utilisation=sum(used) / len(used) if used else None,
            throttled={name: n / self._looks for name, n in sorted(self._throttled.items()) if n},
            faults=tuple(faults),
        )
