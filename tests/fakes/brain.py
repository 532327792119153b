"""A scripted team: which session of which role says what. For campaigns against the fake server.

    FakeMessages(team({"opt": [[tool_use(...), tool_use("submit", ...)], ...], "arch": [...]}))

A session is a list of steps, or of functions from the request body to a step when the answer should
depend on the prompt. The last session of a role repeats. A role is known by its name in the static text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from tests.fakes.script import Json, Step

Line = Step | Callable[[Json], Step]


def team(plans: Mapping[str, Sequence[Sequence[Line]]]) -> Callable[[Json], Step]:
    """The script function. One session at a time per role (the server calls it under its lock)."""
    begun: dict[str, int] = {}

    def answer(body: Json) -> Step:
        role = role_of(body)
        if len(body["messages"]) == 1:
            begun[role] = begun.get(role, 0) + 1
        sessions = plans[role]
        session = sessions[min(begun[role], len(sessions)) - 1]
        turn = sum(1 for m in body["messages"] if m["role"] == "assistant")
        line = session[min(turn, len(session) - 1)]
        return line(body) if callable(line) else line

    return answer


def role_of(body: Json) -> str:
    system = body["system"] if isinstance(body["system"], str) else body["system"][0]["text"]
    found = re.search(r"^# Your role: (\S+)", system, re.MULTILINE)
    if found is None:
        raise AssertionError("no role in the static text")
    return found[1]


def prompt_of(body: Json) -> str:
    """The user part of the prompt of this session."""
    content = body["messages"][0]["content"]
    return content if isinstance(content, str) else str(content[0]["text"])
