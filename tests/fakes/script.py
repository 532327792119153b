"""Steps of a scripted endpoint: what it answers to one request. Made by the functions below.

[tool_use("replace", {...}), status(429, retry_after=1), truncated(text("done"), after=3)]
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """What the server does with one request; made by the functions below."""

    kind: str
    blocks: tuple[Json, ...] = ()
    stop: str | None = "end_turn"
    usage: Json | None = field(default_factory=dict)
    details: Json | None = None
    delay: float = 0.0
    code: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    message: str = "scripted"
    error_code: str | None = None
    error_type: str | None = None
    body: bytes = b""
    content_type: str = "application/json"
    after: int | None = None
    seconds: float = 0.0


Script = Sequence[Step] | Callable[[Json], Step]


def message(blocks: Sequence[Json], stop: str | None = "end_turn", **more: Any) -> Step:
    return Step("message", tuple(blocks), stop, **more)


def text(words: str, **more: Any) -> Step:
    return message([{"type": "text", "text": words}], **more)


def tool_use(name: str, given: Json, say: str = "", identity: str = "", **more: Any) -> Step:
    return tool_uses([(name, given)], say, identity, **more)


def tool_uses(calls: Sequence[tuple[str, Json]], say: str = "", identity: str = "", **more: Any) -> Step:
    blocks: list[Json] = [{"type": "text", "text": say}] if say else []
    for number, (name, given) in enumerate(calls):
        made = hashlib.sha256(json.dumps([name, given, number]).encode()).hexdigest()[:12]
        blocks.append({"type": "tool_use", "id": identity or f"toolu_{made}", "name": name, "input": given})
    return message(blocks, stop=more.pop("stop", "tool_use"), **more)


def thinking_then(step: Step, thought: str = "Consider the schedule.") -> Step:
    block = {"type": "thinking", "thinking": thought, "signature": "c2lnbmF0dXJl"}
    return replace(step, blocks=(block, *step.blocks))


def refusal(category: str = "frontier_llm", explanation: str = "declined") -> Step:
    return message(
        [], stop="refusal", details={"type": "refusal", "category": category, "explanation": explanation}
    )


def status(
    code: int,
    retry_after: float | str | None = None,
    should_retry: str | None = None,
    error_code: str | None = None,
    message: str = "scripted",
) -> Step:
    headers = [("retry-after", retry_after), ("x-should-retry", should_retry)]
    kept = tuple((name, str(value)) for name, value in headers if value is not None)
    return Step("status", code=code, headers=kept, error_code=error_code, message=message)


def raw(body: str, content_type: str = "application/json", code: int = 200) -> Step:
    return Step("raw", body=body.encode(), content_type=content_type, code=code)


def hang(seconds: float) -> Step:
    """Accepts the request and says nothing."""
    return Step("hang", seconds=seconds)


def disconnect() -> Step:
    return Step("disconnect")


def drip(seconds: float) -> Step:
    """A JSON body that comes one byte at a time and never ends within `seconds`."""
    return Step("drip", seconds=seconds)


def pings(seconds: float) -> Step:
    """A stream that stays alive and never answers."""
    return Step("pings", seconds=seconds)


def truncated(step: Step, after: int = 3, how: str = "eof") -> Step:
    """The step's stream cut after N events: `eof` ends it cleanly, `reset` breaks the transfer."""
    return replace(step, kind=f"cut-{how}", after=after)


def stream_error(step: Step, after: int = 3, error_type: str = "overloaded_error") -> Step:
    return replace(step, kind="cut-error", after=after, error_type=error_type)


def json_only(step: Step) -> Step:
    """Answers in one JSON body even when a stream was asked for, as some small servers do."""
    return replace(step, kind="json")
