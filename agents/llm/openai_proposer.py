"""The `openai` proposer: the same session with a model behind a chat completions endpoint.

    proposer = openai_proposer(SessionSettings(model="qwen3-coder"), ledger)

There is no default model: every such endpoint has its own names. See agents.llm.openai_client for the
environment variables and the limits.
"""

from __future__ import annotations

import threading

from agents.llm.ledger import Ledger
from agents.llm.model_proposer import SessionProposer
from agents.llm.openai_client import OpenAIChat
from agents.llm.prices import Prices
from agents.llm.proposing_session import DEFAULT_MODEL, SessionSettings
from lineage.errors import UsageError


def openai_proposer(
    settings: SessionSettings,
    ledger: Ledger | None = None,
    prices: Prices | None = None,
    cancel: threading.Event | None = None,
) -> SessionProposer:
    """A proposer on the environment's endpoint. Makes no call yet; `close()` it at the end."""
    if settings.model in ("", DEFAULT_MODEL):
        raise UsageError(
            f"the openai proposer needs a model that its endpoint has, not {settings.model!r}; "
            "give model = NAME in campaign.toml or --model NAME"
        )
    return SessionProposer(OpenAIChat(), settings, ledger, prices, cancel)
