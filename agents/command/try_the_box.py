"""Inside the box: tries what an agent must not be able to do, against decoys of the engine, and prints what it got.

Run by path in a bare interpreter in the agent's place; what to look for is its standard input, so that its own command
line does not have it. Prints one JSON object: name of an attempt to what it got, which
is empty where it got nothing. `flows.machine.agent_box` makes the decoys and reads the answer.
"""

# paths are strings here: the program is small and starts fast
# ruff: noqa: PTH118, PTH208
from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

CLONE_NEWUSER = 0x10000000
SHORT_S = 2.0


def read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(200).decode("utf-8", "replace")
    except OSError:
        return ""


def listed(folders: dict[str, list[str]]) -> str:
    """Entries of the engine's folders, as they are on the host, that can be seen."""
    return ", ".join(
        os.path.join(folder, name)
        for folder, names in folders.items()
        for name in names
        if os.path.lexists(os.path.join(folder, name))
    )


def secrets(wanted: str) -> str:
    """Where a decoy of the engine's environment can be read: in any process that is visible."""
    places = [f"/proc/{name}/environ" for name in os.listdir("/proc") if name.isdigit() or name == "self"]
    found = [path for path in places if wanted in _all(path)]
    return ", ".join(found + (["own"] if wanted in os.environ.values() else []))


def _all(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def processes(wanted: str) -> str:
    names = [name for name in os.listdir("/proc") if name.isdigit()]
    return ", ".join(name for name in names if wanted in _all(f"/proc/{name}/cmdline"))


def connects(kind: int, address: Any) -> str:
    try:
        with socket.socket(kind) as one:
            one.settimeout(SHORT_S)
            one.connect(address)
            return str(address)
    except OSError:
        return ""


def through_relay(proxy: int, port: int) -> str:
    """May the relay be asked for a port of the engine's own loopback?"""
    for ask in (
        f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n",
        f"CONNECT localhost:{port} HTTP/1.1\r\n\r\n",
        f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n",
        f"CONNECT [::ffff:127.0.0.1]:{port} HTTP/1.1\r\n\r\n",
    ):
        try:
            with socket.create_connection(("127.0.0.1", proxy), timeout=SHORT_S) as one:
                one.sendall(ask.encode())
                answer = one.recv(200).decode("latin-1")
        except OSError:
            continue
        if " 403 " not in answer.split("\r\n")[0] + " ":
            return ask.split("\r\n")[0] + ": " + answer.split("\r\n")[0]
    return ""


def writes(paths: list[str]) -> str:
    done = []
    for path in paths:
        try:
            with open(path, "w") as file:
                file.write("x")
            done.append(path)
        except OSError:
            continue
    return ", ".join(done)


def new_namespace() -> str:
    child = os.fork()
    if child == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        os._exit(0 if libc.unshare(CLONE_NEWUSER) == 0 else 1)
    return "a user namespace" if os.waitpid(child, 0)[1] == 0 else ""


def system_settings() -> str:
    got = []
    for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/kernel/uevent_helper"):
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_WRONLY))
            got.append(path)
    return ", ".join(got)


def leave_a_process(mark: str) -> None:
    """A process that has left its session and its parent; the engine looks whether it outlives the run."""
    code = f"import time  # {mark}\ntime.sleep(600)"
    subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def main(decoys: dict[str, Any]) -> None:
    attempts: dict[str, Callable[[], str]] = {
        "data and labels": lambda: read(decoys["labels"]),
        "folders of the engine": lambda: listed(decoys["folders"]),
        "environment of the engine": lambda: secrets(decoys["secret"]),
        "processes of the engine": lambda: processes(decoys["process"]),
        "loopback of the host": lambda: connects(socket.AF_INET, ("127.0.0.1", decoys["port"])),
        "sockets of the host": lambda: (
            connects(socket.AF_UNIX, decoys["socket"]) or connects(socket.AF_UNIX, "\0" + decoys["abstract"])
        ),
        "network past the relay": lambda: connects(socket.AF_INET, ("192.0.2.1", 80)),
        "relay to the host": lambda: through_relay(decoys["proxy"], decoys["port"]),
        "writes outside": lambda: writes(decoys["writes"]),
        "new namespaces": new_namespace,
        "settings of the system": system_settings,
    }
    leave_a_process(decoys["left"])
    got = {name: attempt() for name, attempt in attempts.items()}
    works = writes(["/workspace/probe", "/home/agent/probe", "/tmp/probe"]).count("probe") == 3
    print(json.dumps({"got": got, "works": works}))


if __name__ == "__main__":
    main(json.load(sys.stdin))
