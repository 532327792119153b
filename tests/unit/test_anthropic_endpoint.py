"""What a session expects of its endpoint: models and prices, options, small local servers, the tiny call."""

from __future__ import annotations

import json

import pytest

from agents.llm.anthropic_proposer import anthropic_proposer, ask_once
from agents.llm.prices import load_prices
from agents.llm.proposing_session import SessionSettings
from lineage.errors import ProposerOutage, UnknownName, UsageError
from tests.fakes import lab
from tests.fakes.messages_server import FakeMessages
from tests.fakes.script import replace, status, text, tool_use, tool_uses
from tests.fakes.sessions import EDIT, GOOD, KEY, SUBMIT, point_at, proposer, run


def test_an_unknown_model_has_no_price_unless_it_is_local_or_given(monkeypatch: pytest.MonkeyPatch) -> None:
    point_at(monkeypatch, "https://gateway.example.com")
    with pytest.raises(UnknownName, match="claude-opus-5-5"):
        anthropic_proposer(SessionSettings(model="claude-opus-5-6"))
    anthropic_proposer(SessionSettings(model="mine"), prices=load_prices(free=["mine"])).close()
    proposal, _ = run([tool_uses([EDIT, SUBMIT])], monkeypatch, model="qwen-local")
    assert proposal.usage.usd == 0 and proposal.usage.price_table.endswith(":local")


def test_models_per_role(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"models": {"opt": "claude-haiku-5-5"}}
    proposal, server = run([tool_uses([EDIT, SUBMIT])], monkeypatch, **settings)
    assert proposal.model == server.bodies[0]["model"] == "claude-haiku-5-5"


@pytest.mark.parametrize("option", ["thinking", "cache_control", "effort"])
def test_a_server_that_rejects_an_option_is_asked_once_without_it(
    monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    script = [tool_use(*EDIT), tool_use(*SUBMIT)]
    with FakeMessages(script, rejects=[option]) as server:
        made = proposer(server, monkeypatch, effort="low")
        assert made.propose(lab.request()).edits
        made.close()
    rejected = [option in json.dumps({k: v for k, v in b.items() if k != "messages"}) for b in server.bodies]
    assert rejected == [True, False, False], "refused once, remembered for the rest"


def test_a_server_without_usage_or_streams_or_signed_thoughts(monkeypatch: pytest.MonkeyPatch) -> None:
    thought = {"type": "thinking", "thinking": "local", "signature": ""}
    first = tool_use(*EDIT, usage=None)
    script = [
        replace(first, kind="json", blocks=(thought, *first.blocks)),
        replace(tool_use(*SUBMIT, usage=None), kind="json"),
    ]
    proposal, server = run(script, monkeypatch)
    assert proposal.edits and proposal.usage.tokens_in > 1_000, "estimated where the server says nothing"
    assert json.loads(proposal.exchange)["turns"][0]["reply"]["usage_estimated"]
    assert server.bodies[1]["messages"][1]["content"][0]["type"] == "tool_use"


def test_a_local_server_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    proposal, server = run([GOOD], monkeypatch, key="")
    assert proposal.edits
    assert server.requests[0]["headers"]["authorization"] == "Bearer local"


def test_ask_once_tells_what_a_call_costs_or_what_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeMessages([text("ready")]) as server:
        point_at(monkeypatch, server.url)
        found = ask_once()
        assert found["reply"] == "ready" and found["model"] == "claude-opus-5-5" and found["usd"] > 0
        assert found["key"] == "ANTHROPIC_API_KEY" and KEY not in json.dumps(found)
        assert server.bodies[0]["max_tokens"] <= 64
    with FakeMessages([status(401)]) as server:
        point_at(monkeypatch, server.url)
        with pytest.raises(UsageError, match="ANTHROPIC_API_KEY"):
            ask_once()
    with FakeMessages([status(529)]) as server:
        point_at(monkeypatch, server.url)
        with pytest.raises(ProposerOutage):
            ask_once()
