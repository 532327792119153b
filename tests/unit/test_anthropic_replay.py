"""A recorded session gives the same edits offline: from the record, and by running it again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.edits.search_replace import apply_edits, canonical_diff
from agents.llm.anthropic_proposer import anthropic_proposer
from agents.llm.proposing_session import SessionSettings
from agents.llm.replay_proposer import ReplayProposer, records_of
from agents.llm.transcript import read_exchange
from lineage.errors import NothingLeft, ProposerOutage, ProposerRefused, ProposerUnusable, StoreCorrupt
from lineage.ids import sha256
from lineage.records import Proposal, Row, Status
from tests.fakes import lab
from tests.fakes.messages_server import FakeMessages
from tests.fakes.rerun import recorded_replies, rerun
from tests.fakes.script import Script, refusal, thinking_then, tool_use, tool_uses

EDIT = ("replace", {"path": "optim.py", "search": "LR = 0.04", "replace": "LR = 0.06"})
SUBMIT = ("submit", {"hypothesis": "Higher.", "expected_delta": -0.1})
SESSION = [
    thinking_then(tool_use("view", {"path": "optim.py"})),
    tool_uses([EDIT]),
    tool_use("check", {}),
    tool_use(*SUBMIT),
]


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "test-key-1234567890")
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path / "absent"))
    return monkeypatch


def recorded(endpoint: pytest.MonkeyPatch, script: Script) -> Proposal:
    with FakeMessages(script) as server:
        endpoint.setenv("ANTHROPIC_BASE_URL", server.url)
        proposer = anthropic_proposer(SessionSettings())
        try:
            return proposer.propose(lab.request())
        finally:
            proposer.close()


def as_row(number: int, exchange: bytes, **more: object) -> Row:
    return lab.row(number, exchange_sha256=sha256(exchange), source_sha256="c" * 64, **more)


def test_replay_gives_the_same_edits_without_an_endpoint(endpoint: pytest.MonkeyPatch) -> None:
    proposal = recorded(endpoint, SESSION)
    data = proposal.exchange.encode()
    replay = ReplayProposer(records_of(lab.view([as_row(1, data)])), {sha256(data): data}.__getitem__)
    again = replay.propose(lab.request())
    for field in ("role", "parent", "hypothesis", "expected_delta", "edits", "notes", "model", "proposer"):
        assert getattr(again, field) == getattr(proposal, field), field
    assert again.usage.usd == 0 and again.exchange == proposal.exchange
    with pytest.raises(NothingLeft):
        replay.propose(lab.request([lab.row(1)]))


def test_the_recorded_replies_lead_to_the_same_edits_through_the_tools(endpoint: pytest.MonkeyPatch) -> None:
    proposal = recorded(endpoint, SESSION)
    record = read_exchange(proposal.exchange.encode())
    assert len(recorded_replies(record)) == 4
    again = rerun(record, lab.request())
    assert again.edits == proposal.edits and again.hypothesis == proposal.hypothesis
    assert again.usage.tokens_out == proposal.usage.tokens_out


def test_a_recorded_refusal_is_a_refusal_again(endpoint: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProposerRefused) as caught:
        recorded(endpoint, [refusal()])
    data = caught.value.exchange or b""
    rows = [as_row(1, data, status=Status.REJECTED, cause="refused")]
    replay = ReplayProposer(records_of(lab.view(rows)), {sha256(data): data}.__getitem__)
    with pytest.raises(ProposerRefused, match="frontier_llm"):
        replay.propose(lab.request())


def test_a_row_without_an_exchange_is_rebuilt_from_its_diff() -> None:
    after = {**lab.FILES, "optim.py": lab.FILES["optim.py"].replace(b"0.04", b"0.06")}
    diff = canonical_diff(lab.FILES, after).encode()
    rows = [lab.row(1, proposer="catalogue", diff_sha256=sha256(diff), edit_kind="number")]
    replay = ReplayProposer(records_of(lab.view(rows)), {sha256(diff): diff}.__getitem__)
    proposal = replay.propose(lab.request())
    assert proposal.proposer == "catalogue" and proposal.edit_kind == "number"
    assert apply_edits(lab.FILES, proposal.edits) == after


def test_the_parent_is_found_by_its_source_when_ids_differ() -> None:
    after = {**lab.FILES, "optim.py": lab.FILES["optim.py"].replace(b"0.04", b"0.06")}
    diff = canonical_diff(lab.FILES, after).encode()
    old = [
        lab.row(1, source_sha256="d" * 64, status=Status.KEEP, score=2.2, role="arch"),
        lab.row(2, parent="t0001", diff_sha256=sha256(diff)),
    ]
    fetch = {sha256(diff): diff}.__getitem__
    shifted = [
        lab.row(1, role="arch", source_sha256="e" * 64),
        lab.row(5, source_sha256="d" * 64, role="arch"),
    ]
    replay = ReplayProposer(records_of(lab.view(old)), fetch)
    assert replay.propose(lab.request(shifted)).parent == "t0005"
    with pytest.raises(ProposerUnusable, match="not in this campaign yet"):
        ReplayProposer(records_of(lab.view(old)), fetch).propose(lab.request(shifted[:1]))


def test_a_role_waits_for_a_parent_that_another_role_has_not_made_yet() -> None:
    old = [
        lab.row(1, source_sha256="d" * 64, status=Status.KEEP, score=2.2, role="arch"),
        lab.row(2, parent="t0001", diff_sha256="f" * 64),
    ]
    diff = canonical_diff(lab.FILES, {**lab.FILES, "optim.py": b"LR = 0.06\n"}).encode()
    replay = ReplayProposer(records_of(lab.view(old)), lambda _: diff)
    with pytest.raises(ProposerOutage, match="not in this campaign yet") as caught:
        replay.propose(lab.request())
    assert caught.value.retry_after and caught.value.retry_after <= 1
    assert replay.propose(lab.request([lab.row(1, role="arch", source_sha256="d" * 64)])).parent == "t0001"


def test_a_replay_that_is_begun_again_goes_on_where_its_lineage_stands() -> None:
    after = {**lab.FILES, "optim.py": lab.FILES["optim.py"].replace(b"0.04", b"0.06")}
    diff = canonical_diff(lab.FILES, after).encode()
    rows = [lab.row(n, diff_sha256=sha256(diff), hypothesis=f"idea {n}") for n in (1, 2)]
    replay = ReplayProposer(records_of(lab.view(rows)), lambda _: diff)
    assert [replay.propose(lab.request(rows[:n])).hypothesis for n in (0, 0, 1)] == [
        "idea 1",
        "idea 1",
        "idea 2",
    ]


def test_the_exchange_names_its_prompt_and_holds_no_address(endpoint: pytest.MonkeyPatch) -> None:
    proposal = recorded(endpoint, SESSION)
    record = json.loads(proposal.exchange)
    assert record["prompt_sha256"] == sha256(proposal.prompt.encode()) and record["prompt"] == ""
    assert record["host"] == "127.0.0.1" and "http://" not in proposal.exchange
    assert len(proposal.exchange) < 12_000


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"format": "bakeoff.exchange/9"}'])
def test_other_bytes_are_named_as_such(data: bytes) -> None:
    with pytest.raises(StoreCorrupt):
        read_exchange(data)


def test_an_edit_that_was_moved_to_a_new_leader_is_replayed_on_that_leader(
    endpoint: pytest.MonkeyPatch,
) -> None:
    proposal = recorded(endpoint, SESSION)
    assert proposal.parent == "t0000"
    data = proposal.exchange.encode()
    faster = lab.row(1, role="arch", status=Status.KEEP, score=2.2, source_sha256="d" * 64)
    rows = [faster, as_row(2, data, parent="t0001", parent_sha256="d" * 64)]
    replay = ReplayProposer(records_of(lab.view(rows)), {sha256(data): data}.__getitem__)
    with pytest.raises(ProposerOutage, match="t0002 was built on t0001"):
        replay.propose(lab.request())
    again = replay.propose(lab.request([faster]))
    assert (again.parent, again.edits) == ("t0001", proposal.edits)
