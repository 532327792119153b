"""Endpoints of Codex (Responses) and the Gemini CLI (generateContent): one shell command, then a last word.

Only what these programs need of them; `seen` has the method and path of each request. The Messages API, which Claude
Code and opencode speak, is `messages_server`.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SAID = "Done: a better start of the fit."
USED = {"in": 100, "cached": 40, "out": 10}
_ROUTE = {
    "reasoning": "simple",
    "complexity_reasoning": "simple",
    "complexity_score": 10,
    "model_choice": "flash",
}


class AgentEndpoints:
    """`url` while it is entered; `command` is what the agent's shell is told to run."""

    def __init__(self, command: str) -> None:
        self.seen: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                server.seen.append(f"GET {self.path}")
                self.answer("application/json", json.dumps({"data": [], "models": []}))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
                server.seen.append(f"POST {self.path}")
                if ":generateContent" in self.path:  # the router's question, before the first turn
                    self.answer("application/json", json.dumps(_gemini({"text": json.dumps(_ROUTE)})))
                elif "streamGenerateContent" in self.path:
                    self.answer("text/event-stream", _lines([_gemini_turn(body, command)]))
                else:
                    self.answer("text/event-stream", _lines(_responses(body, command)))

            def answer(self, kind: str, text: str) -> None:
                data = text.encode()
                self.send_response(200)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> AgentEndpoints:
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.shutdown()
        self._http.server_close()


def _lines(events: list[dict[str, Any]]) -> str:
    return "".join(
        (f"event: {event['type']}\n" if "type" in event else "") + f"data: {json.dumps(event)}\n\n"
        for event in events
    )


def _responses(body: dict[str, Any], command: str) -> list[dict[str, Any]]:
    done = any(item.get("type", "").endswith("_call_output") for item in body.get("input", []))
    item: dict[str, Any] = {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "call_1",
        "name": "exec_command",
        "arguments": json.dumps({"cmd": command}),
    }
    if done:
        item = {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "content": [{"type": "output_text", "text": SAID}],
        }
    usage = {
        "input_tokens": USED["in"],
        "input_tokens_details": {"cached_tokens": USED["cached"]},
        "output_tokens": USED["out"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": USED["in"] + USED["out"],
    }
    return [
        {"type": "response.created", "response": {"id": "resp_1"}},
        {"type": "response.output_item.done", "item": item},
        {"type": "response.completed", "response": {"id": "resp_1", "usage": usage}},
    ]


def _gemini_turn(body: dict[str, Any], command: str) -> dict[str, Any]:
    parts = [part for content in body.get("contents", []) for part in content.get("parts", [])]
    if any("functionResponse" in part for part in parts):
        return _gemini({"text": SAID})
    call = {"name": "run_shell_command", "args": {"command": command, "description": "edit the source"}}
    return _gemini({"functionCall": call})


def _gemini(part: dict[str, Any]) -> dict[str, Any]:
    return {
        "candidates": [{"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {
            "promptTokenCount": USED["in"],
            "candidatesTokenCount": USED["out"],
            "cachedContentTokenCount": USED["cached"],
            "totalTokenCount": USED["in"] + USED["out"],
        },
        "modelVersion": "gemini-scripted",
    }
