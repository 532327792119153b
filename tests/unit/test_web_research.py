"""Web research of the anthropic proposer: the tool that is asked for, its cap and price, and what is recorded of it."""

from __future__ import annotations

import json

import pytest

from agents.llm.messages_stream import Assembly, reply_from
from agents.llm.prices import load_prices
from agents.llm.transcript import read_exchange
from agents.llm.web_research import pages
from flows.engine.settings import Settings
from lineage.errors import ProposerFault, ProposerOutage
from lineage.records import Allowance, Proposal, Usage
from tests.fakes.script import Json, Step, message, status, tool_uses
from tests.fakes.sessions import EDIT, SUBMIT, run

URL = "https://example.org/warm-up"


def searched(number: int, url: str = URL, searches: int = 1, stop: str = "pause_turn") -> Step:
    """A reply in which the endpoint has searched, as Anthropic's documentation shows it."""
    identity = f"srvtoolu_{number}"
    found = {
        "type": "web_search_result",
        "url": url,
        "title": "Warm-up",
        "encrypted_content": "EqgfCio",
        "page_age": None,
    }
    blocks: list[Json] = [
        {"type": "server_tool_use", "id": identity, "name": "web_search", "input": {"query": "warm-up"}},
        {"type": "web_search_tool_result", "tool_use_id": identity, "content": [found]},
    ]
    return message(blocks, stop=stop, usage={"server_tool_use": {"web_search_requests": searches}})


def search_tools(body: Json) -> list[Json]:
    return [tool for tool in body["tools"] if tool["name"] == "web_search"]


def test_searches_are_capped_priced_sent_back_and_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    script = [searched(1, searches=2), tool_uses([EDIT]), searched(2, URL + "2"), tool_uses([SUBMIT])]
    proposal, server = run(script, monkeypatch, searches=3, blocked_domains=("kaggle.com",))
    asked = server.bodies
    assert [[tool["max_uses"] for tool in search_tools(body)] for body in asked] == [[3], [1], [1], [1]]
    assert search_tools(asked[0])[0]["blocked_domains"] == ["kaggle.com"]
    sent_back = [
        block for turn in asked[1]["messages"] if turn["role"] == "assistant" for block in turn["content"]
    ]
    assert [block["type"] for block in sent_back] == ["server_tool_use", "web_search_tool_result"]
    assert sent_back[0]["input"] == {"query": "warm-up"}
    assert sent_back[1]["content"][0]["encrypted_content"] == "EqgfCio"
    assert proposal.usage.searches == 3
    tokens = proposal.usage.model_copy(update={"searches": 0})
    without = load_prices().priced(proposal.model, tokens, host="127.0.0.1").usd
    assert proposal.usage.usd == pytest.approx(without + 0.03)
    assert proposal.sources == (URL, URL + "2")
    stored = read_exchange(proposal.exchange.encode())
    assert "encrypted_content" in json.dumps(stored["turns"]) and stored["usage"]["searches"] == 3


def test_once_the_cap_is_reached_the_tool_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    script = [searched(1), tool_uses([EDIT]), tool_uses([SUBMIT])]
    _, server = run(script, monkeypatch, searches=1)
    # a reply that was paused is continued with the tool, because a search may stand in its middle
    assert [len(search_tools(body)) for body in server.bodies] == [1, 1, 0]


def test_without_research_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    proposal, server = run([tool_uses([EDIT, SUBMIT])], monkeypatch)
    assert not search_tools(server.bodies[0])
    stored = json.loads(proposal.model_dump_json())
    assert "sources" not in stored and "searches" not in stored["usage"]


@pytest.mark.parametrize(
    "said",
    ["tools.9: web_search_20250305 is not supported for this model", "tools.9.input_schema: Field required"],
)
def test_an_endpoint_without_the_tool_is_said(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    refused = status(400, message=said)
    with pytest.raises(ProposerOutage, match="no web search: leave out --research"):
        run([refused], monkeypatch, searches=2)


def test_searches_count_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty searches cost 20 cents and the tokens that they bring: an allowance below that lets no call go out."""
    asked = {"allowance": Allowance(usd=0.3)}
    assert run([tool_uses([EDIT, SUBMIT])], monkeypatch, ask=asked, max_tokens=1_000)[0].edits
    with pytest.raises(ProposerFault):
        run([tool_uses([EDIT, SUBMIT])], monkeypatch, ask=asked, max_tokens=1_000, searches=20)


def test_damaged_results_are_no_fault() -> None:
    odd: list[Json] = [
        {
            "type": "web_search_tool_result",
            "content": {"type": "web_search_tool_result_error", "error_code": "max_uses_exceeded"},
        },
        {
            "type": "web_search_tool_result",
            "content": [None, {"url": 3}, {"url": "https://a.example/\x1b[31m" + "x" * 999}],
        },
        {"type": "web_search_tool_result"},
    ]
    found = pages(odd)
    assert len(found) == 1 and len(found[0]) <= 300 and "\x1b" not in found[0]
    reply = reply_from({"content": odd, "stop_reason": "end_turn", "usage": {"server_tool_use": "none"}}, 10)
    assert reply.usage.searches == 0 and len(reply.content) == 3


def test_a_stream_gives_the_query_and_the_count() -> None:
    assembly = Assembly(10)
    for event in (
        {"type": "message_start", "message": {"usage": {"input_tokens": 5, "server_tool_use": {"web_search_requests": 0}}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": '{"query": "x"}'}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3, "server_tool_use": {"web_search_requests": 2}}},
    ):  # fmt: skip
        assembly.feed(event)
    reply = assembly.reply()
    assert reply.content[0]["input"] == {"query": "x"} and reply.usage.searches == 2


def test_only_the_messages_api_has_it() -> None:
    with pytest.raises(ValueError, match="use --proposer anthropic"):
        Settings(environment="x", research=True)
    assert Settings(environment="x", research=True, proposer="anthropic").research_searches == 5


def test_older_proposals_are_read() -> None:
    usage = Usage.model_validate_json('{"calls": 1, "usd": 0.5}')
    assert (usage + Usage(searches=2)).searches == 2
    assert (
        Proposal.model_validate_json(
            '{"role": "r", "proposer": "p", "parent": "t", "hypothesis": "h", "edits": []}'
        ).sources
        == ()
    )
