"""Inside the box: the program `bakeoff-check`. Sends the workspace to the engine and prints what its checks find.

Run by path in a bare interpreter, from any folder. Exit status 0: nothing is wrong; 1: something is; 2: no answer.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import socket
import sys
from pathlib import Path

SOCKET, WORKSPACE = "/run/bakeoff/check", "/workspace"
WAIT_S = 600.0


def main(address: str = SOCKET, workspace: str = WORKSPACE) -> int:
    beside = Path(__file__).with_name("workspace_files.py")
    spec = importlib.util.spec_from_file_location("workspace_files", beside)
    assert spec is not None and spec.loader is not None
    reading = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reading)
    files, odd = reading.read_files(workspace)
    encoded = {path: base64.b64encode(data).decode() for path, data in files.items()}
    question = json.dumps({"files": encoded, "odd": odd}).encode("utf-8", "surrogateescape")
    try:
        with socket.socket(socket.AF_UNIX) as engine:
            engine.settimeout(WAIT_S)
            engine.connect(address)
            engine.sendall(question)
            engine.shutdown(socket.SHUT_WR)
            parts = []
            while part := engine.recv(1 << 16):
                parts.append(part)
    except OSError as error:
        print(f"bakeoff-check: no answer from the engine: {error}", file=sys.stderr)
        return 2
    answer = b"".join(parts).decode("utf-8", "replace")
    if not answer:
        print("bakeoff-check: the engine did not answer", file=sys.stderr)
        return 2
    print(answer)
    return 1 if "FAILED" in answer else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
