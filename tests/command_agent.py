"""A coding agent that is a shell script: what tests of the `command` proposer are made of. The box is real."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from agents.command.agent_box import AgentBox
from agents.command.preset import AgentPreset, Report, ReportRule, own_command
from agents.command.proposer import AgentSettings, CommandProposer
from agents.protocol import ProposalRequest
from flows.machine.agent_box import agent_box
from lineage.errors import IsolationRefused

EDIT = "sed -i 's/^LR = 0.04/LR = 0.05/' optim.py"
NOTE = "printf -- '---\\nhypothesis: A higher rate\\nexpected_delta: -0.1\\nedit_kind: number\\n---\\nTry more.\\n' > PROPOSAL.md"
USAGE = Report(
    format="lines",
    each=(ReportRule(match={"type": "step"}, once="id", tokens_in="in", tokens_out="out", usd="usd"),),
    final=(
        ReportRule(
            match={"type": "end"}, message="said", usd="usd", turns="turns", error="failed", model="model"
        ),
    ),
)


@functools.lru_cache(maxsize=1)
def _box() -> AgentBox | str:
    try:
        return agent_box(False)
    except IsolationRefused as refused:
        return str(refused)


def box() -> AgentBox:
    found = _box()
    if isinstance(found, str):
        pytest.skip(found)
    return found


def script(folder: Path, text: str, name: str = "agent.sh") -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat > /dev/null\n{text}\n")
    path.chmod(0o755)
    return path


def agent(
    folder: Path, text: str, *, report: Report | None = None, trusted: bool = False, **more: Any
) -> CommandProposer:
    """A proposer whose agent is this script. `more` are fields of `AgentSettings`, or of `CommandProposer`."""
    preset: AgentPreset = own_command([str(script(folder, text))])
    if report is not None:
        preset = preset.model_copy(update={"report": report})
    own = {key: more.pop(key) for key in ("ledger", "cancel", "environ") if key in more}
    chosen = AgentSettings(**{"seconds": 20.0, **more})
    return CommandProposer(preset, agent_box(True) if trusted else box(), chosen, **own)


def propose(folder: Path, text: str, request: ProposalRequest, **more: Any) -> Any:
    return agent(folder, text, **more).propose(request)
