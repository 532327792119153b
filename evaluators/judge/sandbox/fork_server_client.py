"""The engine's end of prepared processes: one fork server per environment, started when a run first needs it.

Use: `server_for(tools, box)` gives the `Server` to put into a request, or None where the run has to start an interpreter
of its own: no bubblewrap, no whole control group, devices (their driver must not be initialised before a fork), compiled
packages (the server has read the real ones), an import that cannot be forked. `BAKEOFF_PREPARED=0` turns it off. Limits: the servers of a process end with it; at most
`MOST_SERVERS` are kept, the oldest goes first; one that has died is replaced when it is next asked for.
"""

from __future__ import annotations

import atexit
import marshal
import os
import select
import socket
import subprocess
import threading
import time
from collections import OrderedDict
from typing import Any

from evaluators.judge.sandbox import visible_packages
from evaluators.judge.sandbox.available_layers import HERE, Layers
from evaluators.judge.sandbox.bubblewrap import INSIDE, PLACEHOLDER, Box, Server, environment
from lineage.errors import InfraFault

MOST_SERVERS = 4
START_S = 300.0  # an import of torch beside busy neighbours
SLICE_S = 0.05
_Key = tuple[tuple[str, ...], tuple[tuple[str, str], ...]]


class _Running:
    """One fork server: its process, our end of its socket, and its report once it is ready."""

    def __init__(self, box: Box) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        config = {
            "mode": "prepare",
            "socket": theirs.fileno(),
            "server": str(HERE / "fork_server.py"),
            "kernel": str(HERE / "kernel.py"),
            "inside": str(HERE / "inside"),
            "packages": visible_packages.visible(box.packages, box.masked).entries,
            "imports": list(box.packages),
        }
        command = [
            visible_packages.interpreter(),
            "-I",
            "-S",
            str(HERE / "entry.py"),
            marshal.dumps(config).hex(),
        ]
        with theirs:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # no folder of anybody's: what an import may look for there is not the engine's to trust
                env={**environment(box, INSIDE), "HOME": "/nonexistent", "TMPDIR": "/nonexistent"},
                cwd="/",
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self.ours = ours
        self.began = time.monotonic()
        self.report: dict[str, Any] | None = None
        self._reading = threading.Lock()

    def wait(self, cancel: threading.Event | None) -> dict[str, Any] | None:
        """The server's report, once its imports are done; None when `cancel` is set before."""

        def cancelled() -> bool:
            return cancel is not None and cancel.is_set()

        while not self._reading.acquire(timeout=SLICE_S):
            if cancelled():
                return None
        try:
            while self.report is None:
                if cancelled():
                    return None
                if time.monotonic() - self.began > START_S:
                    self.close()
                    raise InfraFault(
                        "fork server", f"not ready after {START_S:g} s; is the machine overloaded?"
                    )
                if select.select([self.ours], [], [], SLICE_S)[0]:
                    self.report = self._read()
            return self.report
        finally:
            self._reading.release()

    def _read(self) -> dict[str, Any]:
        data = self.ours.recv(1 << 16)
        if data:
            found: dict[str, Any] = marshal.loads(data)
            return found
        return {"fault": f"the import ended the process (exit {self.process.wait(START_S)})"}

    @property
    def is_of_use(self) -> bool:
        """Does it run, or is it known why it cannot?"""
        return bool(self.report and self.report["fault"]) or self.process.poll() is None

    def close(self) -> None:
        """The end of its socket ends it."""
        self.ours.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


_lock = threading.Lock()
_running: OrderedDict[_Key, _Running] = OrderedDict()


def switched_on() -> bool:
    return os.environ.get("BAKEOFF_PREPARED", "1") != "0"


def unfit(tools: Layers) -> str:
    """What this sandbox lacks for forked runs; empty when it lacks nothing."""
    if not switched_on():
        return "BAKEOFF_PREPARED=0"
    if not (tools.bwrap and tools.seccomp):
        return "only bubblewrap with seccomp has namespaces that a process can be forked into"
    if not tools.grouped:
        return "no control group that bounds memory and processes and counts CPU time"
    if not hasattr(os, "pidfd_open"):
        return "this Python has no os.pidfd_open"
    return "" if os.access(PLACEHOLDER, os.X_OK) else f"no {PLACEHOLDER}"


def server_for(tools: Layers, box: Box, cancel: threading.Event | None = None) -> Server | None:
    """The fork server for runs like `box`; None where its run starts an interpreter of its own. Raises InfraFault.

    The first call for an environment waits for the imports, unless `cancel` is set.
    """
    if unfit(tools) or box.devices or box.compiled or box.python or box.build:
        return None
    key = (tuple(box.packages), tuple(sorted(environment(box, INSIDE).items())))
    with _lock:
        found = _running.get(key)
        if found is None or not found.is_of_use:
            if found is not None:
                found.close()
            found = _running[key] = _Running(box)
            while len(_running) > MOST_SERVERS:
                _running.popitem(last=False)[1].close()
        _running.move_to_end(key)
    report = found.wait(cancel)
    if report is None or report["fault"]:
        return None
    facts = {name: report[name] for name in ("cpu_s", "wall_s", "bytes")}
    return Server(socket=found.ours.fileno(), **facts)


@atexit.register
def close_all() -> None:
    with _lock:
        while _running:
            _running.popitem()[1].close()
