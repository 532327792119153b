"""The record of a session as JSON: replies of the model and what was sent to it, without the prompt.

Format `bakeoff.exchange/1`. The prompt is stored by hash beside it, so it is named here and only
included when the session ended in a fault (a fault leaves no Proposal that could contain it). Together they are
the whole conversation (`tests/fakes/rerun.py` runs it again). Headers, keys and addresses are never
part of it, and the text is searched for credentials before it is returned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents.llm.model_call import ContentBlock, Reply
from agents.llm.prompt import Prompt
from agents.protocol import ProposalRequest
from lineage.errors import ProposerFault, StoreCorrupt
from lineage.ids import sha256
from lineage.records import AgentFacts, Proposal, Usage
from lineage.safe_text import redact

FORMAT = "bakeoff.exchange/1"


@dataclass
class Turn:
    """One question: failed attempts, the reply if there was one, and what was sent back."""

    faults: list[str] = field(default_factory=list)
    reply: Reply | None = None
    sent: list[ContentBlock] | None = None
    seconds: float = 0.0


def _reply(reply: Reply) -> dict[str, Any]:
    return {
        "content": list(reply.content),
        "stop_reason": reply.stop_reason,
        "stop_details": dict(reply.stop_details),
        "usage": reply.usage.model_dump(mode="json"),
        "usage_estimated": reply.usage_estimated,
        "bad_inputs": dict(reply.bad_inputs),
        "model": reply.model,
        "id": reply.request_id,
    }


def exchange_json(
    *,
    proposer: str,
    host: str,
    model: str,
    request: ProposalRequest,
    prompt: Prompt,
    turns: Sequence[Turn],
    usage: Usage,
    proposal: Proposal | None,
    fault: ProposerFault | None,
    agent: Mapping[str, Any] | None = None,
) -> str:
    """The exchange as text. `host` is a host name; user names and ports stay out.

    `agent`: facts and output of a coding agent, in place of turns.
    """
    fault_json = (
        None
        if fault is None
        else {
            "type": type(fault).__name__,
            "message": str(fault),
            "retry_after": getattr(fault, "retry_after", None),
        }
    )
    record = {
        "format": FORMAT,
        "proposer": proposer,
        "host": host,
        "model": model,
        "role": request.role.name,
        "arm": request.arm,
        "seed": request.seed,
        "parent": prompt.parent,
        "prompt_sha256": sha256(prompt.text.encode()),
        "prompt": prompt.text if fault is not None else "",
        "turns": [
            {
                "faults": turn.faults,
                "reply": None if turn.reply is None else _reply(turn.reply),
                "sent": turn.sent,
                "seconds": turn.seconds,
            }
            for turn in turns
        ],
        "usage": usage.model_dump(mode="json"),
        "proposal": None
        if proposal is None
        else proposal.model_dump(mode="json", exclude={"prompt", "exchange"}),
        "fault": fault_json,
        **({} if agent is None else {"agent": dict(agent)}),
    }
    return redact(json.dumps(record, ensure_ascii=False, allow_nan=False))


def read_exchange(data: bytes) -> dict[str, Any]:
    """A stored exchange; StoreCorrupt when the bytes are none."""
    try:
        record = json.loads(data)
    except ValueError as e:
        raise StoreCorrupt(f"an exchange of {len(data)} bytes is not JSON: {e}") from e
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise StoreCorrupt(f"not a recorded exchange: format {found!r}, expected {FORMAT!r}")
    return record


def agent_of(record: Mapping[str, Any]) -> AgentFacts | None:
    """The facts of the coding agent that made an exchange; None where none did."""
    found = record.get("agent")
    if not isinstance(found, dict):
        return None
    return AgentFacts.model_validate({k: v for k, v in found.items() if k in AgentFacts.model_fields})
