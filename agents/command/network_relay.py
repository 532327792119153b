"""The engine's end of an agent's network: Unix sockets that pass the model's endpoint, named hosts and the check.

`Relay(folder, ...)` listens on `proxy` (an HTTP proxy: CONNECT, and plain requests with a whole address), `endpoint`
(bytes to the model's endpoint, where that has an address of its own) and `check`. The agent's box has no other network.
`upstream` is the user's own HTTP proxy, where there is no other way out. A host passes by exact name and port. A name that resolves to this machine or a link-local address is refused, so that
no name server can open the machine's own services; an address of that kind must be named as such.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import threading
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit

from agents.command.preset import host_and_port
from agents.command.start_in_box import join
from lineage.errors import UsageError
from lineage.safe_text import for_terminal

PROXY, ENDPOINT, CHECK = "proxy", "endpoint", "check"
HEAD_LIMIT, QUESTION_LIMIT = 1 << 16, 32_000_000
CONNECT_S, SEND_S = 20.0, 60.0
AT_ONCE = 64  # connections; more wait in the listener's queue
REMEMBERED = 20  # refused hosts that a record names
_HOP = ("connection:", "proxy-connection:", "keep-alive:", "proxy-authorization:")

Address = tuple[str, int]


class Relay:
    """Serves from `with` to its end; every connection is closed then."""

    def __init__(
        self,
        folder: Path,
        allowed: Iterable[Address],
        endpoint: Address | None = None,
        check: Callable[[bytes], str] | None = None,
        upstream: Address | None = None,
    ) -> None:
        self._upstream = upstream
        self.allowed = frozenset(allowed) | ({endpoint} if endpoint else frozenset())
        self.endpoint = endpoint
        self.refused: list[str] = []
        self._check = check
        self._open: set[socket.socket] = set()
        self._lock, self._checking = threading.Lock(), threading.Lock()
        self._places = threading.Semaphore(AT_ONCE)
        self._ended = False
        self._listeners = [
            self._serve(folder, PROXY, self._proxy),
            self._serve(folder, CHECK, self._answer),
            *([self._serve(folder, ENDPOINT, self._straight)] if endpoint else []),
        ]

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._ended = True
            doomed = [*self._listeners, *self._open]
        for one in doomed:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits in accept or recv
            with contextlib.suppress(OSError):
                one.close()

    # ---- connections ---------------------------------------------------------------------------

    def _serve(self, folder: Path, name: str, handle: Callable[[socket.socket], None]) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        place = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        try:  # a socket's path has at most 107 bytes, and a folder of a test may have more
            listener.bind(f"/proc/self/fd/{place}/{name}")
        finally:
            os.close(place)
        (folder / name).chmod(0o666)
        listener.listen(128)
        threading.Thread(target=self._accept, args=(listener, handle), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket, handle: Callable[[socket.socket], None]) -> None:
        while True:
            self._places.acquire()
            try:
                client, _ = listener.accept()
            except OSError:
                self._places.release()
                return
            threading.Thread(target=self._one, args=(client, handle), daemon=True).start()

    def _one(self, client: socket.socket, handle: Callable[[socket.socket], None]) -> None:
        try:
            if self._keep(client):
                handle(client)
        except (OSError, ValueError):
            pass  # the other end is gone, or spoke no HTTP
        finally:
            with self._lock:
                self._open.discard(client)
            client.close()
            self._places.release()

    def _keep(self, one: socket.socket) -> bool:
        with self._lock:
            if not self._ended:
                self._open.add(one)
            return not self._ended

    def _connect(self, address: Address) -> socket.socket:
        """A connection to an address that passes. Raises OSError."""
        out = self._through(address) if self._upstream else _connected(_resolved(address))
        if not self._keep(out):
            out.close()
            raise OSError("the relay has ended")
        return out

    def _through(self, address: Address) -> socket.socket:
        """By way of the user's own proxy, which resolves the name. Loopback goes straight. Raises OSError."""
        ip = _ip(address[0])
        if self._upstream is None or address[0] == "localhost" or (ip is not None and ip.is_loopback):
            return _connected(address)
        out = _connected(self._upstream)
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        out.sendall(f"CONNECT {host}:{address[1]} HTTP/1.1\r\nHost: {host}:{address[1]}\r\n\r\n".encode())
        try:
            head, _ = _head(out, 1)
        except ValueError as error:
            raise OSError("the user's own proxy gave no answer") from error
        if head[0].split(" ")[1:2] != ["200"]:
            raise OSError(f"the user's own proxy answers {head[0][:80]!r}")
        return out

    def _join(self, client: socket.socket, out: socket.socket) -> None:
        try:
            join(client, out)
        finally:
            with self._lock:
                self._open.discard(out)

    # ---- the three sockets ---------------------------------------------------------------------

    def _straight(self, client: socket.socket) -> None:
        assert self.endpoint is not None
        self._join(client, self._connect(self.endpoint))

    def _proxy(self, client: socket.socket) -> None:
        head, rest = _head(client)
        method, target, version = head[0].split(" ")
        tunnel = method == "CONNECT"
        parts = urlsplit(f"//{target}" if tunnel else target)
        host, port = parts.hostname or "", parts.port or (443 if tunnel else 80)
        if not self._passes(host, port):
            self._refuse(client, f"{host}:{port}")
            return
        try:
            out = self._connect((host, port))
        except OSError as error:
            client.sendall(_reply("502 Bad Gateway", f"{host}:{port}: {error}"))
            return
        if tunnel:
            client.sendall(f"{version} 200 Connection established\r\n\r\n".encode())
        else:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            kept = [line for line in head[1:] if not line.lower().startswith(_HOP)]
            lines = [f"{method} {path} {version}", *kept, "Connection: close", "", ""]
            out.sendall("\r\n".join(lines).encode("latin-1"))
        out.sendall(rest)
        self._join(client, out)

    def _passes(self, host: str, port: int) -> bool:
        return any(port == other and fnmatchcase(host.lower(), name) for name, other in self.allowed)

    def _refuse(self, client: socket.socket, wanted: str) -> None:
        shown = for_terminal(wanted, newlines=False)[:80]
        with self._lock:
            if shown not in self.refused and len(self.refused) < REMEMBERED:
                self.refused.append(shown)
        client.sendall(_reply("403 Forbidden", f"{shown} is not a host that this agent may reach"))

    def _answer(self, client: socket.socket) -> None:
        with self._checking:  # one at a time: a question may be large
            self._checked(client)

    def _checked(self, client: socket.socket) -> None:
        client.settimeout(SEND_S)
        question = bytearray()
        while part := client.recv(1 << 16):
            question += part
            if len(question) > QUESTION_LIMIT:
                client.sendall(b"FAILED: the workspace is too large to be checked")
                return
        client.settimeout(None)
        text = self._check(bytes(question)) if self._check is not None else "FAILED: no check is offered here"
        client.sendall(text.encode("utf-8", "replace"))


def _connected(address: Address) -> socket.socket:
    out = socket.create_connection(address, timeout=CONNECT_S)
    out.settimeout(None)
    return out


def _head(client: socket.socket, chunk: int = 1 << 14) -> tuple[list[str], bytes]:
    """The lines of a head, and what came after it: nothing with a chunk of one byte."""
    data = bytearray()
    client.settimeout(SEND_S)
    while b"\r\n\r\n" not in data:
        part = client.recv(chunk)
        data += part
        if not part or len(data) > HEAD_LIMIT:
            raise ValueError("no request")
    client.settimeout(None)
    head, _, rest = bytes(data).partition(b"\r\n\r\n")
    return head.decode("latin-1").split("\r\n"), rest


def _reply(status: str, text: str) -> bytes:
    body = text.encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


def _resolved(address: Address) -> Address:
    """The first IP address that may be connected to. Raises OSError where a name stands for this machine."""
    host, port = address
    if host == "localhost" or _ip(host) is not None:
        return address
    for *_, found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        ip = _ip(str(found[0]))
        if ip is not None and not (ip.is_loopback or ip.is_link_local or ip.is_unspecified):
            return str(found[0]), port
    raise OSError(f"{host} stands for an address of this machine; name the address itself to allow it")


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def addresses(hosts: Iterable[str]) -> tuple[Address, ...]:
    """Hosts as a user or a preset writes them. Raises UsageError."""
    found = [host_and_port(host) for host in hosts]
    for name, port in found:
        ip = _ip(name)
        if ip is not None and ip.is_unspecified:
            raise UsageError(
                f"host {name}:{port} of the agent's network is no address that can be connected to"
            )
    return tuple(found)
