"""OpenAI-compatible endpoints: one POST to /chat/completions, with tools, and nothing more.

A client of our own rather than a library, because the session needs the raw finish reason, usage
and tool calls for lineage, and only one route: the openai package brings a second HTTP stack of
types for it, litellm 41 MB and 22 dependencies that rewrite both requests and usage, and most
servers that one would reach this way (llama.cpp, vLLM, Ollama, LM Studio) speak the Messages API
as well (agents.llm.anthropic_client). It translates the Messages shape of agents.llm.model_call both ways, so the session
loop, the tools and the records are the same.

Key and address: OPENAI_API_KEY and OPENAI_BASE_URL (default https://api.openai.com/v1). Limits: no
streaming, so a long answer shows nothing until it is whole; no prompt-cache marks (such servers
cache prefixes by themselves); thoughts are not carried over.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import httpx2

from agents.llm.http_status import advice, retry_seconds, status_kind
from agents.llm.messages_stream import chars_in, reply_from
from agents.llm.model_call import CallFault, ContentBlock, ModelCall, Reply
from agents.llm.prices import is_loopback
from lineage.safe_text import for_prompt, redact

DEFAULT_BASE = "https://api.openai.com/v1"
_STOP = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


class OpenAIChat:
    """Thread-safe. Reads the environment when it is made; make it once and `close` it at the end."""

    name = "openai"

    def __init__(self) -> None:
        base = os.environ.get("OPENAI_BASE_URL", "").strip() or DEFAULT_BASE
        self._url = base.rstrip("/") + "/chat/completions"
        self._host = httpx2.URL(base).host
        key = os.environ.get("OPENAI_API_KEY", "").strip()
        self.key_source = "OPENAI_API_KEY" if key else "none"
        if not key and is_loopback(self._host):
            self.key_source = "none needed: local endpoint"
        self._client = httpx2.Client(headers={"authorization": f"Bearer {key}"} if key else {})
        self._without: dict[str, frozenset[str]] = {}
        self._lock = threading.Lock()

    @property
    def host(self) -> str:
        return self._host

    def close(self) -> None:
        self._client.close()

    def send(self, call: ModelCall, seconds: float, stop: threading.Event) -> Reply:
        """One answer; asked again of a server that wants another name for the length limit, or has no tools."""
        without = self._without.get(call.model, frozenset())
        while True:
            try:
                reply = self._once(call, without, seconds)
                break
            except CallFault as fault:
                refused = _refused(fault, call) - without
                if not refused or stop.is_set():
                    raise
                without |= refused
        with self._lock:
            self._without[call.model] = self._without.get(call.model, frozenset()) | without
        return reply

    def _once(self, call: ModelCall, without: frozenset[str], seconds: float) -> Reply:
        if self.key_source == "none":
            raise CallFault("blocked", f"no key for {self._host}; set OPENAI_API_KEY", status=401)
        body = request_body(call, without)
        timeout = httpx2.Timeout(seconds, connect=min(seconds, 10.0))
        try:
            answer = self._client.post(self._url, json=body, timeout=timeout)
        except httpx2.TimeoutException as e:
            raise CallFault("transient", f"{self._host} did not answer in time") from e
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as e:
            raise CallFault("transient", f"no answer from {self._host}: {redact(str(e))[:200]}") from e
        value = _json(answer.content)
        if answer.status_code != 200:
            raise self._status_fault(answer, value)
        return reply_from(_message(value), chars_in([body["messages"], body.get("tools")]))

    def _status_fault(self, answer: httpx2.Response, value: object) -> CallFault:
        status = answer.status_code
        error = value.get("error") if isinstance(value, Mapping) else None
        told = error if isinstance(error, Mapping) else {"message": error or answer.text[:400]}
        message, code = str(told.get("message") or ""), str(told.get("code") or "")
        hint = advice(status, "OPENAI_API_KEY", "OPENAI_BASE_URL")
        return CallFault(
            status_kind(status, message, code, answer.headers.get("x-should-retry")),
            redact(f"{self._host} answered {status}: {for_prompt(message, 300)}{hint}"),
            retry_after=retry_seconds(answer.headers.get("retry-after")),
            status=status,
        )


def _refused(fault: CallFault, call: ModelCall) -> frozenset[str]:
    if fault.kind != "rejected" or fault.status not in (400, 422):
        return frozenset()
    words = str(fault).lower()
    refused = {"max_tokens"} if "max_completion_tokens" in words or "max_tokens" in words else set()
    if call.effort and "reasoning_effort" in words:
        refused.add("effort")
    if call.tools and len(call.messages) == 1 and ("tool" in words or "function" in words):
        refused.add("tools")
    return frozenset(refused)


def request_body(call: ModelCall, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    """A Messages-shaped call as a chat completions body."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": call.system}] if call.system else []
    for turn in call.messages:
        messages += _turn(turn)
    limit = "max_completion_tokens" if "max_tokens" in without else "max_tokens"
    body: dict[str, Any] = {"model": call.model, "messages": messages, limit: call.max_tokens}
    if call.tools and "tools" not in without:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool["name"],
                    "description": tool["description"],
                    "parameters": tool["input_schema"],
                },
            }
            for tool in call.tools
        ]
    if call.effort and "effort" not in without:
        body["reasoning_effort"] = call.effort
    return body


def _turn(turn: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = turn["content"]
    blocks: Sequence[ContentBlock] = (
        [{"type": "text", "text": content}] if isinstance(content, str) else content
    )
    text = "\n\n".join(str(b["text"]) for b in blocks if b["type"] == "text")
    if turn["role"] == "user":
        results = [
            {"role": "tool", "tool_call_id": b["tool_use_id"], "content": b["content"]}
            for b in blocks
            if b["type"] == "tool_result"
        ]
        return [*results, {"role": "user", "content": text}] if text else results
    calls = [
        {
            "id": b["id"],
            "type": "function",
            "function": {"name": b["name"], "arguments": json.dumps(b["input"], ensure_ascii=False)},
        }
        for b in blocks
        if b["type"] == "tool_use"
    ]
    said: dict[str, Any] = {"role": "assistant", "content": text or None}
    return [{**said, "tool_calls": calls}] if calls else [said]


def _json(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError as e:
        shown = for_prompt(data[:400].decode("utf-8", "replace"), 160)
        raise CallFault("transient", f"answer is not JSON (begins {shown})") from e


def _message(value: object) -> dict[str, Any]:
    """A chat completion as a message body of the Messages API; CallFault when it is none."""
    choices = value.get("choices") if isinstance(value, Mapping) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    said = choice.get("message") if isinstance(choice, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(choice, Mapping) or not isinstance(said, Mapping):
        raise CallFault("transient", "answer is not a chat completion: it has no choices[0].message")
    blocks: list[ContentBlock] = []
    if isinstance(said.get("content"), str):
        blocks.append({"type": "text", "text": said["content"]})
    for call in said.get("tool_calls") or []:
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            raw = function.get("arguments")
            given = _arguments(raw)
            blocks.append(
                {
                    "type": "tool_use",
                    "id": call.get("id"),
                    "name": function.get("name"),
                    "input": raw if given is None else given,
                }
            )
    finish = choice.get("finish_reason")
    declined = said.get("refusal")
    return {
        "id": value.get("id"),
        "model": value.get("model"),
        "content": blocks,
        "stop_reason": "refusal" if declined else _STOP.get(str(finish), finish),
        "stop_details": {"explanation": declined} if declined else None,
        "usage": _usage(value.get("usage")),
    }


def _arguments(raw: object) -> dict[str, Any] | None:
    if isinstance(raw, dict):
        return raw
    try:
        value = json.loads(raw) if isinstance(raw, str) else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _usage(raw: object) -> dict[str, int]:
    """Cached prompt tokens are part of prompt_tokens there and apart here."""
    usage = raw if isinstance(raw, Mapping) else {}
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else 0
    read = cached if isinstance(cached, int) and cached > 0 else 0
    asked, answered = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return {
        "input_tokens": max(0, asked - read) if isinstance(asked, int) else 0,
        "cache_read_input_tokens": read,
        "output_tokens": answered if isinstance(answered, int) else 0,
    }
