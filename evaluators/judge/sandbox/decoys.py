"""Decoys for the probe: labels, a lineage file, a key, a process, sockets; none of them real.

Use: `with decoys(folder) as targets:`; `targets` is the probe's input, `touched()` afterwards names
the files that were written to. Limits: one host, a few milliseconds to make; nothing outside `folder`
except sockets, one shared memory segment and one process, all gone afterwards.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evaluators.judge.sandbox.available_layers import CLEAN_ENV

_PROCESS = """
import ctypes, sys
secret = ctypes.create_string_buffer(b"DECOY-LABELS-IN-MEMORY", 64)
print(ctypes.addressof(secret), flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def decoys(folder: Path) -> Iterator[dict[str, Any]]:
    """Make everything that an attacker would look for, and remove it again."""
    nonce = os.urandom(8).hex()
    files = {
        "labels": folder / "labels.npy",
        "lineage": folder / "lineage.jsonl",
        "pth": folder / "site-packages" / "decoy.pth",
    }
    (folder / "site-packages").mkdir(parents=True)
    files["labels"].write_bytes(b"DECOY LABELS " + nonce.encode())
    files["lineage"].write_text("one honest line\n")
    files["pth"].write_text("# nothing\n")
    for path in files.values():
        path.chmod(0o666)
    with contextlib.ExitStack() as stack:
        targets: dict[str, Any] = {name: str(path) for name, path in files.items()}
        targets |= _listen(stack, folder, nonce)
        targets |= _process(stack, nonce)
        targets |= _segment(stack)
        yield {**targets, "nonce": nonce}


def touched(targets: dict[str, Any]) -> list[str]:
    """Decoy files that no longer hold what they did."""
    lineage = Path(targets["lineage"]).read_text() != "one honest line\n"
    lineage |= Path(targets["lineage"]).stat().st_mode & 0o777 != 0o666
    pth = Path(targets["pth"]).read_text() != "# nothing\n"
    return [name for name, changed in (("lineage", lineage), ("packages", pth)) if changed]


def _listen(stack: contextlib.ExitStack, folder: Path, nonce: str) -> dict[str, Any]:
    tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    udp.bind(("127.0.0.1", 0))
    abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
    abstract.bind(f"\0bakeoff-{nonce}")
    abstract.listen()
    by_path = stack.enter_context(socket.socket(socket.AF_UNIX))
    by_path.bind(str(folder / "s"))
    by_path.listen()
    (folder / "s").chmod(0o777)

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                data, address = udp.recvfrom(16)
                if not data:
                    return
                udp.sendto(b"ok", address)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    port = udp.getsockname()[1]
    stack.callback(_wake, port, thread)
    return {
        "tcp": tcp.getsockname()[1],
        "udp": port,
        "abstract": f"bakeoff-{nonce}",
        "socket": str(folder / "s"),
    }


def _wake(port: int, thread: threading.Thread) -> None:
    """An empty datagram ends the answering thread before its socket is closed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"", ("127.0.0.1", port))
    thread.join(2)


def _process(stack: contextlib.ExitStack, nonce: str) -> dict[str, Any]:
    """Stands for the engine: a key in its environment, labels in its memory."""
    child = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROCESS, nonce],
            env={**CLEAN_ENV, "DECOY_API_KEY": f"DECOY-KEY-{nonce}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    )
    stack.callback(child.kill)
    assert child.stdout is not None
    return {"pid": child.pid, "address": int(child.stdout.readline())}


def _segment(stack: contextlib.ExitStack) -> dict[str, Any]:
    libc = ctypes.CDLL(None, use_errno=True)
    segment = libc.shmget(0, 4096, 0o1666)
    if segment >= 0:
        stack.callback(libc.shmctl, segment, 0, None)
    return {"shm": segment}
