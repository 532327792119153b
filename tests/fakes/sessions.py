"""Runs one proposing session against the fake server; shared by the session tests."""

from __future__ import annotations

from typing import Any

import pytest

from agents.llm.anthropic_proposer import anthropic_proposer
from agents.llm.ledger import Ledger
from agents.llm.model_call import RetryPolicy
from agents.llm.model_proposer import SessionProposer
from agents.llm.proposing_session import SessionSettings
from tests.fakes import lab
from tests.fakes.messages_server import FakeMessages
from tests.fakes.script import Script, tool_uses

KEY = "sk-ant-test-0123456789abcdef"
QUICK = RetryPolicy(base=0.01, ceiling=0.02)
EDIT = ("replace", {"path": "optim.py", "search": "LR = 0.04", "replace": "LR = 0.06"})
SUBMIT = (
    "submit",
    {
        "hypothesis": "A higher rate settles sooner.",
        "expected_delta": -0.1,
        "notes": "n",
        "edit_kind": "number",
    },
)
GOOD = tool_uses([EDIT, SUBMIT])


def point_at(monkeypatch: pytest.MonkeyPatch, url: str, key: str = KEY) -> None:
    """The environment of a person whose endpoint is `url`; without a key when `key` is empty."""
    for name in (
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        "ANTHROPIC_PROFILE",
        "ANTHROPIC_CUSTOM_HEADERS",
    ):
        monkeypatch.delenv(name, raising=False)
    # no profile of whoever runs the tests is ever read
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", "/nonexistent")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
    if key:
        monkeypatch.setenv("ANTHROPIC_API_KEY", key)


def proposer(
    server: FakeMessages,
    monkeypatch: pytest.MonkeyPatch,
    ledger: Ledger | None = None,
    key: str = KEY,
    **settings: Any,
) -> SessionProposer:
    point_at(monkeypatch, server.url, key)
    return anthropic_proposer(SessionSettings(**{"retry": QUICK, "seconds": 20.0, **settings}), ledger)


def run(
    script: Script, monkeypatch: pytest.MonkeyPatch, ledger: Ledger | None = None, **more: Any
) -> tuple[Any, FakeMessages]:
    """(proposal, server) of one session; `ask` goes to the request, `key` to the environment, the rest to settings."""
    asked = more.pop("ask", {})
    with FakeMessages(script) as server:
        made = proposer(server, monkeypatch, ledger, **more)
        try:
            return made.propose(lab.request(**asked)), server
        finally:
            made.close()
