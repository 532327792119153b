"""`bakeoff report --serve`: the report page over HTTP on this machine, built anew when lineage has grown.

Use: `serve(page, port=0, say=print)`; `page()` returns the HTML. Stop it with Ctrl-C.
Limits: listens on 127.0.0.1 only and answers only requests that name this machine as their host, so
that no web page can read it through a rebound name. One page, no other path. `Cached` rebuilds only
when its `version()` changes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LOCAL = ("127.0.0.1", "localhost")


class Cached:
    """`page()` as of the last `version()`; several readers at once cause one build."""

    def __init__(self, build: Callable[[], str], version: Callable[[], object]) -> None:
        self._build = build
        self._version = version
        self._lock = threading.Lock()
        self._at: object = None
        self._text = ""

    def __call__(self) -> str:
        with self._lock:
            now = self._version()
            if not self._text or now != self._at:
                self._text, self._at = self._build(), now
            return self._text


def server(page: Callable[[], str], port: int = 0) -> ThreadingHTTPServer:
    """A server bound to a loopback port and not started yet; port 0 takes a free one."""

    class Handler(BaseHTTPRequestHandler):
        server_version = "bakeoff"
        sys_version = ""

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, body: bool) -> None:
            host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
            if host not in LOCAL:
                return self.send_error(HTTPStatus.FORBIDDEN, "only requests to 127.0.0.1 are answered")
            if self.path.split("?")[0] not in ("/", "/index.html"):
                return self.send_error(HTTPStatus.NOT_FOUND, "there is one page, at /")
            data = page().encode()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("X-Frame-Options", "DENY")
            self.end_headers()
            if body:
                self.wfile.write(data)
            return None

        def log_message(self, format: str, *args: object) -> None:
            """Quiet: a page that reloads itself would fill the terminal."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def serve(page: Callable[[], str], port: int = 0, say: Callable[[str], None] = print) -> None:
    """Serve until Ctrl-C. `say` is called with the address."""
    with server(page, port) as running:
        say(f"report: http://127.0.0.1:{running.server_address[1]}/  (Ctrl-C ends)")
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            return
