"""Inside the box: joins loopback ports to the engine's sockets, then starts the agent and ends with its exit status.

Run by path in a bare interpreter (`python -I -S`), so it imports the standard library alone. The box has a network of
its own without any way out; the only ways are Unix sockets of the engine (`agents.command.network_relay`) that are
mounted into it. For each (port, socket) it listens on 127.0.0.1 and copies bytes both ways, without reading them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from typing import Any

CHUNK = 1 << 16


def copy(source: socket.socket, target: socket.socket) -> None:
    """Bytes one way until their end, then pass the end on."""
    try:
        while data := source.recv(CHUNK):
            target.sendall(data)
    except OSError:
        pass
    for end, how in ((target, socket.SHUT_WR), (source, socket.SHUT_RD)):
        try:
            end.shutdown(how)
        except OSError:
            pass


def join(one: socket.socket, other: socket.socket) -> None:
    """Both ways; returns when both have ended, and closes both."""
    back = threading.Thread(target=copy, args=(other, one), daemon=True)
    back.start()
    copy(one, other)
    back.join()
    one.close()
    other.close()


def serve(listener: socket.socket, path: str) -> None:
    while True:
        client, _ = listener.accept()
        out = socket.socket(socket.AF_UNIX)
        try:
            out.connect(path)
        except OSError:
            client.close()
            out.close()
            continue
        threading.Thread(target=join, args=(client, out), daemon=True).start()


def listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    return listener


def main(config: dict[str, Any]) -> int:
    for port, path in config["ports"]:
        threading.Thread(target=serve, args=(listen(port), path), daemon=True).start()
    argv = config["argv"]
    try:
        # not forked: threads run here already
        pid = os.posix_spawnp(argv[0], argv, os.environ, setsigdef=[signal.SIGPIPE])
    except OSError as error:
        print(f"{argv[0]}: cannot be started: {error.strerror}", file=sys.stderr)
        return 127
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
