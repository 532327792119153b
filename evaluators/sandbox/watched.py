"""What is known of one run while it is watched: its state, its clocks and caps, how it ended.

Use: by `supervisor.py` only, which fills a `Run` and hands in its report at the end. Limits: standard
library only; CPU and memory come from the control group where there is one, else from /proc.
"""

# os.path: part of the supervisor
# ruff: noqa: PTH118
from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass, field
from typing import Any

from evaluators.sandbox import cgroup, tree
from evaluators.sandbox.seal import Sealer

LOG_BYTES_PER_TICK = 1 << 20
_INVISIBLE = re.compile(
    "\x1b\\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]"
)


@dataclass
class Run:
    """Everything that changes while one candidate runs."""

    request: dict[str, Any]
    group: cgroup.Group | None = None
    pid: int = 0
    orders: int = -1
    reports: int = -1
    log: int = -1
    artifact: int = -1
    sealer: Sealer | None = None
    phase: str = "start"  # start -> up -> imported -> run
    began: float = 0.0
    released: float = 0.0
    released_cpu: float = 0.0
    reaped_cpu: float = 0.0
    seen_cpu: float = 0.0
    peak: int = 0
    status: int | None = None
    tail: bytearray = field(default_factory=bytearray)
    lines: bytearray = field(default_factory=bytearray)
    commands: bytearray = field(default_factory=bytearray)
    reported: int = 0
    log_quota: int = LOG_BYTES_PER_TICK
    over: bool = False
    error: dict[str, str] = field(default_factory=dict)
    refused: str = ""
    stage: str = ""
    end: str = ""
    detail: str = ""


def clean(raw: bytes, limit: int) -> str:
    """Candidate text without escapes, control, bidi or zero-width characters, last `limit` of it."""
    return _INVISIBLE.sub("", raw.decode("utf-8", "replace"))[-limit:]


def cpu_now(run: Run) -> float:
    measured = cgroup.cpu_seconds(run.group) if run.group else None
    if measured is None:
        measured = run.reaped_cpu + tree.cpu_seconds(tree.descendants(os.getpid()))
    run.seen_cpu = max(run.seen_cpu, measured)
    return run.seen_cpu


def measure_memory(run: Run) -> int:
    now = cgroup.memory_bytes(run.group) if run.group else None
    if now is None:
        now = tree.memory_bytes(tree.descendants(os.getpid()))
    run.peak = max(run.peak, now)
    return now


def check_caps(run: Run) -> None:
    limits, now = run.request["limits"], time.monotonic()
    cpu = cpu_now(run)
    if run.phase != "run":
        if cpu > limits["start_cpu_s"]:
            run.end, run.detail = "start_cap", f"{cpu:.1f} CPU-s before ready, cap {limits['start_cpu_s']:g}"
        elif now - run.began > limits["start_wall_s"]:
            run.end, run.detail = "start_cap", f"not ready after {limits['start_wall_s']:g} s of wall time"
    elif cpu - run.released_cpu > limits["cpu_s"]:
        run.end, run.detail = "cpu_cap", f"over {limits['cpu_s']:g} CPU-s"
    elif now - run.released > limits["wall_s"]:
        run.end, run.detail = "wall_cap", f"over {limits['wall_s']:g} s of wall time"
    if not run.end and measure_memory(run) > limits["memory"]:
        run.end, run.detail = "oom", f"over {limits['memory']} bytes"
    folder = limits.get("out_folder")
    if not run.end and folder and _folder_bytes(folder) > limits["out_bytes"]:
        run.end, run.refused = "protocol", "oversize"


def _folder_bytes(folder: str) -> int:
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(base, name)).st_blocks * 512
    return total


def verdict(run: Run) -> tuple[str, int]:
    """How it ended and with what code, once the tree is gone and the pipes are drained."""
    kills = cgroup.oom_kills(run.group) if run.group else 0
    status = run.status
    if run.end:
        return run.end, 0
    code = os.waitstatus_to_exitcode(status) if status is not None else 0
    number = -code if code < 0 else code - 128 if code > 128 else 0  # bwrap passes signals on as 128 + n
    if run.phase == "start":
        run.detail = run.detail or "the sandbox did not start"
        return "infra", code
    if run.refused:
        return "protocol", code
    if kills and code:
        return "oom", number
    return ("signal", number) if number else ("exit", code)


def report(run: Run, ended: float, survivors: list[int]) -> dict[str, Any]:
    """The last event, once the tree is gone and the pipes are drained."""
    if run.sealer is not None and run.sealer.done and run.status is not None:
        run.end = run.end or "exit"
    end, code = verdict(run)
    total = cpu_now(run)
    inside = run.phase == "run"
    place = f" ({run.error['place']})" if run.error.get("place") else ""
    started = run.released if inside else ended
    return {
        "end": end,
        "code": code,
        "started": run.phase != "start",
        "cpu_s": max(0.0, total - run.released_cpu) if inside else 0.0,
        "wall_s": ended - started if inside else 0.0,
        "start_cpu_s": run.released_cpu if inside else total,
        "start_wall_s": started - run.began,
        "peak_bytes": run.peak,
        "oom_kills": cgroup.oom_kills(run.group) if run.group else 0,
        "log_tail": clean(bytes(run.tail), 4000),
        "exception": f"{run.error['type']}: {run.error['message']}{place}"[:800] if run.error else "",
        "detail": run.detail + (f" survivors: {survivors}" if survivors else ""),
        "phase": run.phase,
        "stage": run.stage,
        "rule": run.refused,
        "artifact": run.sealer.result() if run.sealer is not None else None,
    }
