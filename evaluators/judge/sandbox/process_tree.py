"""What a process tree uses, read from /proc: the second choice where no control group can be made.

Use: by the supervisor only, as the parent or subreaper of the tree. Limits: CPU time has the
resolution of a clock tick (10 ms) and what a process used between the last look and its death is
only seen when its parent reaped it; memory peaks shorter than the polling interval are missed.
"""

# os.path: part of the supervisor, whose start-up time is paid by every run
# ruff: noqa: PTH208
from __future__ import annotations

import os
import time

SIGKILL = 9
_TICK = os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/stat") as handle:
            return handle.read().rpartition(")")[2].split()
    except (OSError, ValueError):
        return []


def descendants(root: int) -> list[int]:
    """Every living process below `root`, children before grandchildren."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _stat(int(name))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(name))
    found: list[int] = []
    front = [root]
    while front:
        below = children.get(front.pop(), [])
        found += below
        front += below
    return found


def cpu_seconds(pids: list[int]) -> float:
    """User and system seconds of these processes and of the children they have reaped."""
    ticks = 0
    for pid in pids:
        fields = _stat(pid)
        if fields:
            ticks += sum(int(fields[i]) for i in (11, 12, 13, 14))
    return ticks / _TICK


def memory_bytes(pids: list[int]) -> int:
    """Proportional share of resident memory; pages shared after fork are counted once in all."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as handle:
                pss = next(line for line in handle if line.startswith("Pss:"))
            total += int(pss.split()[1]) * 1024
        except (OSError, ValueError, StopIteration):
            continue
    return total


def kill(pid: int) -> None:
    try:
        os.kill(pid, SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def end_all(deadline_s: float = 5.0) -> tuple[float, list[int]]:
    """SIGKILL every descendant until none is left; (CPU seconds of what was reaped, survivors)."""
    spent, end = 0.0, time.monotonic() + deadline_s
    while True:
        for pid in descendants(os.getpid()):
            kill(pid)
        spent += reap()[0]
        alive = descendants(os.getpid())
        if not alive or time.monotonic() > end:
            return spent, alive
        time.sleep(0.002)


def has_children() -> bool:
    """Is any child, or orphan handed to this subreaper, still there?"""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def reap(main: int = -1) -> tuple[float, int | None]:
    """Collect every child that has ended; (their CPU seconds, wait status of `main` if among them)."""
    spent, status = 0.0, None
    while True:
        try:
            pid, code, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return spent, status
        if pid == 0:
            return spent, status
        spent += usage.ru_utime + usage.ru_stime
        if pid == main:
            status = code
