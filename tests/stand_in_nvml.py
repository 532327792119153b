"""A machine with NVIDIA devices where there are none: a small real library at the driver's edge, and its state.

Use: the fixture `driver` of conftest gives a `Driver`; `driver.devices(8)` fills the machine, `driver.set("0.used", n)`
changes it while programs run, `driver.environ` makes child processes load the library. Everything above the
library is the real code. Keys of device N: `uuid`, `name`, `minor`, `memory`, `used`, `capability`, `processes` (pid:bytes,...),
`utilisation` (per cent), `energy` (mJ), `throttle` (bits), `ecc`, `xid`, `parts` (MIG), `error` (code of every answer); the
machine's: `count`, `driver`, `init` (code), `hang` (seconds). Limits: needs a C compiler; in this process the library
stays loaded, without a driver once the test is over.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).parent / "fakes" / "nvml.c"
GIB = 1 << 30
NAME = "NVIDIA H100 80GB HBM3"


def uuid(index: int) -> str:
    return f"GPU-{index:08d}-aaaa-bbbb-cccc-000000000000"


def compiler() -> str | None:
    return shutil.which("gcc") or shutil.which("cc")


def build(folder: Path) -> Path:
    """Compile the library into `folder`; returns its path."""
    library = folder / "libnvidia-ml.so.1"
    command = [compiler() or "cc", "-shared", "-fPIC", "-O1", f"-Wl,-soname,{library.name}"]
    subprocess.run([*command, "-o", str(library), str(SOURCE), "-ldl"], check=True, timeout=120)
    return library


class Driver:
    """The state of the machine that the library answers from; every change is one rename."""

    def __init__(self, library: Path) -> None:
        self.folder = library.parent
        self.state: dict[str, object] = {}
        ctypes.CDLL(str(library))  # later loads by its name find this one

    @property
    def environ(self) -> dict[str, str]:
        """For child processes."""
        return {"LD_LIBRARY_PATH": str(self.folder)}

    def devices(self, count: int, **of_each: object) -> None:
        """A machine with so many equal devices that do nothing."""
        plain = {
            "name": NAME,
            "memory": 80 * GIB,
            "used": 0,
            "capability": "9.0",
            "utilisation": 0,
            "energy": 0,
        }
        self.state = {"driver": "570.124.06", "count": count}
        for index in range(count):
            each = {"uuid": uuid(index), "minor": index, **plain, "throttle": 0, "ecc": 0, **of_each}
            self.state |= {f"{index}.{key}": value for key, value in each.items()}
        self._write()

    def set(self, key: str, value: object) -> None:
        """Change one answer; None takes it away."""
        self.state[key] = value
        self._write()

    def gone(self) -> None:
        """No driver."""
        (self.folder / "nvml.state").unlink(missing_ok=True)
        self.forget()

    def forget(self) -> None:
        """Have this process open the library anew."""
        from evaluators.judge import nvidia

        nvidia.forget()

    def _write(self) -> None:
        staging = self.folder / f"state.{os.getpid()}"
        lines = (f"{key}={value}\n" for key, value in self.state.items() if value is not None)
        staging.write_text("".join(lines), "utf-8")
        staging.rename(self.folder / "nvml.state")
