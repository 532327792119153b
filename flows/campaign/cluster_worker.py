"""A Prefect worker under a cluster scheduler: when its allocation ends, its trials are handed back first.

Prefect's worker answers SIGTERM by killing its flow runs with SIGKILL, which leaves them in state running until
an automation misses their heartbeat, and nothing in the record. Here the worker is a child of its own session, which
the scheduler's signal does not reach: on SIGTERM it is stopped, so that it takes nothing more, each flow run gets the
SIGTERM that `flows.trial.cluster_allocation` answers, and the worker is ended when they have. Everything else is Prefect's.

Limits: Linux; a flow run gets the signal once it handles it; the wait is at most `GRACE_S` seconds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

# SLURM sends SIGKILL 30 s after SIGTERM where KillWait has its default, Kubernetes after its grace period's 30 s
GRACE_S = 25.0
POLL_S = 0.1
SIGTERM_BIT = 1 << (signal.SIGTERM - 1)


def run(arguments: Sequence[str]) -> int:
    """Run `prefect worker start` with these arguments until it ends or a signal comes; returns its exit code, 0 after a signal."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):  # handled, so not ignored by the child either
        signal.signal(number, lambda given, _frame: asked.append(given))
    command = [sys.executable, "-m", "prefect", "worker", "start", *arguments]
    worker = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    while worker.poll() is None and not asked:
        time.sleep(POLL_S)
    if not asked:
        return int(worker.returncode)
    ended = hand_over(worker.pid)
    print(
        f"{signal.Signals(asked[0]).name}: {ended} flow runs were asked to end", file=sys.stderr, flush=True
    )
    worker.kill()
    worker.wait()
    return 0


def hand_over(worker: int, grace_s: float = GRACE_S) -> int:
    """Stop a worker and end its flow runs, each by one SIGTERM once it handles it; returns how many there were."""
    os.kill(worker, signal.SIGSTOP)
    signalled: set[int] = set()
    until = time.monotonic() + grace_s
    while (running := _flow_runs(worker)) and time.monotonic() < until:
        for pid in running - signalled:
            if _listens(pid):
                signalled.add(pid)
                os.kill(pid, signal.SIGTERM)
        time.sleep(POLL_S)
    return len(signalled)


def _flow_runs(worker: int) -> set[int]:
    """The worker's children that are alive; it is stopped, so those that ended stay as zombies."""
    try:
        children = psutil.Process(worker).children()
        return {child.pid for child in children if child.status() != psutil.STATUS_ZOMBIE}
    except psutil.Error:
        return set()


def _listens(pid: int) -> bool:
    """True once the process handles SIGTERM; in its first seconds, while it imports, the signal would just kill it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    caught = next((line.split()[1] for line in lines if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) & SIGTERM_BIT)
