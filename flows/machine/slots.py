"""Slots: how many candidate processes run at once on this machine, across all campaigns.

A slot is a lock file under this machine's home, held by flock while a candidate's processes run. The
kernel gives it back when the holder dies, whatever the way, so a slot cannot leak. `flows.machine.device_holds` adds the
accelerators that a run has to itself. Who waits stands in a line (`flows.machine.waiting_line`).

Limits: flock on a network file system is not relied upon; BAKEOFF_HOME must be a local disk.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.machine.folders import home
from flows.machine.waiting_line import place_in_line
from lineage.errors import Interrupted

POLL_SECONDS = 0.05
LONGEST_POLLS = 5  # those far back in the line look less often


class SlotCancelled(Interrupted):
    """The campaign was stopped while waiting for a slot."""


def slot_folder(kind: str) -> Path:
    return home() / "slots" / kind


@contextmanager
def slot(kind: str, count: int, cancel: threading.Event | None = None, rank: int = 0) -> Iterator[int]:
    """Hold one of `count` slots of this kind; yields its index. Blocks until one is free.

    `rank` lets later comers of a lower one pass: see `flows.machine.waiting_line`. Raises SlotCancelled when `cancel` is set while waiting.
    """
    if count < 1:
        raise ValueError(f"{count} slots of kind {kind!r}: nobody could ever get one")
    folder = slot_folder(kind)
    folder.mkdir(parents=True, exist_ok=True)
    handle, index = _acquire(folder, count, cancel, rank)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield index
    finally:
        os.close(handle)


def _acquire(folder: Path, count: int, cancel: threading.Event | None, rank: int) -> tuple[int, int]:
    with place_in_line(folder, {f"one of {count}"}, rank) as ahead:
        while True:
            before = ahead()
            if not before and (taken := _try(folder, count)) is not None:
                return taken
            if cancel is not None and cancel.is_set():
                raise SlotCancelled
            time.sleep(POLL_SECONDS * min(1 + before, LONGEST_POLLS))


def _try(folder: Path, count: int) -> tuple[int, int] | None:
    """The first free slot, locked: its handle and its index."""
    for index in range(count):
        handle = os.open(folder / f"{index}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle, index
        except BlockingIOError:
            os.close(handle)
    return None


def busy(kind: str) -> int:
    """How many slots of this kind are held now, by anyone on this machine."""
    held = 0
    for path in slot_folder(kind).glob("*.lock"):
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held += 1
        finally:
            os.close(handle)
    return held
