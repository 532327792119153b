"""The same session over chat completions: tools, text answers, faults (fake server, real sockets)."""

from __future__ import annotations

from typing import Any

import pytest

from agents.edits.search_replace import apply_edits
from agents.llm.model_call import RetryPolicy
from agents.llm.openai_client import OpenAIChat
from agents.llm.openai_proposer import openai_proposer
from agents.llm.proposing_session import SessionSettings
from lineage.errors import ProposerFault, ProposerOutage, ProposerRefused, ProposerUnusable, UsageError
from lineage.records import Proposal
from tests.fakes import lab
from tests.fakes.messages_server import FakeMessages
from tests.fakes.script import Script, hang, message, raw, refusal, status, text, tool_use, tool_uses

EDIT = ("replace", {"path": "optim.py", "search": "LR = 0.04", "replace": "LR = 0.06"})
SUBMIT = ("submit", {"hypothesis": "Higher.", "expected_delta": -0.1})
GOOD = tool_uses([EDIT, SUBMIT])


def run(
    script: Script, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> tuple[Proposal | ProposerFault, FakeMessages]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdefgh")
    with FakeMessages(script) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url + "/v1")
        quick = RetryPolicy(base=0.005, ceiling=0.01)
        proposer = openai_proposer(
            SessionSettings(**{"model": "local-coder", "retry": quick, "seconds": 10.0, **settings})
        )
        try:
            return proposer.propose(lab.request()), server
        except ProposerFault as fault:
            return fault, server
        finally:
            proposer.close()


def test_a_session_with_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    proposal, server = run(
        [tool_use("view", {"path": "optim.py"}), tool_use(*EDIT), tool_use(*SUBMIT)], monkeypatch
    )
    assert (
        isinstance(proposal, Proposal) and proposal.proposer == "openai" and proposal.model == "local-coder"
    )
    assert b"LR = 0.06" in apply_edits(lab.FILES, proposal.edits)["optim.py"]
    assert proposal.usage.calls == 3 and proposal.usage.tokens_in > 1_000
    last = server.bodies[-1]["messages"]
    assert [m["role"] for m in last] == ["system", "user", "assistant", "tool", "assistant", "tool"]
    assert last[3]["tool_call_id"] == last[2]["tool_calls"][0]["id"]
    assert server.requests[0]["path"] == "/v1/chat/completions"
    assert server.requests[0]["headers"]["authorization"].startswith("Bearer sk-test")
    assert "sk-test" not in proposal.exchange


def test_text_answers_are_understood_here_too(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "HYPOTHESIS: Higher.\noptim.py\n<<<<<<< SEARCH\nLR = 0.04\n=======\nLR = 0.06\n>>>>>>> REPLACE"
    proposal, _ = run([text(words)], monkeypatch)
    assert isinstance(proposal, Proposal) and proposal.hypothesis == "Higher."


@pytest.mark.parametrize(
    ("script", "becomes", "asked"),
    [
        ([status(429, retry_after=0.02), GOOD], Proposal, 2),
        ([status(503)], ProposerOutage, 4),
        ([status(401)], ProposerOutage, 1),
        ([status(429, message="You exceeded your current quota")], ProposerOutage, 1),
        ([raw("<html></html>", "text/html")], ProposerOutage, 4),
        ([raw('{"choices": []}')], ProposerOutage, 4),
        ([raw('{"choices": [{"message": {"content": "cut"}, "finish_reason": null}]}')], ProposerOutage, 4),
        ([hang(5)], ProposerOutage, 1),
        ([refusal()], ProposerRefused, 1),
        ([text("long", stop="max_tokens")], ProposerUnusable, 3),
        ([message([{**GOOD.blocks[0], "input": "not an object"}], stop="tool_use"), GOOD], Proposal, 2),
    ],
    ids=[
        "429",
        "503",
        "401",
        "quota",
        "html",
        "no-choice",
        "no-finish",
        "hang",
        "refusal",
        "length",
        "bad-arguments",
    ],
)
def test_faults(monkeypatch: pytest.MonkeyPatch, script: Script, becomes: type[object], asked: int) -> None:
    limits = {"seconds": 0.6} if becomes is ProposerOutage and asked == 1 else {}
    ended, server = run(script, monkeypatch, **limits)
    assert isinstance(ended, becomes), ended
    assert len(server.requests) == asked


def test_a_server_that_wants_the_other_length_limit_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(body: dict[str, Any]) -> Any:
        if "max_tokens" in body:
            return status(
                400, message="Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            )
        return GOOD

    ended, server = run(answer, monkeypatch)
    assert isinstance(ended, Proposal) and "max_completion_tokens" in server.bodies[1]


def test_no_key_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_BASE_URL", "https://llm.example.com/v1")
    chat = OpenAIChat()
    assert (chat.host, chat.key_source) == ("llm.example.com", "none")
    chat.close()
    with pytest.raises(UsageError, match="--model"):
        openai_proposer(SessionSettings())
