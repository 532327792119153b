"""Twelve trials, three roles, one endpoint: sessions, edits, surface and lineage together.

The judge's part is played by a table of outcomes; everything on the agents' side is real: SDK,
sockets, prompt from the growing lineage, tools, edits, surface check, ledger. The repairs come from
the prompt itself: the scripted model reads the number there and acts on it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from agents.edits.normal_form import ast_hash
from agents.edits.role_surface import check_surface
from agents.edits.search_replace import Files, apply_edits
from agents.llm.anthropic_proposer import anthropic_proposer
from agents.llm.ledger import Cap, Caps, Ledger, all_tokens
from agents.llm.model_call import RetryPolicy
from agents.llm.proposing_session import SessionSettings
from agents.llm.replay_proposer import ReplayProposer, records_of
from lineage.environment_spec import Role
from lineage.errors import EditRefused, ProposerOutage, ProposerRefused, ProposerUnusable
from lineage.ids import sha256, tree_hash
from lineage.records import Proposal, Row, Status, Usage
from tests.fakes import lab
from tests.fakes.brain import prompt_of, team
from tests.fakes.messages_server import FakeMessages
from tests.fakes.script import Json, Step, refusal, status, text, thinking_then, tool_use, tool_uses

LOOP = Role(name="loop", surfaces=("loop",), brief="# Loop\n\nYou own EPOCHS.", max_changed_lines=10)
ROLES = {"opt": lab.OPT, "arch": lab.ARCH, "loop": LOOP}


def edit(path: str, search: str, replace: str) -> tuple[str, Json]:
    return "replace", {"path": path, "search": search, "replace": replace}


def submit(words: str) -> tuple[str, Json]:
    return "submit", {"hypothesis": words, "expected_delta": -0.05}


def repair_size(body: Json) -> Step:
    """Frees what the prompt says was over: without the number in the prompt there is nothing to do."""
    found = re.search(r"\[arch\] size_blocked:oversize; bytes_over=(\d+)", prompt_of(body))
    assert found is not None, "the number is not in the prompt of the role that failed"
    width = 64 - int(found[1]) // 512
    return tool_uses(
        [edit("model.py", "WIDTH = 64", f"WIDTH = {width}"), submit(f"Narrow to {width}: {found[1]} bytes")]
    )


def repair_gate(body: Json) -> Step:
    found = re.search(r"\[opt\] disqualified:gate_missed; .*?short_by=([0-9.]+)", prompt_of(body))
    assert found is not None
    return tool_uses(
        [edit("optim.py", "WARMUP = 0.1", "WARMUP = 0.05"), submit(f"Give back {found[1]} of accuracy")]
    )


PLANS: dict[str, list[list[Any]]] = {
    "opt": [
        [
            thinking_then(tool_use("view", {"path": "optim.py", "first": 1, "last": 4})),
            tool_uses([("search", {"text": "LR"}), edit("optim.py", "LR = 0.4", "LR = 0.06")]),
            tool_uses([edit("optim.py", "LR = 0.04", "LR = 0.06"), ("check", {})]),
            tool_use(*submit("A higher rate settles sooner")),
        ],
        [repair_gate],
        [text("HYPOTHESIS: No warm-up.\noptim.py\n<<<<<<< SEARCH\nWARMUP = 0.05\n=======\nWARMUP = 0.0\n>>>>>>> REPLACE")],
        [
            tool_use("choose_parent", {"trial": "t0000"}),
            tool_uses([edit("optim.py", "LR = 0.04", "LR = 0.06"), submit("The same as t0001")]),
            tool_uses([edit("optim.py", "LR = 0.06", "LR = 0.05"), submit("Less than t0001")]),
        ],
    ],
    "arch": [
        [tool_uses([edit("model.py", "WIDTH = 64", "WIDTH = 256"), submit("Wider")])],
        [repair_size],
        [refusal()],
        [tool_use("read_trial", {"trial": "t0004"}), tool_use("diff_trials", {"first": "t0000", "second": "t0004"}),
         tool_uses([edit("model.py", "return [WIDTH % 256]", "return [WIDTH % 128]"), submit("Fewer")])],
    ],
    "loop": [
        [tool_uses([edit("predict.py", "return inputs", "return inputs * 2"), submit("Outside")])],
        [status(529)],
        [tool_uses([("insert", {"path": "optim.py", "text": "X = 1"}), submit("Outside too")])],
        [tool_use("choose_parent", {"trial": "t0004"}), tool_uses([edit("train.py", "EPOCHS = 12", "EPOCHS = 9"), submit("Shorter")])],
        [text("I have no idea.")],
    ],
}  # fmt: skip
OUTCOMES: dict[str, tuple[Status, str | None, dict[str, float | int | str], float | None]] = {
    "A higher rate": (
        Status.DISQUALIFIED,
        "gate_missed",
        {"short_by": 0.0012, "gate": "accuracy", "gate_limit": 0.96},
        2.1,
    ),
    "Wider": (Status.SIZE_BLOCKED, "oversize", {"bytes_over": 2056, "cap_bytes": 16_000_000}, None),
    "Narrow to 60": (Status.KEEP, None, {"bytes_to_spare": 4070}, 2.2),
    "Give back 0.0012": (Status.KEEP, None, {"train_cpu_to_spare_s": 7.5}, 2.15),
    "Fewer": (Status.CRASH, "crash", {"exception": "ValueError: no width", "line": "model.py:5"}, None),
}


class Campaign:
    """The engine's part, as small as it can be: apply, check the surface, label from the table."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.trees: dict[str, Files] = {"t0000": lab.FILES}
        self.exchanges: dict[str, bytes] = {}

    def request(self, role: str) -> Any:
        return lab.request(self.rows, ROLES[role], trees=self.trees)

    def record(self, role: str, ended: Proposal | ProposerRefused | ProposerUnusable) -> None:
        number = len(self.rows) + 1
        trial = f"t{number:04d}"
        exchange = ended.exchange.encode() if isinstance(ended, Proposal) else ended.exchange or b""
        self.exchanges[sha256(exchange)] = exchange
        more: dict[str, Any] = {"exchange_sha256": sha256(exchange)}
        usage = ended.usage if isinstance(ended.usage, Usage) else Usage()
        more |= usage.model_dump(exclude={"calls", "price_table"})
        if isinstance(ended, Proposal):
            more |= {"parent": ended.parent, "hypothesis": ended.hypothesis}
            outcome, after = self._judge(role, ended)
            if after is not None:
                self.trees[trial] = after
                more |= {"source_sha256": tree_hash(after), "ast_sha256": ast_hash(after)}
            more["parent_sha256"] = tree_hash(self.trees[ended.parent])
        else:
            outcome = (
                Status.REJECTED,
                "refused" if isinstance(ended, ProposerRefused) else "bad_edit",
                {},
                None,
            )
        found, cause, numbers, score = outcome
        delta = None if score is None else score - 2.3
        self.rows.append(
            lab.row(
                number, role, found, cause=cause, numbers=numbers, score=score, delta_parent=delta, **more
            )
        )

    def _judge(self, role: str, proposal: Proposal) -> Any:
        before = self.trees[proposal.parent]
        try:
            after = apply_edits(before, proposal.edits)
            check_surface(lab.SPEC, ROLES[role], before, after)
        except EditRefused as e:
            return (Status.REJECTED, e.cause, e.numbers, None), None
        hit = next((v for k, v in OUTCOMES.items() if proposal.hypothesis.startswith(k)), None)
        return hit or (Status.DISCARD, None, {"train_cpu_to_spare_s": 3.0}, 2.35), after


def test_a_campaign_of_twelve_trials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "test-key-1234567890")
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path / "absent"))
    campaign, ledger = Campaign(), Ledger(Caps(campaign=Cap(usd=5.0)))
    outages = 0
    with FakeMessages(team(PLANS)) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        proposer = anthropic_proposer(SessionSettings(retry=RetryPolicy(attempts=1)), ledger)
        for role in ("opt", "arch", "loop") * 4:
            while True:
                try:
                    ended: Any = proposer.propose(campaign.request(role))
                except ProposerOutage:
                    outages += 1  # the engine waits and asks again; no trial is recorded
                    continue
                except (ProposerRefused, ProposerUnusable) as fault:
                    ended = fault
                campaign.record(role, ended)
                break
        proposer.close()
    rows = campaign.rows
    labels = [f"{r.role} {r.status}{':' + r.cause if r.cause else ''}" for r in rows]
    assert labels == [
        "opt disqualified:gate_missed",
        "arch size_blocked:oversize",
        "loop rejected:outside_surface",
        "opt keep",
        "arch keep",
        "loop rejected:outside_surface",
        "opt discard",
        "arch rejected:refused",
        "loop discard",
        "opt discard",
        "arch crash:crash",
        "loop rejected:bad_edit",
    ]
    assert (
        rows[3].hypothesis == "Give back 0.0012 of accuracy"
        and rows[4].hypothesis == "Narrow to 60: 2056 bytes"
    )
    assert rows[8].parent == "t0004" and rows[9].parent == "t0000"
    assert rows[9].hypothesis == "Less than t0001", "the duplicate was sent back and repaired"
    assert outages == 1
    assert ledger.spent().calls >= 20
    rebuilt = Ledger().rebuilt(rows).spent()
    assert all_tokens(rebuilt) == all_tokens(ledger.spent())
    assert rebuilt.usd == pytest.approx(ledger.spent().usd)
    assert all(json.loads(data)["format"] == "bakeoff.exchange/1" for data in campaign.exchanges.values())
    replayed(campaign)


def replayed(campaign: Campaign) -> None:
    """The same campaign again from its record, with no endpoint."""
    replay = ReplayProposer(records_of(lab.view(campaign.rows)), campaign.exchanges.__getitem__)
    again = Campaign()
    for role in ("opt", "arch", "loop") * 4:
        try:
            ended: Any = replay.propose(again.request(role))
        except (ProposerRefused, ProposerUnusable) as fault:
            ended = fault
        again.record(role, ended)
    for field in ("role", "status", "cause", "parent", "hypothesis", "source_sha256", "ast_sha256"):
        assert [getattr(r, field) for r in again.rows] == [getattr(r, field) for r in campaign.rows], field
