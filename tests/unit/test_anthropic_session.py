"""A proposing session against the fake Messages server: real SDK, real sockets, real tools."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from agents.edits.normal_form import ast_hash
from agents.edits.search_replace import apply_edits
from agents.llm.anthropic_proposer import anthropic_proposer
from agents.llm.ledger import Cap, Caps, Ledger
from agents.llm.proposing_session import SessionSettings
from lineage.errors import (
    BudgetSpent,
    NothingLeft,
    ProposerOutage,
    ProposerRefused,
    ProposerUnusable,
)
from lineage.records import Check, Status
from tests.fakes import lab
from tests.fakes.messages_server import FakeMessages
from tests.fakes.script import (
    Step,
    hang,
    message,
    refusal,
    status,
    text,
    thinking_then,
    tool_use,
    tool_uses,
)
from tests.fakes.sessions import EDIT, KEY, SUBMIT, point_at, proposer, run


def test_every_tool_is_used_and_the_edit_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = [
        lab.row(1, status=Status.KEEP, score=2.2, delta_parent=-0.1, source_sha256="a" * 64),
        lab.row(2, status=Status.CRASH, cause="crash", error_excerpt="boom \x1b[31mred"),
    ]
    other = {**lab.FILES, "optim.py": lab.FILES["optim.py"].replace(b"0.1", b"0.2")}
    script = [
        thinking_then(tool_use("view", {"path": "optim.py"})),
        tool_uses([("search", {"text": "EPOCHS"}), ("read_trial", {"trial": "t0002"})]),
        tool_use("diff_trials", {"first": "t0000", "second": "t0001"}),
        tool_use("choose_parent", {"trial": "t0001"}),
        tool_uses([EDIT, ("insert", {"path": "optim.py", "line": 0, "text": "import math"})]),
        tool_use("check", {}),
        tool_use(*SUBMIT),
    ]

    def preflight(files: dict[str, bytes]) -> list[Check]:
        return [Check(name="parse", passed=True, seconds=0.01, numbers={"files": len(files)})]

    asked = {"rows": earlier, "trees": {"t0001": other}, "check": preflight}
    proposal, server = run(script, monkeypatch, ask=asked)
    assert proposal.parent == "t0001"
    assert proposal.proposer == "anthropic"
    assert proposal.hypothesis == SUBMIT[1]["hypothesis"]
    assert proposal.expected_delta == -0.1
    assert proposal.edit_kind == "number"
    made = apply_edits(other, proposal.edits)
    assert made["optim.py"].startswith(b"import math\nLR = 0.06")
    assert proposal.usage.calls == len(script)
    assert proposal.usage.usd > 0
    last = server.bodies[-1]["messages"]
    told = json.dumps(last)
    assert "WARMUP = 0.2" in told and "-WARMUP = 0.1" in told
    assert "boom red" in told and "\\u001b" not in told
    assert "passed parse" in told and "passed surface" in told
    assert last[1]["content"][0]["type"] == "thinking", "signed thoughts go back unchanged"


def test_the_static_part_is_cached_from_the_second_session_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeMessages(
        lambda body: tool_use(*SUBMIT) if len(body["messages"]) > 1 else tool_use(*EDIT)
    ) as server:
        made = proposer(server, monkeypatch)
        first = made.propose(lab.request())
        second = made.propose(lab.request(seed=8))
        made.close()
    assert first.usage.tokens_cache_write > 500
    assert second.usage.tokens_cache_read > 1_000
    assert second.usage.usd < first.usage.usd
    body = server.bodies[0]
    assert body["system"][0]["cache_control"] == {"type": "ephemeral"}
    assert body["thinking"] == {"type": "adaptive"} and body["stream"] is True
    assert not {"temperature", "top_p", "top_k"} & set(body)


def test_the_key_is_in_no_prompt_exchange_or_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(body: dict[str, Any]) -> Step:
        return tool_use(*SUBMIT) if len(body["messages"]) > 1 else tool_use(*EDIT, say=f"the key is {KEY}")

    rows = [lab.row(1, status=Status.CRASH, cause="crash", error_excerpt=f"env ANTHROPIC_API_KEY={KEY}")]
    proposal, server = run(answer, monkeypatch, ask={"rows": rows})
    assert KEY not in proposal.prompt and KEY not in proposal.exchange
    assert server.requests[0]["headers"]["authorization"] == f"Bearer {KEY}"
    with pytest.raises(ProposerOutage) as caught:
        run([status(401, message=f"invalid key {KEY}")], monkeypatch)
    assert KEY not in str(caught.value) and "ANTHROPIC_API_KEY" in str(caught.value)


@pytest.mark.parametrize(
    "reply",
    [
        "HYPOTHESIS: A higher rate settles sooner.\nEXPECTED_DELTA: -0.1\n\noptim.py\n<<<<<<< SEARCH\nLR = 0.04\n"
        "=======\nLR = 0.06\n>>>>>>> REPLACE\n",
        "Hypothesis: A higher rate settles sooner.\n```diff\n--- a/optim.py\n+++ b/optim.py\n@@ -1,2 +1,2 @@\n"
        "-LR = 0.04  # twice this diverges\n+LR = 0.06  # twice this diverges\n WARMUP = 0.1\n```\n",
        'Sure.\n```json\n{"hypothesis": "A higher rate settles sooner.", "edits": [{"path": "optim.py", '
        '"search": "LR = 0.04", "replace": "LR = 0.06"}]}\n```',
        '{"name": "replace", "arguments": {"path": "optim.py", "search": "LR = 0.04", "replace": "LR = 0.06"}}\n'
        '<tool_call>{"name": "submit", "arguments": {"hypothesis": "A higher rate settles sooner."}}</tool_call>',
    ],
    ids=["blocks", "diff", "json", "calls-as-text"],
)
def test_a_model_that_ignores_tools_is_understood(monkeypatch: pytest.MonkeyPatch, reply: str) -> None:
    proposal, server = run([text(reply)], monkeypatch)
    assert apply_edits(lab.FILES, proposal.edits)["optim.py"].startswith(b"LR = 0.06")
    assert proposal.hypothesis == "A higher rate settles sooner."
    assert len(server.requests) == 1


def test_a_text_edit_that_does_not_fit_is_sent_back_once_and_repaired(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    block = "HYPOTHESIS: h\noptim.py\n<<<<<<< SEARCH\n{}\n=======\nLR = 0.06\n>>>>>>> REPLACE"
    script = [text(block.format("LR = 0.4")), text(block.format("LR = 0.04  # twice this diverges"))]
    proposal, server = run(script, monkeypatch)
    assert b"LR = 0.06" in apply_edits(lab.FILES, proposal.edits)["optim.py"]
    assert "nearest lines" in json.dumps(server.bodies[1]["messages"][-1])


def test_chatter_without_an_edit_is_unusable(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProposerUnusable, match="no usable edit") as caught:
        run([text("I would raise the rate.")], monkeypatch)
    record = json.loads(caught.value.exchange or b"")
    assert record["fault"]["type"] == "ProposerUnusable" and record["prompt"]
    assert getattr(caught.value.usage, "calls", 0) == 3, "asked, reminded twice, given up"


def test_a_refusal_is_its_own_outcome_with_category_and_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProposerRefused, match="frontier_llm") as caught:
        run([refusal()], monkeypatch)
    assert getattr(caught.value.usage, "tokens_cache_write", 0) > 0


def test_an_edit_outside_the_surface_is_warned_about_once_then_handed_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outside = ("replace", {"path": "train.py", "search": "EPOCHS = 12", "replace": "EPOCHS = 9"})
    script = [tool_use(*outside), tool_use(*SUBMIT), tool_use(*SUBMIT)]
    proposal, server = run(script, monkeypatch)
    assert "outside_surface" in json.dumps(server.bodies[2]["messages"][-1])
    assert proposal.edits[0].path == "train.py", "the engine records it as rejected"


def test_a_duplicate_is_warned_about_and_can_be_repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {**lab.FILES, "optim.py": lab.FILES["optim.py"].replace(b"0.04", b"0.06")}
    known = [lab.row(1, ast_sha256=ast_hash(made), score=2.4)]
    further = ("replace", {"path": "optim.py", "search": "LR = 0.06", "replace": "LR = 0.05"})
    script = [tool_use(*EDIT), tool_use(*SUBMIT), tool_uses([further, SUBMIT])]
    proposal, server = run(script, monkeypatch, ask={"rows": known})
    assert "tried already as t0001" in json.dumps(server.bodies[2]["messages"][-1])
    assert b"LR = 0.05" in apply_edits(lab.FILES, proposal.edits)["optim.py"]


def test_a_reply_cut_at_max_tokens_is_never_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = tool_use("replace", {"path": "optim.py", "search": "LR = 0.04", "replace": ""}, stop="max_tokens")
    script = [cut, tool_uses([EDIT, SUBMIT])]
    proposal, server = run(script, monkeypatch)
    assert b"LR = 0.06" in apply_edits(lab.FILES, proposal.edits)["optim.py"]
    result = server.bodies[1]["messages"][-1]["content"][0]
    assert (
        result["type"] == "tool_result"
        and result["is_error"]
        and "nothing in it was executed" in result["content"]
    )


def test_max_tokens_again_and_again_ends_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProposerUnusable):
        run([text("a very long thought", stop="max_tokens")], monkeypatch)


def test_pause_turn_lets_the_model_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    paused = text("still thinking", stop="pause_turn")
    proposal, server = run([paused, tool_uses([EDIT, SUBMIT])], monkeypatch)
    assert server.bodies[1]["messages"][-1]["role"] == "assistant"
    assert proposal.edits


def test_broken_tool_input_is_answered_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = message(
        [
            {
                "type": "tool_use",
                "id": "t1",
                "name": "replace",
                "input": {},
                "_raw": '{"path": "optim.py", "sea',
            }
        ],
        stop="tool_use",
    )
    wrong_types = tool_use("replace", {"path": 3, "search": ["x"], "replace": None})
    unknown = tool_use("bash", {"command": "ls"})
    script = [broken, wrong_types, unknown, tool_uses([EDIT, SUBMIT])]
    proposal, server = run(script, monkeypatch)
    said = [json.dumps(body["messages"][-1]) for body in server.bodies[1:]]
    assert "not a JSON object" in said[0] and "must be a string" in said[1] and "no tool" in said[2]
    assert proposal.edits


def test_edits_of_a_session_that_ran_out_of_turns_are_handed_in_and_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = [tool_use(*EDIT, say="Raise the rate. Then look."), tool_use("view", {"path": "optim.py"})]
    proposal, server = run(script, monkeypatch, max_turns=3)
    assert "Handed in by the engine: all 3 turns" in proposal.notes
    assert proposal.hypothesis == "Raise the rate"
    assert "replies are left" in json.dumps(server.bodies[-1]["messages"][-1])


def test_a_session_without_edits_that_ran_out_of_turns_is_unusable(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProposerUnusable, match="all 2 turns"):
        run([tool_use("view", {"path": "optim.py"})], monkeypatch, max_turns=2)


def test_the_trial_cap_ends_the_session_and_the_campaign_cap_the_campaign(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look = [tool_use("view", {"path": "optim.py"}, usage={"output_tokens": 5_000})]
    with pytest.raises(ProposerUnusable, match="this proposal has used"):
        run(look, monkeypatch, Ledger(Caps(trial=Cap(tokens=12_000))))
    ledger = Ledger(Caps(campaign=Cap(usd=0.15)))
    with pytest.raises(BudgetSpent, match=r"of 0\.15 USD"):
        run(look, monkeypatch, ledger)
    before = ledger.spent().usd
    with pytest.raises(BudgetSpent):
        run(look, monkeypatch, ledger)
    assert ledger.spent().usd == before, "nothing is asked once the cap is reached"
    with pytest.raises(NothingLeft, match="role 'opt'"):
        run(look, monkeypatch, Ledger(Caps(role=Cap(tokens=100))))


def test_a_deadline_in_mid_session_ends_it_without_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tool_use("view", {"path": "optim.py"}, delay=0.3)
    began = time.monotonic()
    with pytest.raises(ProposerUnusable):
        run([slow], monkeypatch, ask={"deadline": time.monotonic() + 0.8})
    assert time.monotonic() - began < 2.5


def test_a_campaign_that_stops_does_not_wait_for_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    cancel = threading.Event()
    with FakeMessages([hang(9)]) as server:
        point_at(monkeypatch, server.url)
        made = anthropic_proposer(SessionSettings(), cancel=cancel)
        threading.Timer(0.2, cancel.set).start()
        began = time.monotonic()
        with pytest.raises(ProposerOutage, match="stopped by the campaign"):
            made.propose(lab.request())
        assert time.monotonic() - began < 3
        made.close()


def test_sessions_in_parallel_share_one_ledger_and_pass_the_cap_by_one_reply_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger = Ledger(Caps(campaign=Cap(tokens=60_000)))
    step = tool_use("view", {"path": "optim.py"}, usage={"input_tokens": 100, "output_tokens": 900})
    with FakeMessages([step]) as server:
        made = proposer(server, monkeypatch, ledger, max_turns=30)
        ends: list[str] = []

        def lane(seed: int) -> None:
            try:
                made.propose(lab.request(seed=seed))
            except (BudgetSpent, ProposerUnusable) as e:
                ends.append(type(e).__name__)

        lanes = [threading.Thread(target=lane, args=(n,)) for n in range(4)]
        [t.start() for t in lanes]  # type: ignore[func-returns-value]
        [t.join(20) for t in lanes]  # type: ignore[func-returns-value]
        made.close()
    spent = ledger.spent()
    total = spent.tokens_in + spent.tokens_out + spent.tokens_cache_read + spent.tokens_cache_write
    assert ends == ["BudgetSpent"] * 4
    largest = 16_000
    assert 60_000 <= total <= 60_000 + largest
    assert spent.calls == len(server.requests)
