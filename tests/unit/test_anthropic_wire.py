"""Streams and bodies as servers other than Anthropic's send them, and the ones that must be refused."""

from __future__ import annotations

from typing import Any

import pytest

from agents.llm.messages_stream import Assembly, reply_from
from agents.llm.model_call import CallFault, Reply

START = {
    "type": "message_start",
    "message": {"id": "m", "model": "local", "content": [], "usage": {"input_tokens": 0}},
}
STOP = {
    "type": "message_delta",
    "delta": {"stop_reason": "tool_use"},
    "usage": {"input_tokens": 900, "output_tokens": 7},
}


def assembled(*events: dict[str, Any]) -> Reply:
    assembly = Assembly(400)
    for event in events:
        assembly.feed(event)
    return assembly.reply()


def delta(index: int, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": fields}


def test_usage_that_comes_only_at_the_end_counts() -> None:
    reply = assembled(START, delta(0, type="text_delta", text="hi"), STOP)
    assert (reply.usage.tokens_in, reply.usage.tokens_out, reply.usage_estimated) == (900, 7, False)
    assert reply.text == "hi", "a delta without its start block is kept"


def test_tool_input_given_whole_at_the_start_and_a_missing_id() -> None:
    block = {"type": "tool_use", "name": "view", "input": {"path": "a.py"}}
    reply = assembled(START, {"type": "content_block_start", "index": 0, "content_block": block}, STOP)
    assert reply.tool_uses == [
        {"type": "tool_use", "id": "toolu_0", "name": "view", "input": {"path": "a.py"}}
    ]


@pytest.mark.parametrize("raw", ['{"path": "a', "[1]", '"text"', "nonsense"])
def test_tool_input_that_is_no_object_is_marked(raw: str) -> None:
    block = {"type": "tool_use", "id": "t", "name": "view", "input": {}}
    start = {"type": "content_block_start", "index": 0, "content_block": block}
    reply = assembled(START, start, delta(0, type="input_json_delta", partial_json=raw), STOP)
    assert reply.bad_inputs == {"t": raw} and reply.tool_uses[0]["input"] == {}


def test_unknown_events_and_blocks_are_skipped() -> None:
    odd = {"type": "content_block_start", "index": 0, "content_block": {"type": "hologram", "data": "x"}}
    reply = assembled(START, {"type": "new_event"}, odd, delta(1, type="text_delta", text="ok"), STOP)
    assert [b["type"] for b in reply.content] == ["text"]


@pytest.mark.parametrize(
    ("word", "known"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("tool_calls", "tool_use"), ("new_reason", "end_turn")],
)
def test_stop_reasons_of_other_dialects(word: str, known: str) -> None:
    assert reply_from({"content": [], "stop_reason": word}, 4).stop_reason == known


@pytest.mark.parametrize("events", [(), (START,), (START, delta(0, type="text_delta", text="x" * 400))])
def test_a_stream_without_a_stop_reason_is_no_answer(events: tuple[dict[str, Any], ...]) -> None:
    with pytest.raises(CallFault, match="cut off") as caught:
        assembled(*events)
    assert caught.value.kind == "transient"
    if len(events) == 2:
        assert caught.value.usage is not None and caught.value.usage.tokens_out == 100


@pytest.mark.parametrize(
    "body",
    [None, [], "html", {"hello": 1}, {"content": "text"}, {"content": None, "stop_reason": "end_turn"}],
)
def test_bodies_that_are_no_message(body: object) -> None:
    with pytest.raises(CallFault, match="not a Messages API reply"):
        reply_from(body, 4)


@pytest.mark.parametrize(
    "usage", [None, {}, {"input_tokens": None}, {"input_tokens": -3}, {"input_tokens": "many"}, [1]]
)
def test_usage_that_makes_no_sense_is_estimated_and_says_so(usage: object) -> None:
    body = {"content": [{"type": "text", "text": "x" * 40}], "stop_reason": "end_turn", "usage": usage}
    reply = reply_from(body, 4_000)
    assert reply.usage_estimated and reply.usage.tokens_in == 1_000 and reply.usage.tokens_out >= 10


def test_empty_text_and_unsigned_thoughts_are_not_sent_back() -> None:
    blocks = [
        {"type": "text", "text": " "},
        {"type": "thinking", "thinking": "hm"},
        {"type": "redacted_thinking", "data": "x"},
    ]
    assert [b["type"] for b in reply_from({"content": blocks, "stop_reason": "end_turn"}, 4).content] == [
        "redacted_thinking"
    ]
