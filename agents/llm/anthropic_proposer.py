"""The `anthropic` proposer: a tool-using session with a model behind the Messages API.

    proposer = anthropic_proposer(SessionSettings(model="claude-opus-5-5"), ledger)
    proposal = proposer.propose(request)

Works with Anthropic's API and with any server that speaks it at ANTHROPIC_BASE_URL (llama.cpp, vLLM,
Ollama, LM Studio, gateways); key and address come from the environment alone. `ask_once` makes one
tiny call, to show before a campaign that key, model and price are in order.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from agents.llm.anthropic_client import AnthropicChat
from agents.llm.ledger import Ledger
from agents.llm.model_call import CallFault, Chat, ModelCall, within
from agents.llm.model_proposer import SessionProposer
from agents.llm.prices import Prices, load_prices
from agents.llm.proposing_session import DEFAULT_MODEL, SessionSettings
from lineage.errors import ProposerOutage, UsageError
from lineage.safe_text import for_terminal


def anthropic_proposer(
    settings: SessionSettings | None = None,
    ledger: Ledger | None = None,
    prices: Prices | None = None,
    cancel: threading.Event | None = None,
) -> SessionProposer:
    """A proposer on the environment's endpoint. Makes no call yet; `close()` it at the end."""
    return SessionProposer(AnthropicChat(), settings, ledger, prices, cancel)


def ask_once(
    model: str = DEFAULT_MODEL, prices: Prices | None = None, chat: Chat | None = None, seconds: float = 60.0
) -> dict[str, Any]:
    """One tiny call: endpoint, model, reply, tokens, dollars, seconds.

    Raises UsageError when a person must act (key, model name, address, price), ProposerOutage when
    asking again later may help.
    """
    own = chat or AnthropicChat()
    table = prices or load_prices()
    rate, version = table.rate(model, own.host)
    question = [{"role": "user", "content": "Answer with the one word: ready"}]
    call = ModelCall(model=model, system="", messages=question, max_tokens=64, thinking=False)
    began = time.monotonic()
    try:
        reply = within(seconds, lambda stop: own.send(call, seconds, stop), own.host)
    except CallFault as fault:
        if fault.kind in ("blocked", "rejected"):
            raise UsageError(f"the endpoint cannot be used as set up: {fault}") from fault
        raise ProposerOutage(str(fault), retry_after=fault.retry_after) from fault
    finally:
        close = getattr(own, "close", None)
        if chat is None and close is not None:
            close()
    usage = table.priced(model, reply.usage, host=own.host)
    return {
        "proposer": own.name,
        "host": own.host,
        "key": getattr(own, "key_source", ""),
        "model": model,
        "answered_by": reply.model,
        "reply": for_terminal(reply.text)[:200],
        "stop_reason": reply.stop_reason,
        "tokens_in": usage.tokens_in + usage.tokens_cache_read + usage.tokens_cache_write,
        "tokens_out": usage.tokens_out,
        "usage_estimated": reply.usage_estimated,
        "usd": usage.usd,
        "price_input": rate.input,
        "price_output": rate.output,
        "price_table": version,
        "seconds": round(time.monotonic() - began, 3),
    }
