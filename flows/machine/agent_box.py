"""The box for coding agents on this machine: found, then proven against decoys once per process.

`agent_box(trust)` gives the proven box. It raises IsolationRefused where none can be made or an attempt got something,
unless the user trusts the agent: then there is no box, and every row of the campaign says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

from agents.command import try_the_box
from agents.command.agent_box import PROXY_PORT, TOOLS, AgentBox, Program
from agents.command.agent_process import Start, Watch, run
from agents.command.network_relay import Relay
from agents.command.proposer import session_folder
from evaluators.judge.sandbox import available_layers, bubblewrap, visible_packages
from flows.machine.folders import home
from lineage.errors import IsolationRefused

PROBE_S = 60.0
SEEN = 200  # entries of a folder that are looked for
HOLDS = {
    "data and labels": "data and labels unreadable",
    "folders of the engine": "store, data folder and home unreadable",
    "environment of the engine": "the engine's environment absent",
    "processes of the engine": "the engine's processes invisible",
    "loopback of the host": "no service on the host's loopback",
    "sockets of the host": "no Unix sockets of the host",
    "network past the relay": "no network but the relay",
    "relay to the host": "the relay passes named hosts only",
    "writes outside": "no writes outside",
    "new namespaces": "no new namespaces",
    "settings of the system": "the system's settings untouchable",
    "whole tree": "the whole tree ends",
}


def agent_box(trust: bool, hidden: tuple[str, ...] = ()) -> AgentBox:
    """The box of this machine, proven; or, with `trust` where there is none, the word that there is none.

    `hidden`: further folders of the engine that an agent must not see, such as the store.
    """
    if trust:
        return AgentBox(interpreter=visible_packages.interpreter(), not_held=tuple(HOLDS.values()))
    return _proven(tuple(sorted({str(home()), str(Path.home()), *hidden})))


def agent_box_report() -> tuple[tuple[str, ...], str]:
    """What holds of the box here, and why there is none; for `bakeoff doctor`."""
    try:
        return agent_box(False).holds, ""
    except IsolationRefused as refused:
        return (), str(refused)


@lru_cache(maxsize=8)
def _proven(hidden: tuple[str, ...]) -> AgentBox:
    found, why = available_layers.find_bwrap() if sys.platform == "linux" else (None, "it needs Linux")
    advice = "make bubblewrap usable here (`bakeoff doctor` says how), or accept it with --trust-agent"
    if found is None:
        raise IsolationRefused(f"no box for a coding agent can be made here: {why}; {advice}")
    box = AgentBox(
        bwrap=found.bwrap,
        disable_userns=found.userns_flag,
        interpreter=visible_packages.interpreter(),
        folders=tuple(bubblewrap.prefixes()),
        proc=tuple(bubblewrap.proc_masks(False)),
        hidden=hidden,
    )
    got = _try(box)
    if got:
        listed = "; ".join(f"{name}: {what[:120]}" for name, what in sorted(got.items()))
        raise IsolationRefused(f"the box for coding agents does not hold here ({listed}); {advice}")
    return replace(box, holds=tuple(HOLDS.values()))


def _try(box: AgentBox) -> dict[str, str]:
    """What the probe got, by attempt; empty where the box holds."""
    with _decoys() as decoys, session_folder(box) as session:
        tool = session.tools / "try_the_box.py"
        tool.write_bytes(Path(try_the_box.__file__).read_bytes())
        asked = {**decoys, "proxy": PROXY_PORT, "folders": {path: _entries(path, box) for path in box.hidden}}
        program = Program(box.interpreter, (), ())
        arguments = ["-I", "-S", f"{TOOLS}/try_the_box.py"]
        with Relay(session.sockets, ()):
            ended = run(Start(box, session, program, arguments, {}, json.dumps(asked)), Watch(PROBE_S))
        try:
            answer: dict[str, Any] = json.loads(ended.output)
        except ValueError:
            last = (ended.errors.strip() or ended.why or f"status {ended.code}")[-300:]
            return {"the probe did not run": last}
        got = {name: str(what) for name, what in answer["got"].items() if what}
        got |= {} if answer["works"] else {"workspace, home or /tmp": "cannot be written"}
        left = [str(p.pid) for p in psutil.process_iter() if _has(p, decoys["left"])]
        return {**got, **({"whole tree": f"processes {', '.join(left)} outlived it"} if left else {})}


def _entries(folder: str, box: AgentBox) -> list[str]:
    """What a folder of the engine has in it on the host, without the way to what is mounted on purpose."""
    try:
        names = sorted(os.listdir(folder))[:SEEN]  # noqa: PTH208
    except OSError:
        return []
    mounted = [Path(path) for path in (*box.folders, box.interpreter)]
    return [name for name in names if not any(one.is_relative_to(Path(folder) / name) for one in mounted)]


def _has(process: psutil.Process, mark: str) -> bool:
    try:
        return mark in " ".join(process.cmdline())
    except psutil.Error:
        return False


@contextlib.contextmanager
def _decoys() -> Iterator[dict[str, Any]]:
    """Things of the engine that an agent would look for, none of them real."""
    mark = os.urandom(8).hex()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bakeoff-decoy-"))
        labels = Path(folder) / "labels.npy"
        labels.write_text("decoy labels")
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(f"{folder}/s")
        unix.listen()
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0bakeoff-{mark}")
        abstract.listen()
        code = f"import time  # engine-{mark}\ntime.sleep({10 * PROBE_S})"
        env = {"PATH": os.defpath, "DECOY_TOKEN": f"secret-{mark}"}
        engine = subprocess.Popen([sys.executable, "-I", "-S", "-c", code], env=env)
        stack.callback(engine.wait)
        stack.callback(engine.kill)
        yield {
            "labels": str(labels),
            "folder": folder,
            "secret": f"secret-{mark}",
            "process": f"engine-{mark}",
            "left": f"left-{mark}",
            "port": tcp.getsockname()[1],
            "socket": f"{folder}/s",
            "abstract": f"bakeoff-{mark}",
            "writes": [
                str(labels),
                f"{folder}/new",
                "/usr/bin/bakeoff-probe",
                "/etc/bakeoff-probe",
                "/opt/bakeoff/x",
            ],
        }
