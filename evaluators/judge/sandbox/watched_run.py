"""What is known of one run while it is watched: its state, its clocks and caps, how it ended.

Use: by `supervisor.py` only, which fills a `Run` and hands in its report at the end. Limits: imports next
to nothing; CPU and memory come from the control group where there is one, else from /proc.
"""

# os.path: part of the supervisor, whose start-up time is paid by every run
# ruff: noqa: PTH118
from __future__ import annotations

import os
import time

from evaluators.judge.sandbox import cgroup, process_tree
from evaluators.judge.sandbox.receive_artifact import Sealer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from evaluators.judge.sandbox.run_in_fork import Joining

LOG_BYTES_PER_TICK = 1 << 20
MAX_ENTRIES = 10_000


class Run:
    """Everything that changes while one candidate runs. `phase`: start -> up -> imported -> run."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.joining: Joining | None = None
        self.group: cgroup.Group | None = None
        self.sealer: Sealer | None = None
        self.pid = 0
        self.orders = self.reports = self.log = self.artifact = self.output = -1
        self.output_left = 0
        self.phase = "start"
        self.began = self.released = self.released_cpu = self.reaped_cpu = self.seen_cpu = 0.0
        self.peak = 0
        self.status: int | None = None
        self.tail = bytearray()
        self.lines = bytearray()
        self.commands = b""
        self.reported = 0
        self.log_quota = LOG_BYTES_PER_TICK
        self.over = False
        self.error: tuple[str, str, str] | None = None
        self.effects: dict[str, list[str]] = {}
        self.refused = self.stage = self.end = self.detail = ""

    def stop(self, end: str, refused: str = "", detail: str = "") -> None:
        """The first reason to end counts."""
        if not self.end:
            self.end, self.refused, self.detail = end, refused or self.refused, detail or self.detail


def cpu_now(run: Run) -> float:
    measured = cgroup.cpu_seconds(run.group) if run.group else None
    if measured is None:
        measured = run.reaped_cpu + process_tree.cpu_seconds(process_tree.descendants(os.getpid()))
    run.seen_cpu = max(run.seen_cpu, measured)
    return run.seen_cpu


def measure_memory(run: Run) -> int:
    now = cgroup.memory_bytes(run.group) if run.group else None
    if now is None:
        now = process_tree.memory_bytes(process_tree.descendants(os.getpid()))
    if run.joining is not None and run.joining.begun:
        now += run.request["prepared"]["bytes"]  # no page of it is in the run's group until it is written to
    run.peak = max(run.peak, now)
    return now


def check_caps(run: Run) -> None:
    limits, now, cpu = run.request["limits"], time.monotonic(), cpu_now(run)
    if run.phase != "run":
        if cpu > limits["start_cpu_s"]:
            run.stop("start_cap", detail=f"{cpu:.1f} CPU-s before ready, cap {limits['start_cpu_s']:g}")
        elif now - run.began > limits["start_wall_s"]:
            run.stop("start_cap", detail=f"not ready after {limits['start_wall_s']:g} s of wall time")
    elif cpu - run.released_cpu > limits["cpu_s"]:
        run.stop("cpu_cap", detail=f"over {limits['cpu_s']:g} CPU-s")
    elif now - run.released > limits["wall_s"]:
        run.stop("wall_cap", detail=f"over {limits['wall_s']:g} s of wall time")
    if measure_memory(run) > limits["memory"]:
        run.stop("oom", detail=f"over {limits['memory']} bytes")
    folder = limits.get("out_folder")
    if folder and _folder_bytes(folder) > limits["out_bytes"]:
        run.stop("protocol", "oversize")


def _folder_bytes(folder: str) -> int:
    total = seen = 0
    for base, _, names in os.walk(folder):
        seen += 1 + len(names)
        if seen > MAX_ENTRIES:
            return 1 << 62  # counting them would cost the supervisor its clocks
        for name in names:
            try:
                total += os.lstat(os.path.join(base, name)).st_blocks * 512
            except OSError:
                continue
    return total


def verdict(run: Run) -> tuple[str, int]:
    """How it ended and with what code, once the tree is gone and the pipes are drained."""
    if run.end:
        return run.end, 0
    code = os.waitstatus_to_exitcode(run.status) if run.status is not None else 0
    number = -code if code < 0 else code - 128 if code > 128 else 0  # bwrap passes signals on as 128 + n
    if run.phase == "start":
        run.detail = run.detail or "the sandbox did not start"
        return "infra", code
    if run.refused:
        return "protocol", code
    if code and run.group and cgroup.oom_kills(run.group):
        return "oom", number
    return ("signal", number) if number else ("exit", code)


def inherited(run: Run) -> dict[str, Any]:
    """Was the run forked from a process with imported packages, and what did it not pay for that?"""
    if run.joining is None:
        return {}
    found = run.request["prepared"]
    return {"prepared": True, "prepared_cpu_s": found["cpu_s"], "prepared_wall_s": found["wall_s"]}


def report(run: Run, ended: float, survivors: list[int]) -> dict[str, Any]:
    """The last event, once the tree is gone and the pipes are drained."""
    if run.sealer is not None and run.sealer.done and run.status is not None:
        run.stop("exit")
    end, code = verdict(run)
    total = cpu_now(run)
    inside = run.phase == "run"
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
        "log": bytes(run.tail),
        "error": run.error,
        "detail": run.detail + (f" survivors: {survivors}" if survivors else ""),
        "phase": run.phase,
        "stage": run.stage,
        "rule": run.refused,
        "effects": run.effects,
        **inherited(run),
        "artifact": run.sealer.result() if run.sealer is not None else None,
    }
