"""A scripted server on loopback that speaks the Anthropic Messages API (and OpenAI's chat completions).

    with FakeMessages([tool_use("replace", {...}), status(429, retry_after=1), text("done")]) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        ...
    server.requests     # every request seen: path, headers (lower case), body, t

The script (tests.fakes.script) is a list, whose last step repeats, or a function from the request
body to a step. It is faithful where a client can go wrong: unknown fields, a tool result that
answers no call, a missing answer to a call, empty text blocks and unsigned thoughts get a 400, and
the cache counters follow the request's cache_control marks. Standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.fakes.dialect import events, request_fault
from tests.fakes.script import Json, Script, Step, status

_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class FakeMessages:
    def __init__(self, script: Script, *, strict: bool = True, rejects: Sequence[str] = ()) -> None:
        self.requests: list[Json] = []
        self._script, self._strict, self._rejects = script, strict, tuple(rejects)
        self._lock, self._next = threading.Lock(), 0
        self._cached: set[str] = set()
        self._closing = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_POST(self) -> None:
                server._post(self)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> FakeMessages:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()

    @property
    def bodies(self) -> list[Json]:
        return [r["body"] for r in self.requests]

    # ---- one request ---------------------------------------------------------------------------

    def _post(self, h: BaseHTTPRequestHandler) -> None:
        data = h.rfile.read(int(h.headers.get("content-length", 0)))
        body = json.loads(data or b"{}")
        path = h.path.split("?")[0]
        with self._lock:
            headers = {k.lower(): v for k, v in h.headers.items()}
            self.requests.append({"path": h.path, "headers": headers, "body": body, "t": time.monotonic()})
            fault = self._fault(path, body)
            step = None
            if fault is None:
                step = self._take(body)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if fault is not None:
                self._error(h, status(fault[0], message=fault[1]))
            elif step is not None:
                self._answer(h, step, body, openai=path.endswith("/chat/completions"))

    def _take(self, body: Json) -> Step:
        if callable(self._script):
            return self._script(body)
        step = self._script[min(self._next, len(self._script) - 1)]
        self._next += 1
        return step

    def _fault(self, path: str, body: Json) -> tuple[int, str] | None:
        if path.endswith("/chat/completions"):
            return None
        if path != "/v1/messages":
            return 404, f"no such route: {path}"
        for name in self._rejects:
            if name in json.dumps(body):
                return 400, f"{name}: Extra inputs are not permitted"
        wrong = request_fault(body) if self._strict else ""
        return (400, wrong) if wrong else None

    def _answer(self, h: BaseHTTPRequestHandler, step: Step, body: Json, openai: bool) -> None:
        if step.delay:
            self._closing.wait(step.delay)
        if step.kind == "status":
            self._error(h, step)
        elif step.kind == "raw":
            self._send(h, step.code, step.body, step.content_type)
        elif step.kind in ("hang", "drip", "pings"):
            self._stall(h, step)
        elif step.kind == "disconnect":
            h.connection.shutdown(socket.SHUT_RDWR)
            h.close_connection = True
        elif openai:
            self._send(h, 200, json.dumps(self._completion(step, body)).encode())
        elif body.get("stream") and step.kind != "json":
            self._stream(h, step, body)
        else:
            self._send(h, 200, json.dumps(self._message(step, body)).encode())

    # ---- replies -------------------------------------------------------------------------------

    def _send(
        self,
        h: BaseHTTPRequestHandler,
        code: int,
        data: bytes,
        content_type: str = "application/json",
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        h.send_response(code)
        h.send_header("content-type", content_type)
        h.send_header("content-length", str(len(data)))
        h.send_header("request-id", f"req_fake_{len(self.requests):04d}")
        for name, value in headers:
            h.send_header(name, value)
        h.end_headers()
        h.wfile.write(data)

    def _error(self, h: BaseHTTPRequestHandler, step: Step) -> None:
        error: Json = {"type": _ERRORS.get(step.code, "api_error"), "message": step.message}
        if step.error_code:
            error["details"] = {"error_code": step.error_code}
        self._send(h, step.code, json.dumps({"type": "error", "error": error}).encode(), headers=step.headers)

    def _stall(self, h: BaseHTTPRequestHandler, step: Step) -> None:
        end = time.monotonic() + step.seconds
        if step.kind != "hang":
            kind = "application/json" if step.kind == "drip" else "text/event-stream"
            h.send_response(200)
            h.send_header("content-type", kind)
            h.send_header("transfer-encoding", "chunked")
            h.end_headers()
        while time.monotonic() < end and not self._closing.wait(0.05):
            if step.kind == "drip":
                h.wfile.write(b"1\r\n \r\n")
            elif step.kind == "pings":
                self._put(h, "ping", {"type": "ping"})
        h.close_connection = True

    def _usage(self, step: Step, body: Json) -> Json | None:
        if step.usage is None:
            return None
        read, written, fresh = self._cache(body)
        made = max(1, len(json.dumps(step.blocks)) // 4)
        counted = {
            "input_tokens": fresh,
            "output_tokens": made,
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": read,
            "service_tier": "standard",
        }
        return {**counted, **step.usage}

    def _cache(self, body: Json) -> tuple[int, int, int]:
        """(read, written, fresh) tokens: the longest prefix seen before that ends at a mark is read."""
        parts: list[tuple[str, bool]] = [(json.dumps(t), "cache_control" in t) for t in body.get("tools", [])]
        system = body.get("system", [])
        parts += [(json.dumps(b), "cache_control" in b) for b in (system if isinstance(system, list) else [])]
        for turn in body.get("messages", []):
            content = turn["content"] if isinstance(turn["content"], list) else [turn["content"]]
            parts += [(json.dumps(b), isinstance(b, dict) and "cache_control" in b) for b in content]
        if "cache_control" in body and parts:
            parts[-1] = (parts[-1][0], True)
        digest, length, read, marked = hashlib.sha256(), 0, 0, 0
        for words, mark in parts:
            digest.update(words.encode())
            length += len(words)
            key = digest.hexdigest()
            if key in self._cached:
                read = length
            if mark:
                self._cached.add(key)
                marked = length
        written = max(0, marked - read)
        return read // 4, written // 4, max(1, (length - read - written) // 4)

    def _message(self, step: Step, body: Json) -> Json:
        found: Json = {
            "id": f"msg_fake_{len(self.requests):04d}",
            "type": "message",
            "role": "assistant",
            "model": body.get("model"),
            "content": list(step.blocks),
            "stop_reason": step.stop,
            "stop_sequence": None,
            "stop_details": step.details,
            "usage": self._usage(step, body),
        }
        if found["usage"] is None:
            del found["usage"]
        return found

    def _completion(self, step: Step, body: Json) -> Json:
        """The same step in the chat completions dialect."""
        words = "".join(b["text"] for b in step.blocks if b["type"] == "text")
        calls = [
            {
                "id": b["id"],
                "type": "function",
                "function": {"name": b["name"], "arguments": json.dumps(b["input"])},
            }
            for b in step.blocks
            if b["type"] == "tool_use"
        ]
        reason = {
            "end_turn": "stop",
            "tool_use": "tool_calls",
            "max_tokens": "length",
            "refusal": "content_filter",
        }
        reply: Json = {"role": "assistant", "content": words or None}
        if calls:
            reply["tool_calls"] = calls
        choice = {"index": 0, "message": reply, "finish_reason": reason.get(step.stop or "", step.stop)}
        made: Json = {
            "id": "chatcmpl-fake",
            "object": "chat.completion",
            "model": body.get("model"),
            "choices": [choice],
        }
        if step.usage is not None:
            asked, answered = len(json.dumps(body["messages"])) // 4, max(1, len(json.dumps(choice)) // 4)
            made["usage"] = {"prompt_tokens": asked, "completion_tokens": answered, **step.usage}
        return made

    # ---- streams -------------------------------------------------------------------------------

    def _put(self, h: BaseHTTPRequestHandler, name: str, event: Json) -> None:
        data = f"event: {name}\ndata: {json.dumps(event)}\n\n".encode()
        h.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        h.wfile.flush()

    def _stream(self, h: BaseHTTPRequestHandler, step: Step, body: Json) -> None:
        h.send_response(200)
        h.send_header("content-type", "text/event-stream")
        h.send_header("transfer-encoding", "chunked")
        h.end_headers()
        for number, event in enumerate(events(self._message(step, body))):
            if step.after is not None and number >= step.after:
                if step.kind == "cut-error":
                    error = {"type": step.error_type, "message": step.message}
                    self._put(h, "error", {"type": "error", "error": error})
                elif step.kind == "cut-reset":
                    h.connection.shutdown(socket.SHUT_RDWR)
                    h.close_connection = True
                    return
                break
            self._put(h, event["type"], event)
        h.wfile.write(b"0\r\n\r\n")
