"""Reaching a campaign that runs in another process of this machine."""

from __future__ import annotations

import os
import signal
import socket
from typing import Any

from flows.lease import holder_of


def stop_campaign(root: str, campaign: str) -> dict[str, Any]:
    """Send SIGTERM to the process that holds the campaign. Returns what was done, with a sentence."""
    holder = holder_of(root, campaign)
    if holder is None:
        return {
            "running": False,
            "text": f"{campaign}: nothing runs on this machine; the record is as it was left",
        }
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return {"running": True, "text": f"{campaign}: runs as {holder}; stop it there"}
    pid = int(str(holder["pid"]))
    os.kill(pid, signal.SIGTERM)
    return {
        "running": True,
        "pid": pid,
        "text": f"{campaign}: asked process {pid} to stop; `bakeoff resume {root}` continues it",
    }
