"""A line in which processes and threads wait for something of this machine: slots, or devices.

Use: `with place_in_line(folder, wanted, rank) as ahead:` and try what is wanted while `ahead()` is 0. First come, first
served among those that want any of the same things, except that a place of rank r lets the next `PASSED * r`
comers of rank 0 pass. So a trial's first run goes before another trial's fifth, and nobody waits for ever.

A place is a locked file with numbers in its name: the place of a dead process can be locked, and is removed. Limits:
the folder must be on a local disk.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path

PASSED = 4  # later comers that may pass, per rank


@contextmanager
def place_in_line(folder: Path, wanted: Set[str], rank: int = 0) -> Iterator[Callable[[], int]]:
    """A place in the line under `folder`; yields a function: how many may be ahead, 0 when nobody alive is.

    Places are given one at a time and their numbers grow, because two that came in together, or by a clock that was
    put back, could each keep what the other one waits for.
    """
    line = folder / "line"
    line.mkdir(parents=True, exist_ok=True)
    name = f"{os.getpid()}-{threading.get_ident()}-{time.time_ns()}"  # of no file before, so that no other is removed
    staging = folder / f".{name}"
    handle = os.open(staging, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    ours = staging
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.pwrite(handle, json.dumps(sorted(wanted)).encode(), 0)
        with _alone(folder / "line.order"):
            number = max((int(path.name.split("-")[1]) for path in line.iterdir()), default=0) + 1
            ours = staging.rename(line / f"{number + PASSED * rank:020d}-{number:020d}-{name}")

        def ahead() -> int:
            before = sorted(path for path in line.iterdir() if path.name < ours.name)
            for index, path in enumerate(before):
                if _waits(path, wanted):
                    return len(before) - index
            return 0

        yield ahead
    finally:
        ours.unlink(missing_ok=True)
        staging.unlink(missing_ok=True)
        os.close(handle)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _waits(path: Path, wanted: Set[str]) -> bool:
    """Is somebody alive at this place in the line, who wants any of the same things?"""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return bool(wanted & set(json.loads(os.pread(handle, 1 << 16, 0) or b"[]")))
    else:
        path.unlink(missing_ok=True)
        return False
    finally:
        os.close(handle)
