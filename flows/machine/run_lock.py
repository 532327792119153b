"""One live owner per campaign on this machine: a second `bakeoff run` or `resume` on it is refused.

The lock is a flock under BAKEOFF_HOME: the kernel releases it when its process ends, in every way. Across machines
`flows.campaign.owner` decides; it takes this lock first.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from flows.machine.folders import home, run_key
from lineage.errors import RunBusy


@contextmanager
def campaign_lease(root: str, campaign: str) -> Iterator[None]:
    """Lock the campaign for this process. Raises RunBusy naming the process that has it."""
    folder = home() / "leases"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{run_key(root)}-{campaign}.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(handle, 4096).decode(errors="replace").strip()
        os.close(handle)
        raise RunBusy(
            f"{root}: campaign {campaign} is already running ({holder or 'owner unknown'}); "
            "watch it with `bakeoff watch`, end it with `bakeoff stop`, or start another with --run DIR"
        ) from None
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode(), 0)
        yield
    finally:
        os.close(handle)


def holder_of(root: str, campaign: str) -> dict[str, object] | None:
    """The process that runs the campaign on this machine now, or None."""
    path = home() / "leases" / f"{run_key(root)}-{campaign}.lock"
    if not path.exists():
        return None
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        raw = os.read(handle, 4096)
        try:
            return dict(json.loads(raw))
        except ValueError:
            return {}
    finally:
        os.close(handle)
