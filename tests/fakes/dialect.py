"""The Messages API's own rules: how a message is cut into events, and which bodies get a 400."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]
_KNOWN = {
    *(
        "model",
        "max_tokens",
        "messages",
        "system",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
        "stream",
    ),
    *("cache_control", "stop_sequences", "metadata", "service_tier", "temperature", "container"),
}


def events(whole: Json) -> Iterator[Json]:
    """The stream events of a message, as the API cuts it up."""
    usage = whole.get("usage")
    head = {**whole, "content": [], "stop_reason": None, "stop_details": None}
    if usage is not None:
        head["usage"] = {**usage, "output_tokens": 1}
    yield {"type": "message_start", "message": head}
    for index, block in enumerate(whole["content"]):
        empty = {
            "text": {"text": ""},
            "thinking": {"thinking": "", "signature": ""},
            "tool_use": {"input": {}},
        }
        opening = {**block, **empty.get(block["type"], {})}
        yield {"type": "content_block_start", "index": index, "content_block": opening}
        for delta in _deltas(block):
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {"type": "ping"}
    final: Json = {
        "type": "message_delta",
        "delta": {
            "stop_reason": whole["stop_reason"],
            "stop_sequence": None,
            "stop_details": whole["stop_details"],
        },
    }
    if usage is not None:
        final["usage"] = usage
    yield final
    yield {"type": "message_stop"}


def _deltas(block: Json) -> Iterator[Json]:
    if block["type"] == "text":
        for at in range(0, len(block["text"]), 64):
            yield {"type": "text_delta", "text": block["text"][at : at + 64]}
    elif block["type"] == "thinking":
        yield {"type": "thinking_delta", "thinking": block["thinking"]}
        yield {"type": "signature_delta", "signature": block["signature"]}
    elif block["type"] == "tool_use":
        # `_raw` lets a script stream an input that is not JSON
        words = block.get("_raw") or json.dumps(block["input"])
        for at in range(0, len(words), 48):
            yield {"type": "input_json_delta", "partial_json": words[at : at + 48]}


def request_fault(body: Json) -> str:
    """Why the API would answer 400 to this body, or an empty string."""
    for key in body:
        if key not in _KNOWN:
            return f"{key}: Extra inputs are not permitted"
    for key in ("model", "max_tokens", "messages"):
        if key not in body:
            return f"{key}: Field required"
    turns = body["messages"]
    if not turns or turns[0]["role"] != "user":
        return "messages: first message must use the user role"
    marks = json.dumps(body).count('"cache_control"')
    if marks > 4:
        return f"A maximum of 4 blocks with cache_control may be provided. Found {marks}."
    for tool in body.get("tools", []):
        if tool.get("type") == "web_search_20250305":
            if set(tool) - {"type", "name", "max_uses", "blocked_domains"} or tool.get("max_uses", 1) < 1:
                return (
                    "tools.0.web_search_20250305: Extra inputs are not permitted, or max_uses is less than 1"
                )
            continue
        if not {"name", "input_schema"} <= set(tool) or tool["input_schema"].get("type") != "object":
            return "tools.0.input_schema.type: Field required"
    return next((fault for n, turn in enumerate(turns) if (fault := _turn_fault(turns, n, turn))), "")


def _turn_fault(turns: list[Json], n: int, turn: Json) -> str:
    content = turn["content"]
    if isinstance(content, str):
        return "" if content.strip() else f"messages.{n}: text content blocks must be non-empty"
    if not content:
        return f"messages.{n}: content must be non-empty"
    for block in content:
        if block["type"] == "text" and not block["text"].strip():
            return f"messages.{n}: text content blocks must contain non-whitespace text"
        if block["type"] == "thinking" and not block.get("signature"):
            return f"messages.{n}: thinking.signature: Field required"
        if block["type"] == "tool_use" and set(block) - {"type", "id", "name", "input", "cache_control"}:
            return f"messages.{n}: tool_use: Extra inputs are not permitted"
    served = {b["id"] for b in content if b["type"] == "server_tool_use"}
    answered = {b["tool_use_id"] for b in content if b["type"] == "web_search_tool_result"}
    if served != answered or (served and turn["role"] != "assistant"):
        return f"messages.{n}: `web_search` tool use without a corresponding `web_search_tool_result` block"
    asked = {b["id"] for b in content if b["type"] == "tool_use"}
    following = turns[n + 1]["content"] if n + 1 < len(turns) else []
    given = {b["tool_use_id"] for b in following if isinstance(b, dict) and b["type"] == "tool_result"}
    if turn["role"] == "assistant" and asked != given:
        return f"messages.{n}: `tool_use` ids were found without `tool_result` blocks immediately after"
    results = {b["tool_use_id"] for b in content if b["type"] == "tool_result"}
    before = turns[n - 1]["content"] if n else []
    called = {b["id"] for b in before if isinstance(b, dict) and b["type"] == "tool_use"}
    return f"messages.{n}: unexpected `tool_use_id` in `tool_result` blocks" if results - called else ""
