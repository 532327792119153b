"""Every way an endpoint was seen to fail, and what each one must become (real SDK, real sockets).

The numbered rows are the 36 cases measured on the SDK; where a case is about an SDK call that this
project does not make (count_tokens, models.list, parse, temperature) the row shows what stands in its
place. Waits are shortened by the retry policy and by deadlines, never by patching the code.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from agents.llm.anthropic_proposer import anthropic_proposer
from agents.llm.ledger import Ledger
from agents.llm.model_call import RetryPolicy
from agents.llm.proposing_session import SessionSettings
from lineage.errors import ProposerFault, ProposerOutage, ProposerRefused, ProposerUnusable
from lineage.records import Proposal
from tests.fakes import lab
from tests.fakes.messages_server import FakeMessages
from tests.fakes.script import (
    Step,
    disconnect,
    drip,
    hang,
    json_only,
    message,
    pings,
    raw,
    refusal,
    replace,
    status,
    stream_error,
    text,
    thinking_then,
    tool_use,
    tool_uses,
    truncated,
)

EDIT = ("replace", {"path": "optim.py", "search": "LR = 0.04", "replace": "LR = 0.06"})
WRONG = ("replace", {"path": "optim.py", "search": "LR = 0.04", "replace": "LR = 9.99"})
GOOD = tool_uses([EDIT, ("submit", {"hypothesis": "A higher rate settles sooner."})])
LOOK = tool_use("view", {"path": "optim.py"})
CUT_CALL = message(
    [{"type": "tool_use", "id": "t", "name": "replace", "input": {}, "_raw": '{"path": "op'}],
    stop="max_tokens",
)
CHATTY_REFUSAL = message(
    [{"type": "tool_use", "id": "t", "name": WRONG[0], "input": WRONG[1]}], stop="refusal"
)
Outcome = type[Proposal] | type[ProposerFault]


@dataclass(frozen=True)
class Case:
    """`asked`: how many requests reach the server. `says`: part of the error's sentence."""

    name: str
    script: list[Step]
    becomes: Outcome
    asked: int
    says: str = ""
    retry_after: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    rejects: tuple[str, ...] = ()


CASES = [
    Case("01 tool use, one JSON body", [json_only(GOOD)], Proposal, 1),
    Case("02 tool use, streamed", [GOOD], Proposal, 1),
    Case("03 thinking before tools", [thinking_then(GOOD)], Proposal, 1),
    Case("04 429 with retry-after, then ok", [status(429, retry_after=0.05), GOOD], Proposal, 2),
    Case("05 429 for ever", [status(429, retry_after=0.02)], ProposerOutage, 4, "429", 0.02),
    Case(
        "06 429 spend limit",
        [status(429, should_retry="false", error_code="enforced_spend_limit_reached")],
        ProposerOutage,
        1,
        "enforced_spend_limit_reached",
    ),
    Case("07 429 with 49 days", [status(429, retry_after=4_233_600)], ProposerOutage, 1, "429", 3600.0),
    Case("08 529 twice, then ok", [status(529), status(529), GOOD], Proposal, 3),
    Case("09 529 for ever", [status(529)], ProposerOutage, 4, "529"),
    Case("10 500 for ever", [status(500)], ProposerOutage, 4, "500"),
    Case("11 400 on the first call", [status(400)], ProposerOutage, 2, "400"),
    Case("12 401", [status(401)], ProposerOutage, 1, "ANTHROPIC_API_KEY"),
    Case("13 413", [status(413)], ProposerOutage, 1, "does not fit"),
    Case(
        "14 silence past the deadline",
        [hang(9)],
        ProposerOutage,
        1,
        "in time|within",
        settings={"seconds": 0.6},
    ),
    Case("15 slow but alive", [replace(GOOD, delay=0.3)], Proposal, 1, settings={"seconds": 8.0}),
    Case("16 connection dropped, then ok", [disconnect(), GOOD], Proposal, 2),
    Case("17 broken JSON", [raw('{"id": "msg_1", "content": [')], ProposerOutage, 4, "not JSON"),
    Case("18 HTML with 200", [raw("<html>proxy</html>", "text/html")], ProposerOutage, 4, "not JSON"),
    Case("19 JSON of another shape", [raw('{"hello": 1}')], ProposerOutage, 4, "not a Messages API reply"),
    Case("20 JSON that is no object", [raw("[1, 2]")], ProposerOutage, 4, "not a Messages API reply"),
    Case("21 stream ends without message_stop", [truncated(GOOD, 6)], ProposerOutage, 4, "cut off"),
    Case("22 stream reset", [truncated(GOOD, 6, "reset")], ProposerOutage, 4, "broke off"),
    Case("23 error event in the stream", [stream_error(GOOD, 4)], ProposerOutage, 4, "overloaded_error"),
    Case("24 refusal", [json_only(refusal())], ProposerRefused, 1, "frontier_llm"),
    Case("25 refusal, streamed", [refusal("cyber")], ProposerRefused, 1, "cyber"),
    Case(
        "26 max_tokens in text", [text("partial", stop="max_tokens")], ProposerUnusable, 3, "no usable edit"
    ),
    Case("27 max_tokens in a tool call", [CUT_CALL], ProposerUnusable, 3, "no usable edit"),
    Case("28 (count_tokens) size is estimated here", [LOOK, GOOD], Proposal, 2),
    Case("29 (models.list) no other route is asked", [LOOK, GOOD], Proposal, 2),
    Case("30 32,000 tokens a reply", [GOOD], Proposal, 1, settings={"max_tokens": 32_000}),
    Case(
        "31 the same under a time limit", [GOOD], Proposal, 1, settings={"max_tokens": 32_000, "seconds": 6.0}
    ),
    Case("32 (temperature) is never sent", [GOOD], Proposal, 1),
    Case("33 (an option the server does not know)", [GOOD], Proposal, 2, rejects=("thinking",)),
    Case(
        "34 (parse) fields of the wrong type are answered",
        [tool_use("submit", {"hypothesis": 3}), GOOD],
        Proposal,
        2,
    ),
    Case(
        "35 (parse) input that is not JSON is answered",
        [replace(CUT_CALL, stop="tool_use"), GOOD],
        Proposal,
        2,
    ),
    Case("36 (parse) a refusal with a call in it", [CHATTY_REFUSAL], ProposerRefused, 1, "declined"),
    Case("37 402", [status(402)], ProposerOutage, 1, "no credit"),
    Case("38 403", [status(403)], ProposerOutage, 1, "allowed"),
    Case("39 404", [status(404)], ProposerOutage, 1, "model's name"),
    Case(
        "40 a proxy's 502 page", [raw("<html>bad gateway</html>", "text/html", 502)], ProposerOutage, 4, "502"
    ),
    Case(
        "41 400 for an empty purse",
        [status(400, message="Your credit balance is too low")],
        ProposerOutage,
        1,
        "balance",
    ),
    Case("42 stream cut once, then ok", [truncated(GOOD, 6), GOOD], Proposal, 2),
    Case(
        "43 a body that drips for ever",
        [drip(9)],
        ProposerOutage,
        1,
        "within|in time",
        settings={"seconds": 0.6},
    ),
    Case(
        "44 a stream of nothing but pings",
        [pings(9)],
        ProposerOutage,
        1,
        "within|in time",
        settings={"seconds": 0.6},
    ),
    Case("45 400 in mid session", [LOOK, status(400)], ProposerUnusable, 2, "400"),
    Case(
        "46 context full in mid session",
        [LOOK, message([], stop="model_context_window_exceeded")],
        ProposerUnusable,
        2,
        "context",
    ),
    Case("47 overloaded in mid session", [LOOK, status(529)], ProposerOutage, 5, "529"),
    Case(
        "48 retry-after that is no number",
        [status(503, retry_after="Wed, 21 Oct 2026 07:28:00 GMT"), GOOD],
        Proposal,
        2,
    ),
]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[None]:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "test-key-1234567890")
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path / "absent"))
    monkeypatch.delenv("ANTHROPIC_AUTH_TOKEN", raising=False)
    yield


@pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
def test_fault(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = RetryPolicy(base=0.005, ceiling=0.01, longest=0.2)
    settings = SessionSettings(**{"retry": policy, "seconds": 15.0, **case.settings})
    ledger = Ledger()
    with FakeMessages(case.script, rejects=case.rejects) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        proposer = anthropic_proposer(settings, ledger)
        began = time.monotonic()
        try:
            ended: Proposal | ProposerFault = proposer.propose(lab.request())
        except ProposerFault as fault:
            ended = fault
        wall = time.monotonic() - began
        proposer.close()
    assert isinstance(ended, case.becomes), f"{type(ended).__name__}: {ended}"
    assert len(server.requests) == case.asked
    assert {r["path"].split("?")[0] for r in server.requests} == {"/v1/messages"}
    assert all("temperature" not in body for body in server.bodies)
    assert wall < settings.seconds + 1.5, f"{wall:.2f} s"
    if isinstance(ended, ProposerOutage):
        assert ended.retry_after == case.retry_after
    if isinstance(ended, Proposal):
        assert ended.edits[0].replace.startswith("LR = 0.06"), "only the whole reply was acted on"
    elif case.says:
        assert any(words in str(ended) for words in case.says.split("|")), str(ended)
    if isinstance(ended, ProposerFault):
        record = json.loads(ended.exchange or b"")
        assert record["fault"]["type"] == type(ended).__name__ and record["prompt"]


def test_a_cut_reply_is_paid_for_and_not_acted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger()
    long = text("word " * 4_000, usage={"input_tokens": 500})
    with FakeMessages([truncated(long, after=200)]) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        proposer = anthropic_proposer(SessionSettings(retry=RetryPolicy(attempts=1)), ledger)
        with pytest.raises(ProposerOutage) as caught:
            proposer.propose(lab.request())
        proposer.close()
    spent = ledger.spent()
    assert spent.tokens_in == 500 and 2_500 < spent.tokens_out < 4_000, "counted from what arrived"
    assert spent == caught.value.usage


def test_an_endpoint_that_comes_back_is_used_again_without_a_new_proposer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = [status(529)] * 2 + [GOOD]
    with FakeMessages(steps) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        proposer = anthropic_proposer(SessionSettings(retry=RetryPolicy(attempts=1)))
        outcomes = []
        for _ in range(3):
            try:
                outcomes.append(type(proposer.propose(lab.request())).__name__)
            except ProposerOutage:
                outcomes.append("outage")
        proposer.close()
    assert outcomes == ["outage", "outage", "Proposal"]
