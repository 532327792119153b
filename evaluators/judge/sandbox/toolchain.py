"""What a candidate on a GPU needs of the system besides packages: the driver's library, and a C compiler's parts.

`torch.compile` has Triton build a small C extension at run time, which takes gcc, its own programs and Python's
headers. Use: `folders(devices)` are read-only trees, `environment(devices)` the variables that point there; both
empty for a run without devices. Limits: the driver's compute library is looked for beside the one that answers the
engine, which is where every installer puts it.
"""

# strings of an argument list
# ruff: noqa: PTH118, PTH120, PTH112
from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from evaluators.judge import accelerators
from lineage.records import Device

# gcc 13 and later keep their compilers proper here; everything else of gcc is in /usr/lib and /usr/bin
COMPILER = ("/usr/libexec/gcc", "/usr/include")
# what the loader finds without being told
USUAL = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")


def driver_folder() -> str:
    """Where the loaded driver's libraries are; empty where the loader finds them by itself, and without a driver."""
    folder = os.path.dirname(accelerators.vendor().library())
    usual = any(folder == root or folder.startswith(root + "/") for root in USUAL)
    return "" if usual else folder


def folders(devices: Sequence[Device], build: bool = False) -> list[str]:
    """Folders that are read, the interpreter's headers among them; only those that exist."""
    if not devices and not build:
        return []
    driver = driver_folder() if devices else ""
    wanted = (driver, *COMPILER, os.path.join(sys.base_prefix, "include"))
    return [path for path in dict.fromkeys(wanted) if path and os.path.isdir(path)]


def environment(devices: Sequence[Device]) -> dict[str, str]:
    """Where Triton finds the driver: it would ask ldconfig, which is not in the sandbox."""
    if not devices:
        return {}
    library = accelerators.vendor().library()
    if not library:
        return {}
    place = {"TRITON_LIBCUDA_PATH": os.path.dirname(library)}
    return place | ({"LD_LIBRARY_PATH": driver_folder()} if driver_folder() else {})
