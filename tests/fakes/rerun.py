"""A recorded session again: the recorded replies go through the session loop and its tools."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from agents.llm.ledger import Ledger
from agents.llm.model_call import CallFault, ModelCall, Reply
from agents.llm.prices import FREE, Prices
from agents.llm.prompt import render
from agents.llm.proposing_session import SessionSettings, run_session
from agents.protocol import ProposalRequest
from lineage.records import Proposal, Usage


def recorded_replies(record: dict[str, Any]) -> list[Reply]:
    """The model's replies in order, as they came."""
    replies = []
    for turn in record["turns"]:
        raw = turn["reply"]
        if raw is not None:
            replies.append(
                Reply(
                    content=tuple(raw["content"]),
                    stop_reason=raw["stop_reason"],
                    usage=Usage.model_validate(raw["usage"]),
                    model=raw["model"],
                    request_id=raw["id"],
                    stop_details=raw["stop_details"],
                    usage_estimated=raw["usage_estimated"],
                    bad_inputs=raw["bad_inputs"],
                )
            )
    return replies


class RecordedChat:
    """A chat that answers with recorded replies in order, whatever it is asked."""

    def __init__(self, name: str, host: str, replies: Sequence[Reply]) -> None:
        self.name, self.host = name, host
        self._replies = list(replies)

    def send(self, call: ModelCall, seconds: float, stop: threading.Event) -> Reply:
        if not self._replies:
            raise CallFault("blocked", "the recording ends here")
        return self._replies.pop(0)


def rerun(record: dict[str, Any], request: ProposalRequest) -> Proposal:
    """The Proposal that the recorded replies lead to when they go through the tools again."""
    chat = RecordedChat(record["proposer"], record["host"], recorded_replies(record))
    prices = Prices("replay", {record["model"]: FREE})
    settings = SessionSettings(model=record["model"], max_turns=max(1, len(record["turns"])))
    return run_session(chat, request, render(request), settings, Ledger(), prices, "rerun")
