"""The Messages API as it arrives: events of a stream, or one JSON body, made into a `Reply`.

Lenient about what servers other than Anthropic's leave out (usage, cache counters, ids, event
types it does not support), strict about the one thing that matters: an answer without a stop_reason
was cut off and is not an answer. Usage that is missing is estimated at four characters a token and
says so. Nothing here does any I/O.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agents.llm.model_call import STOP_REASONS, CallFault, ContentBlock, Reply
from lineage.records import Usage

CHARS_PER_TOKEN = 4
SEARCH_BLOCKS = ("server_tool_use", "web_search_tool_result")
# Words of other dialects that gateways let through.
_SAME_AS = {
    "stop": "end_turn",
    "eos": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}


def tokens_of(text_chars: int) -> int:
    return -(-text_chars // CHARS_PER_TOKEN)


def chars_in(value: object) -> int:
    """Length of a message list or content list as JSON: what an endpoint without usage is billed by."""
    return len(json.dumps(value, ensure_ascii=False, default=str))


def _count(usage: Mapping[str, Any], key: str) -> int:
    value = usage.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def usage_of(raw: object, prompt_chars: int, reply_chars: int) -> tuple[Usage, bool]:
    """Usage from the server's own counters; an estimate (and True) where it gave none."""
    usage = raw if isinstance(raw, Mapping) else {}
    read = _count(usage, "cache_read_input_tokens")
    written = _count(usage, "cache_creation_input_tokens")
    tokens_in = _count(usage, "input_tokens")
    tokens_out = _count(usage, "output_tokens")
    guessed_in = not (tokens_in or read or written)
    guessed_out = not tokens_out and reply_chars > 0
    served = usage.get("server_tool_use")
    found = Usage(
        calls=1,
        searches=_count(served, "web_search_requests") if isinstance(served, Mapping) else 0,
        tokens_in=tokens_of(prompt_chars) if guessed_in else tokens_in,
        tokens_out=tokens_of(reply_chars) if guessed_out else tokens_out,
        tokens_cache_read=read,
        tokens_cache_write=written,
    )
    return found, guessed_in or guessed_out


def _clean_block(block: Mapping[str, Any], index: int) -> ContentBlock | None:
    """A block reduced to the fields that may be sent back; None for one that may not."""
    kind = block.get("type")
    if kind == "text":
        text = block.get("text")
        return {"type": "text", "text": text} if isinstance(text, str) and text.strip() else None
    if kind == "thinking":
        signature = block.get("signature")
        if not isinstance(signature, str) or not signature:
            return None  # an unsigned thought is refused when it is sent back
        return {"type": "thinking", "thinking": str(block.get("thinking", "")), "signature": signature}
    if kind == "redacted_thinking":
        return {"type": "redacted_thinking", "data": str(block.get("data", ""))}
    if kind in SEARCH_BLOCKS:  # the endpoint's own search and what it found: as it came, for its signatures
        return dict(block)
    if kind == "tool_use":
        name, given = block.get("name"), block.get("input")
        identity = block.get("id")
        return {
            "type": "tool_use",
            "id": identity if isinstance(identity, str) and identity else f"toolu_{index}",
            "name": name if isinstance(name, str) and name else "unnamed",
            "input": given if isinstance(given, dict) else {},
        }
    return None


def reply_from(message: object, prompt_chars: int, raw_inputs: Mapping[int, str] | None = None) -> Reply:
    """A Reply from a message body. `raw_inputs`: tool inputs of a stream that were not JSON objects."""
    if not isinstance(message, Mapping) or not isinstance(message.get("content"), list):
        shown = type(message).__name__ if not isinstance(message, Mapping) else sorted(map(str, message))[:8]
        raise CallFault("transient", f"answer is not a Messages API reply (got {shown})")
    stop = message.get("stop_reason")
    blocks: list[ContentBlock] = []
    bad: dict[str, str] = {}
    for index, raw in enumerate(message["content"]):
        block = _clean_block(raw, index) if isinstance(raw, Mapping) else None
        if block is None:
            continue
        blocks.append(block)
        if block["type"] == "tool_use":
            if raw_inputs and index in raw_inputs:
                bad[block["id"]] = raw_inputs[index]
            elif not isinstance(raw.get("input"), dict):
                bad[block["id"]] = str(raw.get("input"))
    usage, estimated = usage_of(message.get("usage"), prompt_chars, chars_in(message["content"]))
    if not isinstance(stop, str) or not stop:
        raise CallFault("transient", "answer was cut off: it has no stop_reason", usage=usage)
    known = stop if stop in STOP_REASONS else _SAME_AS.get(stop, "end_turn")
    details = message.get("stop_details")
    return Reply(
        content=tuple(blocks),
        stop_reason=known,
        usage=usage,
        model=str(message.get("model") or ""),
        request_id=str(message.get("id") or ""),
        stop_details=dict(details) if isinstance(details, Mapping) else {},
        usage_estimated=estimated,
        bad_inputs=bad,
    )


class Assembly:
    """Collects the events of one stream; `partial_usage` is what has been paid if it stops here."""

    def __init__(self, prompt_chars: int) -> None:
        self._prompt_chars = prompt_chars
        self._head: dict[str, Any] = {}
        self._blocks: dict[int, ContentBlock] = {}
        self._json: dict[int, list[str]] = {}
        self._usage: dict[str, int] = {}
        self._served: dict[str, int] = {}  # the endpoint's own tools
        self.started = False

    def feed(self, event: Mapping[str, Any]) -> None:
        kind = event.get("type")
        if kind == "message_start" and isinstance(event.get("message"), Mapping):
            self._head = dict(event["message"])
            self.started = True
            self._merge_usage(self._head.get("usage"))
        elif kind == "content_block_start" and isinstance(event.get("content_block"), Mapping):
            self._blocks[self._index(event)] = dict(event["content_block"])
        elif kind == "content_block_delta" and isinstance(event.get("delta"), Mapping):
            self._delta(self._index(event), event["delta"])
        elif kind == "message_delta":
            if isinstance(event.get("delta"), Mapping):
                self._head.update({k: v for k, v in event["delta"].items() if v is not None})
            self._merge_usage(event.get("usage"))

    def _index(self, event: Mapping[str, Any]) -> int:
        index = event.get("index")
        return index if isinstance(index, int) else max(self._blocks, default=0)

    def _merge_usage(self, usage: object) -> None:
        """Counters are cumulative and some servers send zeros first, so the largest seen counts."""
        if isinstance(usage, Mapping):
            if isinstance(served := usage.get("server_tool_use"), Mapping):
                searched = _count(served, "web_search_requests")
                before = self._served.get("web_search_requests", 0)
                self._served = {"web_search_requests": max(before, searched)}
            for key in usage:
                self._usage[str(key)] = max(self._usage.get(str(key), 0), _count(usage, str(key)))

    def _delta(self, index: int, delta: Mapping[str, Any]) -> None:
        kind = delta.get("type")
        default = {"text_delta": "text", "input_json_delta": "tool_use"}.get(str(kind), "thinking")
        block = self._blocks.setdefault(index, {"type": default})
        if kind == "text_delta":
            block["text"] = str(block.get("text") or "") + str(delta.get("text") or "")
        elif kind == "thinking_delta":
            block["thinking"] = str(block.get("thinking") or "") + str(delta.get("thinking") or "")
        elif kind == "signature_delta":
            block["signature"] = str(delta.get("signature") or "")
        elif kind == "input_json_delta":
            self._json.setdefault(index, []).append(str(delta.get("partial_json") or ""))

    def partial_usage(self) -> Usage:
        """A lower bound: input as announced, output from the characters that have arrived."""
        arrived = sum(len(part) for parts in self._json.values() for part in parts) + sum(
            len(str(b.get("text") or "")) + len(str(b.get("thinking") or "")) for b in self._blocks.values()
        )
        announced = {
            **self._usage,
            "server_tool_use": self._served,
            "output_tokens": max(_count(self._usage, "output_tokens"), tokens_of(arrived)),
        }
        return usage_of(announced, self._prompt_chars, arrived)[0]

    def reply(self) -> Reply:
        """The whole answer; a transient CallFault with its cost when the stream was cut off."""
        bad: dict[int, str] = {}
        content: list[ContentBlock] = []
        for place, index in enumerate(sorted(self._blocks)):
            block = self._blocks[index]
            text = "".join(self._json.get(index, [])).strip()
            if block.get("type") in ("tool_use", "server_tool_use") and text:
                value = _object(text)
                block = {**block, "input": value or {}}
                if value is None:
                    bad[place] = text
            content.append(block)
        if not self.started or not self._head.get("stop_reason"):
            raise CallFault(
                "transient",
                "answer was cut off: the stream ended without a stop_reason",
                usage=self.partial_usage() if self.started else None,
            )
        return reply_from(
            {**self._head, "content": content, "usage": {**self._usage, "server_tool_use": self._served}},
            self._prompt_chars,
            bad,
        )


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
